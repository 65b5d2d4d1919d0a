// Trace: two sweeps over the tape, the short climbs inside one module, and the dumps.
#include "autograd/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "tensor/error.h"

namespace taper {

std::vector<NamedEdge> slice(const Tape& tape, int loss, int leaf) {
  const auto& nodes = tape.nodes;
  check(0 <= leaf && leaf <= loss && loss < int(nodes.size()), "slice: want 0 <= leaf <= loss < {}; got {} and {}",
        nodes.size(), leaf, loss);
  std::vector<char> above(nodes.size()), below(nodes.size());  // reached from leaf; reaches loss
  above[size_t(leaf)] = below[size_t(loss)] = 1;
  for (int i = leaf; i <= loss; ++i)
    for (Edge e : nodes[size_t(i)].inputs) above[size_t(i)] |= e.node >= 0 && above[size_t(e.node)];
  for (int i = loss; i >= leaf; --i)
    if (below[size_t(i)])
      for (Edge e : nodes[size_t(i)].inputs)
        if (e.node >= 0) below[size_t(e.node)] = 1;

  std::vector<NamedEdge> edges;
  for (int i = leaf; i <= loss; ++i)
    for (size_t k = 0; k < nodes[size_t(i)].inputs.size(); ++k)
      if (const int from = nodes[size_t(i)].inputs[k].node; from >= 0 && above[size_t(from)] && below[size_t(i)])
        edges.push_back({from, i, nodes[size_t(i)].edge_label(k)});
  return edges;
}

namespace {

struct Step {
  int node;
  size_t input;
};

bool within(std::string_view scope, std::string_view of) {
  return of.starts_with(scope) && (of.size() == scope.size() || of[scope.size()] == '.' || scope.empty());
}

void climb(const Tape& tape, std::string_view scope, int at, std::vector<Step>& path, std::vector<std::vector<Step>>& out) {
  bool inside = false;
  for (size_t i = size_t(at) + 1; i < tape.nodes.size(); ++i)
    for (size_t k = 0; k < tape.nodes[i].inputs.size(); ++k)
      if (const Node& n = tape.nodes[i]; n.inputs[k].node == at && within(scope, n.scope)) {
        inside = true;
        path.push_back({int(i), k});
        climb(tape, scope, int(i), path, out);
        path.pop_back();
      }
  if (!inside) out.push_back(path);
}

std::vector<std::vector<Step>> climbs(const Tape& tape, std::string_view scope, int leaf) {
  check(0 <= leaf && leaf < int(tape.nodes.size()), "paths: no leaf with id {}", leaf);
  std::vector<std::vector<Step>> paths;
  std::vector<Step> path;
  climb(tape, scope, leaf, path, paths);
  return paths;
}

std::string folded(const std::string& scope, int depth) {
  size_t at = 0;
  for (int i = 0; i < depth && at != std::string::npos; ++i) at = scope.find('.', i ? at + 1 : 0);
  return scope.substr(0, at);
}

std::string quoted(const std::string& s) {
  std::string q = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') q += '\\';
    q += c;
  }
  return q + "\"";
}

}  // namespace

std::vector<std::string> paths_within(const Tape& tape, std::string_view scope, int leaf) {
  std::vector<std::string> out;
  for (const auto& path : climbs(tape, scope, leaf)) {
    std::string line = tape.nodes[size_t(leaf)].scope;
    for (const Step& s : path) {
      const Node& n = tape.nodes[size_t(s.node)];
      line += fmt::format(" > {}.{}", n.op->name, n.op->inputs[s.input]);
    }
    out.push_back(line);
  }
  return out;
}

std::vector<std::vector<std::string>> path_edges_within(const Tape& tape, std::string_view scope, int leaf) {
  std::vector<std::vector<std::string>> out;
  for (const auto& path : climbs(tape, scope, leaf)) {
    std::vector<std::string>& edges = out.emplace_back();
    for (const Step& s : path) edges.push_back(tape.nodes[size_t(s.node)].edge_label(s.input));
  }
  return out;
}

std::vector<std::string> edges_beside(const Tape& tape, int loss, int leaf, std::string_view edge) {
  const std::vector<NamedEdge> all = slice(tape, loss, leaf);
  const auto through = std::ranges::find(all, edge, &NamedEdge::name);
  check(through != all.end(), Exit::usage, "trace: no gradient of {} passes an edge called '{}'", tape.nodes[size_t(leaf)].scope, edge);
  // Nodes between the leaf and the edge's source: what leaves them elsewhere goes round the edge.
  std::set<int> before;
  for (const NamedEdge& e : slice(tape, through->from, leaf)) before.insert(e.from), before.insert(e.to);
  before.insert(leaf);
  before.insert(through->from);
  std::vector<std::string> beside;
  for (const NamedEdge& e : all)
    if (before.contains(e.from) && e.name != edge && (e.from == through->from || !before.contains(e.to))) beside.push_back(e.name);
  return beside;
}

std::string to_dot(const Tape& tape, int depth) {
  std::string s = "digraph tape {\n  rankdir=BT;\n  node [shape=box, fontsize=10];\n  edge [fontsize=8];\n";
  if (depth > 0) {
    std::set<std::string> lines;  // one line per pair of scopes: an edge inside a scope is folded away
    auto fold = [&](const Node& n) { return folded(n.scope, depth); };
    for (const Node& n : tape.nodes)
      for (Edge e : n.inputs)
        if (e.node >= 0)
          if (const std::string from = fold(tape.nodes[size_t(e.node)]), to = fold(n); from != to)
            lines.insert(fmt::format("  {} -> {};\n", quoted(from), quoted(to)));
    for (const auto& line : lines) s += line;
    return s + "}\n";
  }
  for (size_t i = 0; i < tape.nodes.size(); ++i) {
    const Node& n = tape.nodes[i];
    const bool leaf = n.inputs.empty();
    s += fmt::format("  n{} [label={}{}];\n", i, quoted(leaf ? n.scope : n.label() + " " + n.shapes[0].text()),
                     leaf ? ", style=filled, fillcolor=lightgrey" : "");
    for (size_t k = 0; k < n.inputs.size(); ++k)
      if (n.inputs[k].node >= 0) s += fmt::format("  n{} -> n{} [label={}];\n", n.inputs[k].node, i, quoted(n.op->inputs[k]));
  }
  return s + "}\n";
}

std::string to_json(const Tape& tape) {
  std::string s = "[\n";
  for (size_t i = 0; i < tape.nodes.size(); ++i) {
    const Node& n = tape.nodes[i];
    std::string inputs, shapes;
    for (size_t k = 0; k < n.inputs.size(); ++k)
      if (n.inputs[k].node >= 0)
        inputs += fmt::format("{}{{\"edge\":{},\"node\":{},\"output\":{}}}", inputs.empty() ? "" : ",",
                              quoted(n.op->inputs[k]), n.inputs[k].node, n.inputs[k].output);
    for (const Shape& shape : n.shapes) shapes += (shapes.empty() ? "" : ",") + shape.text();
    s += fmt::format("{{\"node\":{},\"op\":{},\"scope\":{},\"number\":{},\"dtype\":\"{}\",\"shapes\":[{}],\"inputs\":[{}]}}{}\n", i,
                     quoted(n.op->name), quoted(n.scope), n.index, name(n.dtype), shapes, inputs,
                     i + 1 < tape.nodes.size() ? "," : "");
  }
  return s + "]\n";
}

}  // namespace taper
