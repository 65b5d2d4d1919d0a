// audit: proves a configuration's model in f64: its gradients' paths, numbers and parts, and its decoding.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/golden.h"
#include "apps/json_text.h"
#include "autograd/gradcheck.h"
#include "autograd/trace.h"
#include "nn/prefill.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/random.h"

namespace taper {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  ConfigSource config;
  std::vector<std::string> aliases, cuts, goldens;
  bool gradcheck = false, ledger = false, decode = false;
  std::string dot, tape;
  int64_t batch = 2, steps = 24, layer = 0;
  int depth = 0, directions = 2, splits = 16;
};

constexpr double gradcheck_limit = 1e-6, additivity_limit = 1e-12, decode_limit = 1e-10;

// A small batch through the configuration's model: two documents a row, so that starts are audited too.
class Audited {
 public:
  Audited(const Options& o) : config_(o.config.load().model) {
    if (!config_.vocab) config_.vocab = 257;
    config_.dropout = 0;
    model_ = std::make_unique<LanguageModel>(config_, 42, cpu_, Dtype::f64);
    model_->fused = false;
    const Random random(42, "audit");
    std::vector<int32_t> ids, labels;
    for (int64_t i = 0; i < o.batch * o.steps; ++i) {
      ids.push_back(int32_t(random.below(uint64_t(2 * i), uint64_t(config_.vocab))));
      labels.push_back(int32_t(random.below(uint64_t(2 * i + 1), uint64_t(config_.vocab))));
    }
    ids_ = from_host<int32_t>(cpu_, {o.batch, o.steps}, ids);
    labels_ = from_host<int32_t>(cpu_, {o.batch, o.steps}, labels);
    if (o.steps > 2) packing_ = make_packing(cpu_, o.batch, o.steps, std::vector<std::vector<int64_t>>(size_t(o.batch), {2 * o.steps / 3}));
    // Nudged off the initial values: a zero bias or an even spectrum would hide a wrong gradient, and
    // small weights leave the decays so little to say that differences of the loss drown in rounding.
    for (Parameter* p : model_->parameters()) {
      std::vector<double> v = to_doubles(p->value);
      const Random nudge(42, "nudge " + p->name);
      const double size = p->value.rank() > 1 ? std::sqrt(double(p->value.size(0)) / double(p->value.numel())) : 0.1;
      for (size_t i = 0; i < v.size(); ++i) v[i] += size * nudge.normal(i);
      if (p->trainable) p->value = from_doubles(cpu_, p->value.shape(), Dtype::f64, v);
    }
    loss_ = mean(nll(tape_));
  }
  Var nll(Tape& tape) const { return model_->nll(tape, ids_, labels_, packing_); }
  std::map<std::string, Tensor> gradients(BackwardOptions options = {}) const {
    options.keep = true;
    return backward(loss_, full(cpu_, {}, Dtype::f64, 1), options);
  }
  LanguageModel& model() const { return *model_; }
  const Tape& tape() const { return tape_; }
  const Var& root() const { return loss_; }

  // "theta" and "delta" are the spectrum's parameters, which the reference's checkpoints spell in several ways.
  std::string leaf_named(const std::string& alias, int64_t layer) const {
    std::vector<const char*> spellings{alias.c_str()};
    if (alias == "theta") spellings = {"A_log_base", "w0_base"};
    if (alias == "delta") spellings = {"A_log_deltas", "A_log_delta", "w0_delta"};
    for (const char* s : spellings)
      if (const std::string name = fmt::format("layers.{}.mixer.{}", layer, s); tape_.find_leaf(name) >= 0) return name;
    fail(Exit::usage, "audit: no parameter '{}' has a gradient in layer {}'s mixer of {}", alias, layer, config_.arch);
  }
  bool has_spectrum() const { return config_.post && config_.post_options.spectrum; }

 private:
  ModelConfig config_;
  Device& cpu_ = open_device("cpu");
  std::unique_ptr<LanguageModel> model_;
  Tensor ids_, labels_;
  Packing packing_;
  Tape tape_;
  Var loss_;
};

double norm(const std::vector<double>& v) {
  double sum = 0;
  for (double x : v) sum += x * x;
  return std::sqrt(sum);
}

