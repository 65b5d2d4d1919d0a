// bench: times one op at its case's shapes, or a whole training step, and prints what a record needs.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/version.h"
#include "nn/optimizer.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/gemm.h"
#include "tensor/parallel.h"
#include "tensor/profile.h"
#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/laws.h"

namespace taper {
namespace {

using Json = nlohmann::ordered_json;
using test::Bench;
using test::Build;
using test::OpCase;

struct Options {
  std::string op, model, dtype = "f32", device = "cpu", record, commit;
  std::vector<std::string> set;
  int64_t vocab = 257, batch = 1, sequence = 2048, layers = 0;
  double seconds = 1;
  bool profile = false;
};

struct Timing {
  double median = 0, fastest = 0;  // seconds
  int runs = 0;
};

// Warms up once, then runs for about `seconds`, three times at least.
template <class F>
Timing measure(Device& device, double seconds, F&& f) {
  auto once = [&] {
    const auto begin = std::chrono::steady_clock::now();
    f();
    device.synchronize();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  once();
  std::vector<double> times;
  for (double spent = 0; times.size() < 3 || (spent < seconds && times.size() < 1000);) spent += times.emplace_back(once());
  std::ranges::sort(times);
  return {times[times.size() / 2], times.front(), int(times.size())};
}

// One thread's matrix product, the yardstick: C[1024,1024] = A B.
template <class T>
double gemm_rate(double seconds) {
  const int64_t n = 1024;
  const std::vector<T> a(size_t(n * n), T(0.5)), b(size_t(n * n), T(0.25));
  std::vector<T> c(size_t(n * n));
  const int threads = thread_count();
  set_thread_count(1);
  const Timing t = measure(open_device("cpu"), seconds, [&] {
    gemm({.m = n, .n = n, .k = n, .a = a.data(), .lda = n, .b = b.data(), .ldb = n, .c = c.data(), .ldc = n});
  });
  set_thread_count(threads);
  return 2.0 * n * n * n / t.median;
}

struct OpTimes {
  Timing forward, backward;
};

OpTimes time_build(const Build& build, const std::vector<Tensor>& inputs, Device& device, double seconds) {
  std::vector<Var> constants;
  for (const Tensor& t : inputs) constants.push_back(constant(t));
  OpTimes times;
  times.forward = measure(device, seconds, [&] { build(constants, {}); });
  Tape tape;
  std::vector<Var> leaves, roots;
  for (size_t i = 0; i < inputs.size(); ++i) leaves.push_back(tape.leaf("in" + std::to_string(i), inputs[i]));
  std::vector<Tensor> seeds;
  for (const Var& v : build(leaves, {}))
    if (v.tracked()) roots.push_back(v), seeds.push_back(full(device, v.shape(), v.value.dtype(), 1));
  roots.resize(1);  // as in training: the loss depends on the first output
  seeds.resize(1);
  times.backward = measure(device, seconds, [&] { backward(roots, seeds, {.cut = {}, .ledger = {}, .keep = true, .into = {}}); });
  return times;
}

// A speed is never printed on a wrong result: forward, and the definition's forward, must agree here too.
void gate(const OpCase& c, const Bench& b, Device& device, Dtype dtype) {
  auto outputs = [&](const Build& build, Device& d, Dtype t) {
    std::vector<Var> in;
    for (const Tensor& x : test::draw(c, b.example, d, t)) in.push_back(constant(x));
    return build(in, {});
  };
  const auto want = outputs(b.example.definition ? b.example.definition : b.example.build, open_device("cpu"), Dtype::f64);
  const auto got = outputs(b.example.build, device, dtype);
  const double limit = dtype == Dtype::f64 ? 1e-10 : c.f32.forward;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = test::relative_error(to_doubles(got[i].value), to_doubles(want[i].value));
    check(error <= limit, Exit::failure, "bench: {} [{}] output {} must be within {:.0e} of its definition; it is {:.2e} off", c.room,
          b.example.name, i, limit, error);
  }
}

Json row(const char* pass, const Timing& t, double flops, double bytes, double yardstick) {
  Json r{{"pass", pass}, {"median_ms", t.median * 1e3}, {"fastest_ms", t.fastest * 1e3}, {"runs", t.runs}};
  if (flops > 0) r["gflops"] = flops / t.median / 1e9, r["share_of_gemm_per_thread"] = flops / t.median / yardstick / thread_count();
  if (bytes > 0) r["gbytes_per_s"] = bytes / t.median / 1e9;
  return r;
}

Json bench_op(const Options& o, Device& device) {
  const auto& cases = test::all_cases();
  const auto found = std::ranges::find(cases, o.op, &OpCase::room);
  check(found != cases.end() && !found->bench.empty(), Exit::usage, "bench: no op with a bench is called '{}'; try ssd_scan or matmul", o.op);
  const Dtype dtype = o.dtype == "f64" ? Dtype::f64 : Dtype::f32;
  const double yardstick = dtype == Dtype::f64 ? gemm_rate<double>(0.3) : gemm_rate<float>(0.3);
  Json out = Json::array();
  for (const Bench& b : found->bench) {
    gate(*found, b, device, dtype);
    const std::vector<Tensor> inputs = test::draw(*found, b.example, device, dtype);
    const OpTimes t = time_build(b.example.build, inputs, device, o.seconds);
    Json rows = {row("forward", t.forward, b.forward_flops, b.forward_bytes, yardstick),
                 row("backward", t.backward, b.backward_flops, b.backward_bytes, yardstick)};
    if (b.example.definition && device.kind() == DeviceKind::cpu) {
      const OpTimes d = time_build(b.example.definition, inputs, device, 0);
      rows.push_back(row("definition forward", d.forward, 0, 0, yardstick));
      rows.push_back(row("definition backward", d.backward, 0, 0, yardstick));
    }
    out.push_back({{"op", o.op}, {"shape", b.example.name}, {"dtype", name(dtype)}, {"gemm_gflops_one_thread", yardstick / 1e9}, {"passes", rows}});
  }
  return out;
}

// Forward, backward and update on random tokens.
class Step {
 public:
  Step(const ModelConfig& config, const Options& o, Device& device)
      : device_(device), model_(config, 1, device), optimizer_({}, model_.parameters()), gradients_(model_.parameters()) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < o.batch * (o.sequence + 1); ++i)
      ids.push_back(int32_t(Random(1, "bench").below(uint64_t(i), uint64_t(config.vocab))));
    const int64_t n = o.batch * o.sequence;
    ids_ = from_host<int32_t>(device, {o.batch, o.sequence}, std::vector<int32_t>(ids.begin(), ids.begin() + n));
    labels_ = from_host<int32_t>(device, {o.batch, o.sequence}, std::vector<int32_t>(ids.begin() + 1, ids.begin() + n + 1));
  }
  void operator()() {
    {
      Tape tape;
      const Var loss = mean(model_.nll(tape, ids_, labels_, {}));
      BackwardOptions options;
      options.into = gradients_.into();
      backward(loss, full(device_, {}, Dtype::f32, 1), options);
    }
    optimizer_.step(gradients_, 1e-4);
    gradients_.clear();
  }
  int64_t parameters() { return model_.parameter_count(); }

