// The tape: recording, and the reverse walk.
#include "autograd/tape.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "tensor/error.h"
#include "tensor/ops/accumulate.h"

namespace taper {
namespace {

std::vector<const Op*>& op_table() {
  static std::vector<const Op*> ops;
  return ops;
}

const Op leaf_op{"leaf", {}, {"value"}};

size_t index_of(const std::vector<const char*>& names, std::string_view wanted, const char* op) {
  for (size_t i = 0; i < names.size(); ++i)
    if (wanted == names[i]) return i;
  std::string all;
  for (const char* n : names) all += (all.empty() ? "" : ", ") + std::string(n);
  fail("{}: no edge called '{}'; its edges are {}", op, wanted, all);
}

LedgerEntry measure(const std::string& edge, const Tensor& d) {
  LedgerEntry e{edge, 0, 0, 0, 0};
  double squares = 0;
  int64_t zeros = 0;
  for (double x : to_doubles(d)) {
    if (!std::isfinite(x)) {
      ++e.non_finite;
      continue;
    }
    squares += x * x;
    e.max = std::max(e.max, std::abs(x));
    zeros += x == 0;
  }
  e.norm = std::sqrt(squares);
  e.zeros = d.numel() ? double(zeros) / double(d.numel()) : 0;
  return e;
}

// One node's turn in the walk.
class Step final : public Flow {
 public:
  Step(const Node& node, std::vector<std::vector<Tensor>>& grads, int id, const std::set<std::pair<int, size_t>>& cut,
       const BackwardOptions& options)
      : node_(node), grads_(grads), id_(id), cut_(cut), options_(options), answered_(node.inputs.size()) {}

  bool has(std::string_view output) const override { return bool(slot(output)); }

  const Tensor& from(std::string_view output) const override {
    const Tensor& d = slot(output);
    check(bool(d), "{}: no cotangent came for '{}'; ask has() first", node_.label(), output);
    return d;
  }

  bool wants(std::string_view input) const override { return wanted(index_of(node_.op->inputs, input, node_.op->name)); }

  void to(std::string_view input, Tensor d) override {
    const size_t i = index_of(node_.op->inputs, input, node_.op->name);
    answered_[i] = true;
    if (!wanted(i)) return;
    const Edge edge = node_.inputs[i];
    const Shape& shape = shape_of_(edge);
    check(d.shape() == shape, "{}: the gradient of {} must be {}; the rule sent {}", node_.edge_label(i), shape.text(),
          shape.text(), d.shape().text());
    if (options_.ledger) options_.ledger(measure(node_.edge_label(i), d));
    Tensor& sum = grads_[size_t(edge.node)][size_t(edge.output)];
    if (!sum) {
      sum = std::move(d);
      return;
    }
    // In place only into memory nobody else holds: an op may send one tensor down two edges.
    if (!sum.unique()) sum = clone(sum);
    kernels::accumulate({.sum = sum, .d = d});
  }

  void none(std::string_view input, std::string_view) override {
    answered_[index_of(node_.op->inputs, input, node_.op->name)] = true;
  }

  void finish() const {
    for (size_t i = 0; i < answered_.size(); ++i)
      check(answered_[i] || !wanted(i), "{}: the rule left this edge without a gradient; send it with to(), or none() with a reason",
            node_.edge_label(i));
  }

  std::function<const Shape&(Edge)> shape_of_;

 private:
  bool wanted(size_t i) const { return node_.inputs[i].node >= 0 && !cut_.contains({id_, i}); }
  const Tensor& slot(std::string_view output) const {
    return grads_[size_t(id_)][index_of(node_.op->outputs, output, node_.op->name)];
  }