Json paths(const Audited& a, const Options& o) {
  Json out = Json::array();
  for (const std::string& alias : o.aliases)
    for (const std::string& line :
         paths_within(a.tape(), fmt::format("layers.{}.mixer", o.layer), a.tape().find_leaf(a.leaf_named(alias, o.layer))))
      out.push_back(line);
  return out;
}

// For each path from the leaf through the mixer, the first edge that no other of its paths takes (its first, if there is none).
std::vector<std::string> edges_of_one_path(const Audited& a, const std::string& leaf, int64_t layer) {
  const auto paths = path_edges_within(a.tape(), fmt::format("layers.{}.mixer", layer), a.tape().find_leaf(leaf));
  std::vector<std::string> edges;
  for (const auto& path : paths) {
    const auto own = std::ranges::find_if(path, [&](const std::string& edge) {
      return std::ranges::count_if(paths, [&](const auto& other) { return std::ranges::find(other, edge) != other.end(); }) == 1;
    });
    edges.push_back(own == path.end() ? path.front() : *own);
  }
  return edges;
}

// Every parameter, along random directions, and whether the worst passes.
Json gradcheck_all(const Audited& a, const Options& o) {
  std::vector<Parameter*> parameters;
  std::vector<NamedTensor> inputs;
  for (Parameter* p : a.model().parameters())
    if (p->trainable) parameters.push_back(p), inputs.push_back({p->name, p->value});
  const auto record = gradcheck(
      [&](Tape& tape, const std::vector<Var>& in) {
        for (size_t i = 0; i < in.size(); ++i) parameters[i]->value = in[i].value;
        return std::vector{a.nll(tape)};
      },
      inputs, {.directions = o.directions});
  for (size_t i = 0; i < inputs.size(); ++i) parameters[i]->value = inputs[i].value;
  Json edges = Json::array();
  for (const EdgeRecord& e : record.edges)
    edges.push_back({{"parameter", e.name}, {"error", e.worst}, {"analytic", e.analytic}, {"numeric", e.numeric}, {"norm", e.gradient_norm}});
  return {{"checks", record.checks()}, {"worst", record.worst()}, {"limit", gradcheck_limit},
          {"pass", record.worst() <= gradcheck_limit && !record.value_depends_on_recording}, {"parameters", edges}};
}

// The gradient without the edge, the gradient through it alone, and whether they add up to the whole.
Json cut(const Audited& a, const std::string& edge) {
  const auto whole = a.gradients(), without = a.gradients({.cut = {edge}, .ledger = {}, .into = {}});
  Json out = Json::array();
  for (const auto& [name, d] : whole) {
    const int leaf = a.tape().find_leaf(name);
    const auto edges = slice(a.tape(), a.root().node, leaf);
    if (std::ranges::find(edges, edge, &NamedEdge::name) == edges.end()) continue;
    const auto through = a.gradients({.cut = edges_beside(a.tape(), a.root().node, leaf, edge), .ledger = {}, .into = {}});
    const std::vector<double> w = to_doubles(d);
    auto of = [&](const auto& gradients) {
      const auto found = gradients.find(name);
      return found == gradients.end() ? std::vector<double>(w.size(), 0.0) : to_doubles(found->second);
    };
    std::vector<double> x = of(without), y = of(through), rest(w);
    for (size_t i = 0; i < w.size(); ++i) rest[i] -= x[i] + y[i];
    const double error = norm(rest) / std::max(norm(w), 1e-300);
    out.push_back({{"edge", edge}, {"parameter", name}, {"whole", norm(w)}, {"without", norm(x)}, {"through", norm(y)},
                   {"error", error}, {"pass", error <= additivity_limit}});
  }
  check(!out.empty(), Exit::usage, "audit: no parameter's gradient passes an edge called '{}'; --ledger lists the edges", edge);
  return out;
}

Json ledger(const Audited& a) {
  Json out = Json::array();
  a.gradients({.cut = {}, .ledger = [&](const LedgerEntry& e) {
                 out.push_back({{"edge", e.edge}, {"norm", e.norm}, {"max", e.max}, {"zeros", e.zeros}, {"non_finite", e.non_finite}});
               }, .into = {}});
  return out;
}