 private:
  Device& device_;
  LanguageModel model_;
  AdamW optimizer_;
  Gradients gradients_;
  Tensor ids_, labels_;
};

Json bench_model(const Options& o, Device& device) {
  ModelConfig config = o.model.ends_with(".toml") ? load_config(o.model, o.set).model : model_preset(o.model);
  if (!config.vocab) config.vocab = o.vocab;
  if (o.layers) config.layers = o.layers;
  Step step(config, o, device);
  device.reset_peak();
  const Timing t = measure(device, o.seconds, [&] { step(); });
  Json out{{"model", o.model}, {"layers", config.layers}, {"vocab", config.vocab}, {"batch", o.batch}, {"sequence", o.sequence},
           {"parameters", step.parameters()}, {"step_ms", t.median * 1e3}, {"runs", t.runs},
           {"tokens_per_s", double(o.batch * o.sequence) / t.median}, {"peak_bytes", device.bytes_peak()}};
  if (!o.profile) return out;
  profile_start();
  const Timing p = measure(device, 0, [&] { step(); });
  const Profile profile = profile_stop();
  const double steps = p.runs + 1;
  out["gemm_share"] = profile.gemm_seconds / (steps * p.median * thread_count());
  out["gemm_gflops_per_thread"] = profile.gemm_flops / profile.gemm_seconds / 1e9;
  for (const ProfileEntry& e : profile.kernels)
    out["kernels"].push_back({{"name", e.name}, {"calls", double(e.calls) / steps}, {"ms", e.seconds / steps * 1e3},
                              {"share", e.seconds / (steps * p.median)}});
  if (const int threads = thread_count(); threads > 1 && device.kind() == DeviceKind::cpu) {
    set_thread_count(1);
    const Timing one = measure(device, o.seconds, [&] { step(); });
    set_thread_count(2);
    const Timing two = measure(device, o.seconds, [&] { step(); });
    set_thread_count(threads);
    out["second_thread_speedup"] = one.median / two.median;
  }
  return out;
}