  const Node& node_;
  std::vector<std::vector<Tensor>>& grads_;
  const int id_;
  const std::set<std::pair<int, size_t>>& cut_;
  const BackwardOptions& options_;
  std::vector<bool> answered_;
};

std::set<std::pair<int, size_t>> resolve(const std::vector<Node>& nodes, const std::vector<std::string>& cut) {
  std::set<std::pair<int, size_t>> edges;
  for (const std::string& wanted : cut) {
    bool found = false;
    for (size_t n = 0; n < nodes.size(); ++n)
      for (size_t i = 0; i < nodes[n].inputs.size(); ++i)
        if (nodes[n].inputs[i].node >= 0 && nodes[n].edge_label(i) == wanted) edges.insert({int(n), i}), found = true;
    check(found, Exit::usage, "backward: no edge is called '{}'; `taper audit CONFIG --ledger` lists them", wanted);
  }
  return edges;
}

}  // namespace

Op::Op(const char* name, std::vector<const char*> inputs, std::vector<const char*> outputs)
    : name(name), inputs(std::move(inputs)), outputs(std::move(outputs)) {
  op_table().push_back(this);
}

const std::vector<const Op*>& registered_ops() { return op_table(); }

std::string Node::label() const {
  return (scope.empty() ? "" : scope + "/") + op->name + (index ? "#" + std::to_string(index) : "");
}
std::string Node::edge_label(size_t input) const { return label() + "." + op->inputs.at(input); }

Var Tape::leaf(const std::string& name, const Tensor& value) {
  if (!recording_) return constant(value);
  check(!name.empty(), "tape: a leaf must have a name; got ''");
  auto [it, fresh] = leaves_.try_emplace(name, int(nodes.size()));
  if (fresh) {
    Node node;
    node.op = &leaf_op;
    node.scope = name;
    node.shapes = {value.shape()};
    node.dtype = value.dtype();
    nodes.push_back(std::move(node));
  } else {
    check(nodes[size_t(it->second)].shapes[0] == value.shape(), "tape: leaf '{}' must keep its shape {}; got {}", name,
          nodes[size_t(it->second)].shapes[0].text(), value.shape().text());
  }
  return {value, this, it->second, 0};
}

int Tape::find_leaf(std::string_view name) const {
  const auto it = leaves_.find(name);
  return it == leaves_.end() ? -1 : it->second;
}

int Tape::number_in_scope(const Op& op) { return counts_[scope + "/" + op.name]++; }

Scope::Scope(Tape& tape, std::string_view name) : tape_(tape), before_(tape.scope) {
  if (!tape.scope.empty()) tape.scope += '.';
  tape.scope += name;
}

std::vector<Var> record(const Op& op, std::vector<Var> inputs, const std::vector<Tensor>& outs, Backward backward) {
  check(inputs.size() == op.inputs.size() && outs.size() == op.outputs.size(),
        "{}: record wants {} inputs and {} outputs; got {} and {}", op.name, op.inputs.size(), op.outputs.size(),
        inputs.size(), outs.size());
  std::vector<Var> vars;
  for (const Tensor& t : outs) vars.push_back(constant(t));
  Tape* tape = nullptr;
  for (const Var& v : inputs) {
    if (!v.tracked()) continue;
    check(!tape || tape == v.tape, "{}: its inputs must be on one tape; got two", op.name);
    tape = v.tape;
  }
  if (!tape) return vars;
  Node node;
  node.op = &op;
  node.scope = tape->scope;
  node.index = tape->number_in_scope(op);
  for (const Var& v : inputs) node.inputs.push_back({v.node, v.output});
  for (const Tensor& t : outs) node.shapes.push_back(t.shape());
  node.dtype = outs[0].dtype();
  node.backward = std::move(backward);
  tape->nodes.push_back(std::move(node));
  if (tape->watch)
    for (size_t i = 0; i < outs.size(); ++i)
      if (outs[i]) tape->watch(tape->nodes.back().label() + "." + op.outputs[i], outs[i]);
  for (size_t i = 0; i < vars.size(); ++i) {
    vars[i].tape = tape;
    vars[i].node = int(tape->nodes.size()) - 1;
    vars[i].output = int(i);
  }
  return vars;
}

Var record(const Op& op, std::vector<Var> inputs, const Tensor& out, Backward backward) {
  return record(op, std::move(inputs), std::vector<Tensor>{out}, std::move(backward))[0];
}

Var recomputed(Var y, std::function<Tensor()> again) {
  if (y.tape && y.tape->recompute) y.again = std::move(again);
  return y;
}

std::map<std::string, Tensor> backward(const std::vector<Var>& outputs, const std::vector<Tensor>& seeds,
                                       const BackwardOptions& options) {
  check(!outputs.empty() && outputs.size() == seeds.size(), "backward: want one seed for each output; got {} and {}",
        seeds.size(), outputs.size());
  Tape* tape = nullptr;
  for (const Var& v : outputs) {
    check(v.tracked(), "backward: the loss must depend on a leaf; it is a constant");
    check(!tape || tape == v.tape, "backward: all outputs must be on one tape");
    tape = v.tape;
  }
  auto& nodes = tape->nodes;
  const auto cut = resolve(nodes, options.cut);
  std::vector<std::vector<Tensor>> grads(nodes.size());  // by node, by output
  for (size_t i = 0; i < nodes.size(); ++i) grads[i].resize(nodes[i].shapes.size());
  int last = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    check(seeds[i].shape() == outputs[i].shape(), "backward: the seed must have the output's shape {}; got {}",
          outputs[i].shape().text(), seeds[i].shape().text());
    Tensor& sum = grads[size_t(outputs[i].node)][size_t(outputs[i].output)];
    if (sum) {
      sum = clone(sum);
      kernels::accumulate({.sum = sum, .d = seeds[i]});
    } else {
      sum = seeds[i];
    }
    last = std::max(last, outputs[i].node);
  }
  std::map<std::string, Tensor> leaves;
  for (int i = last; i >= 0; --i) {
    Node& node = nodes[size_t(i)];
    auto& mine = grads[size_t(i)];
    if (std::ranges::none_of(mine, [](const Tensor& d) { return bool(d); })) continue;
    if (node.op == &leaf_op) {
      if (options.into) options.into(node, mine[0]);
      else leaves.emplace(node.scope, mine[0]);
    } else {
      check(bool(node.backward), "backward: {} was walked before; pass keep = true to walk a tape twice", node.label());
      Step step(node, grads, i, cut, options);
      step.shape_of_ = [&](Edge e) -> const Shape& { return nodes[size_t(e.node)].shapes[size_t(e.output)]; };
      node.backward(step);
      step.finish();
      if (!options.keep) node.backward = nullptr;  // what it saved dies now, not with the tape
    }
    mine.clear();  // a cotangent lives until it is spent
    mine.resize(node.shapes.size());
  }
  return leaves;
}

std::map<std::string, Tensor> backward(const Var& loss, const Tensor& seed, const BackwardOptions& options) {
  return backward(std::vector<Var>{loss}, std::vector<Tensor>{seed}, options);
}

}  // namespace taper