// One pass over a row against the same tokens in pieces: a prefill of random length, in a batch with a row that is padded
// left and right at random, then single steps, pieces and steps again. Worst: of the logits, relative.
Json decode_in_pieces(const Audited& a, const Options& o) {
  const Random random(42, "audit decode");
  uint64_t draws = 0;
  const auto below = [&](int64_t n) { return int64_t(random.below(draws++, uint64_t(n))); };
  const int64_t T = o.steps, V = a.model().embedding.value.size(0);
  Device& cpu = a.model().device;
  double worst = 0;
  for (int split = 0; split < o.splits; ++split) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < 2 * T; ++i) ids.push_back(int32_t(below(a.model().config.vocab)));
    const auto row = [&](int64_t b, int64_t begin, int64_t end) {
      return from_host<int32_t>(cpu, {1, end - begin}, std::vector<int32_t>(ids.begin() + b * T + begin, ids.begin() + b * T + end));
    };
    const auto differ = [&](const std::vector<double>& got, const Tensor& whole, int64_t begin) {
      const std::vector<double> all = to_doubles(whole);
      double difference = 0, size = 0;
      for (size_t i = 0; i < got.size(); ++i) {
        const double want = all[size_t(begin * V) + i];
        difference += (got[i] - want) * (got[i] - want);
        size += want * want;
      }
      const double error = std::sqrt(difference / size);
      worst = error <= worst ? worst : error;  // NaN is the worst
    };
    Tape tape = Tape::constants();
    const Tensor whole = a.model().logits(tape, row(0, 0, T), {}).value;
    // The second row has tokens [first, last) of its own inside the prefill's width, and goes on with what follows them.
    const int64_t width = 1 + below(T), first = below(width), last = first + 1 + below(width - first);
    const Tensor second = a.model().logits(tape, row(1, first, T), {}).value;
    ModelState state;
    const Tensor start = prefill(a.model(), from_host<int32_t>(cpu, {2, T}, ids), {{0, width}, {first, last}}, state);
    const std::vector<double> logits = to_doubles(start);
    differ({logits.begin(), logits.begin() + width * V}, whole, 0);
    differ({logits.begin() + (T + first) * V, logits.begin() + (T + last) * V}, second, 0);
    for (int64_t at = width, of_second = last; at < T;) {
      const int64_t n = below(2) ? 1 : 1 + below(T - at), m = std::min(n, T - of_second);
      std::vector<int32_t> next(size_t(2 * n), 0);  // the second row is padded where it has ended
      std::copy_n(ids.begin() + at, n, next.begin());
      std::copy_n(ids.begin() + T + of_second, m, next.begin() + n);
      const std::vector<double> piece = to_doubles(prefill(a.model(), from_host<int32_t>(cpu, {2, n}, next), {{0, n}, {0, m}}, state));
      differ({piece.begin(), piece.begin() + n * V}, whole, at);
      if (m) differ({piece.begin() + n * V, piece.begin() + (n + m) * V}, second, of_second - first);
      at += n, of_second += m;
    }
  }
  return {{"splits", o.splits}, {"length", T}, {"worst", worst}, {"limit", decode_limit}, {"pass", worst <= decode_limit}};
}

bool print_goldens(const std::vector<std::string>& files) {
  bool pass = true;
  for (const std::string& file : files) {
    const GoldenRecord r = check_golden(file);
    fmt::print("{}\n", json_text(Json{{"file", r.file}, {"case", r.architecture}, {"forward_error", r.forward_error},
                                      {"gradient_error", r.gradient_error}, {"worst", r.worst}, {"pass", r.pass}}));
    pass = pass && r.pass;
  }
  return pass;
}

void print_table(const Json& rows, const std::vector<const char*>& columns) {
  for (const Json& row : rows) {
    std::string line;
    for (const char* c : columns)
      line += row[c].is_string() ? fmt::format("{:<58} ", row[c].get<std::string>())
                                 : fmt::format("{} {:<11.4g} ", c, row[c].is_boolean() ? double(row[c].get<bool>()) : row[c].get<double>());
    fmt::print("{}\n", line);
  }
}