void print_plain(const Json& r) {
  if (!r.contains("passes")) {
    for (const auto& [key, value] : r.items())
      if (key != "kernels") fmt::print("{}: {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
    if (r.contains("kernels"))
      for (const Json& k : r["kernels"])
        fmt::print("  {:<28} {:>6} calls {:>10.3f} ms {:>6.1f}%\n", k["name"].get<std::string>(), k["calls"].get<double>(),
                   k["ms"].get<double>(), 100 * k["share"].get<double>());
    return;
  }
  fmt::print("{} [{}] {}; one thread's gemm: {:.1f} GFLOP/s\n", r["op"].get<std::string>(), r["shape"].get<std::string>(),
             r["dtype"].get<std::string>(), r["gemm_gflops_one_thread"].get<double>());
  for (const Json& p : r["passes"])
    fmt::print("  {:<20} {:>10.3f} ms (fastest {:.3f}){}{}\n", p["pass"].get<std::string>(), p["median_ms"].get<double>(),
               p["fastest_ms"].get<double>(),
               p.contains("gflops") ? fmt::format("  {:8.2f} GFLOP/s, {:.0f}% of gemm per thread", p["gflops"].get<double>(),
                                                  100 * p["share_of_gemm_per_thread"].get<double>()) : "",
               p.contains("gbytes_per_s") ? fmt::format("  {:8.2f} GB/s", p["gbytes_per_s"].get<double>()) : "");
}

int bench(const Options& o, const Common& common) {
  check(o.op.empty() != o.model.empty(), Exit::usage, "bench: wants one of --op and --model");
  Device& device = open_device(o.device);
  Json rows = o.op.empty() ? Json::array({bench_model(o, device)}) : bench_op(o, device);
  for (Json& r : rows) {
    r["device"] = device.name();
    r["threads"] = thread_count();
    r["gemm"] = gemm_backend();
    r["version"] = version;
    if (!o.commit.empty()) r["commit"] = o.commit;
    if (common.json) fmt::print("{}\n", r.dump());
    else print_plain(r);
    if (!o.record.empty()) append_line(o.record, r.dump());
  }
  return 0;
}

}  // namespace

void bench_command(CLI::App& program, Common& common) {
  auto o = std::make_shared<Options>();
  CLI::App& app = *program.add_subcommand("bench", "Time one op, or a training step");
  app.add_option("--op", o->op, "A room with a bench: ssd_scan, matmul, ...");
  app.add_option("--model", o->model, "A preset, or a configuration file");
  app.add_option("--set", o->set, "section.key=value over the configuration; may be repeated")->allow_extra_args(false);
  app.add_option("--vocab", o->vocab, "Vocabulary of a preset")->check(CLI::Range(2, 1 << 24));
  app.add_option("--batch", o->batch, "Sequences")->check(CLI::Range(1, 1 << 20));
  app.add_option("--seq", o->sequence, "Tokens a sequence")->check(CLI::Range(1, 1 << 24));
  app.add_option("--layers", o->layers, "Layers, instead of the model's")->check(CLI::Range(1, 1000));
  app.add_option("--dtype", o->dtype, "f32 or f64")->check(CLI::IsMember({"f32", "f64"}));
  app.add_option("--device", o->device, "cpu or cuda:0");
  app.add_option("--seconds", o->seconds, "How long each measurement runs")->check(CLI::Range(0.0, 600.0));
  app.add_flag("--profile", o->profile, "With --model: time by kernel, the share of matrix products, the second thread's gain");
  app.add_option("--record", o->record, "Append each result as a JSON line to this file");
  app.add_option("--commit", o->commit, "The commit to write into the record");
  app.callback([=, &common] { common.chosen = [=, &common] { return bench(*o, common); }; });
}

}  // namespace taper