int audit(Options o, const Common& common) {
  bool pass = o.goldens.empty() || print_goldens(o.goldens);
  if (o.config.path.empty()) {
    check(!o.goldens.empty(), Exit::usage, "audit: wants a CONFIG, or --golden FILE...");
    return pass ? 0 : int(Exit::failure);
  }
  const Audited a(o);
  // With nothing chosen: the whole proof.
  if (o.aliases.empty() && !o.gradcheck && o.cuts.empty() && !o.ledger && !o.decode && o.dot.empty() && o.tape.empty()) {
    o.gradcheck = o.decode = true;
    if (a.has_spectrum()) {
      o.aliases = {"theta", "delta"};
      for (const std::string& alias : o.aliases)
        for (const std::string& edge : edges_of_one_path(a, a.leaf_named(alias, o.layer), o.layer))
          if (std::ranges::find(o.cuts, edge) == o.cuts.end()) o.cuts.push_back(edge);
    }
  }
  Json out;
  if (!o.aliases.empty()) out["paths"] = paths(a, o);
  if (o.gradcheck) out["gradcheck"] = gradcheck_all(a, o), pass = pass && out["gradcheck"]["pass"].get<bool>();
  for (const std::string& edge : o.cuts)
    for (const Json& part : cut(a, edge)) out["cut"].push_back(part), pass = pass && part["pass"].get<bool>();
  if (o.decode) out["decode"] = decode_in_pieces(a, o), pass = pass && out["decode"]["pass"].get<bool>();
  if (o.ledger) out["ledger"] = ledger(a);
  if (!o.dot.empty()) write_file(o.dot, to_dot(a.tape(), o.depth));
  if (!o.tape.empty()) write_file(o.tape, to_json(a.tape()));
  out["pass"] = pass;
  if (common.json) {
    fmt::print("{}\n", out.dump());
    return pass ? 0 : int(Exit::failure);
  }
  if (out.contains("paths"))
    for (const Json& line : out["paths"]) fmt::print("{}\n", line.get<std::string>());
  if (out.contains("gradcheck")) {
    print_table(out["gradcheck"]["parameters"], {"parameter", "error", "norm"});
    fmt::print("gradcheck: worst relative error {:.2e} of {} directional checks; limit {:.0e}\n", out["gradcheck"]["worst"].get<double>(),
               out["gradcheck"]["checks"].get<int64_t>(), gradcheck_limit);
  }
  if (out.contains("cut")) print_table(out["cut"], {"edge", "parameter", "whole", "without", "through", "error"});
  if (out.contains("ledger")) print_table(out["ledger"], {"edge", "norm", "max", "zeros", "non_finite"});
  if (out.contains("decode"))
    fmt::print("decode: worst relative error {:.2e} of {} random splits into prefill and steps, padded rows beside; limit {:.0e}\n",
               out["decode"]["worst"].get<double>(), o.splits, decode_limit);
  fmt::print("audit: {}\n", pass ? "all that was checked is right" : "FAILED");
  return pass ? 0 : int(Exit::failure);
}

}  // namespace

void audit_command(CLI::App& program, Common& common) {
  auto o = std::make_shared<Options>();
  CLI::App& app = *program.add_subcommand("audit",
                                          "Prove the gradients and the decoding of a configuration's model, in f64: all of it, or what the options name");
  config_options(app, o->config, false);
  app.add_option("--paths", o->aliases, "Print the gradient paths of these parameters inside a mixer: theta,delta")->delimiter(',');
  app.add_flag("--gradcheck", o->gradcheck, "Every parameter against 4-point differences");
  app.add_option("--cut", o->cuts, "Close an edge: the parts must add up to the whole; may be repeated")->allow_extra_args(false);
  app.add_flag("--decode", o->decode, "One pass against prefill and steps, over random splits");
  app.add_option("--splits", o->splits, "Random splits of --decode")->check(CLI::Range(1, 100000));
  app.add_flag("--ledger", o->ledger, "Norm, maximum, zeros and non-finite values of the gradient on each edge");
  app.add_option("--dot", o->dot, "Write the tape as Graphviz DOT to this file");
  app.add_option("--depth", o->depth, "Fold --dot into scopes of this many parts");
  app.add_option("--tape", o->tape, "Write the tape as JSON to this file");
  app.add_option("--golden", o->goldens, "Compare with reference tensors; one JSON line a file")->expected(1, 1000);
  app.add_option("--layer", o->layer, "The layer of --paths")->check(CLI::Range(int64_t(0), int64_t(1) << 20));
  app.add_option("--batch", o->batch, "Rows of the batch")->check(CLI::Range(1, 64));
  app.add_option("--length", o->steps, "Tokens a row")->check(CLI::Range(1, 4096));
  app.add_option("--directions", o->directions, "Directions for each parameter")->check(CLI::Range(1, 1000));
  app.callback([=, &common] { common.chosen = [=, &common] { return audit(*o, common); }; });
}

}  // namespace taper
