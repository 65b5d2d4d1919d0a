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
#include "tensor/graph.h"
#include "tensor/ops/matmul.h"
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
  bool profile = false, graph = false;
};

const auto started = std::chrono::steady_clock::now();  // of the process, all but the loading of it
double seconds_since_start() { return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count(); }

Dtype dtype_of(const Options& o) { return o.dtype == "f64" ? Dtype::f64 : o.dtype == "bf16" ? Dtype::bf16 : Dtype::f32; }

struct Timing {
  double median = 0, fastest = 0;  // seconds
  int runs = 0;
};

// Calls f(begin, end), which sets a mark before and after what is to be timed; warms up, then runs for about `seconds`, three
// times at least. On a GPU each run finds the second-level cache cold: a buffer larger than it is filled in between. That
// also gives the host time to queue the work, so that its own speed is not what is measured.
template <class F>
Timing measure(Device& device, double seconds, F&& f) {
  const bool gpu = device.kind() == DeviceKind::cuda;
  const Tensor cold = gpu ? Tensor(device, {int64_t(1) << 29}, Dtype::bf16) : Tensor{};
  auto once = [&] {
    if (gpu) device.fill(cold.data<void>(), 0, cold.bytes());
    Device::Mark begin, end;
    f(begin, end);
    return device.seconds_between(begin, end);
  };
  for (int i = 0; i < (gpu ? 3 : 1); ++i) once();
  std::vector<double> times;
  for (double spent = 0; times.size() < 3 || (spent < seconds && times.size() < 1000);) spent += times.emplace_back(once());
  std::ranges::sort(times);
  return {times[times.size() / 2], times.front(), int(times.size())};
}
template <class F>
Timing measure_all(Device& device, double seconds, F&& f) {  // the whole of f
  return measure(device, seconds, [&](Device::Mark& begin, Device::Mark& end) {
    begin = device.mark();
    f();
    end = device.mark();
  });
}

// What a device can do at most, measured: the yardstick beside each figure. On the CPU one thread's product
// C[1024,1024] = A B; on a GPU a bf16 product of 8192 and a copy of 1 GiB, bytes read and written.
struct Ceilings {
  double flops = 0, bytes = 0;  // a second; 0: not measured
};
template <class T>
double gemm_rate(double seconds) {
  const int64_t n = 1024;
  const std::vector<T> a(size_t(n * n), T(0.5)), b(size_t(n * n), T(0.25));
  std::vector<T> c(size_t(n * n));
  const int threads = thread_count();
  set_thread_count(1);
  const Timing t = measure_all(open_device("cpu"), seconds, [&] {
    gemm({.m = n, .n = n, .k = n, .a = a.data(), .lda = n, .b = b.data(), .ldb = n, .c = c.data(), .ldc = n});
  });
  set_thread_count(threads);
  return 2.0 * n * n * n / t.median;
}
Tensor random_tensor(Device& device, const Shape& shape, Dtype dtype) {
  const int64_t n = shape.numel(), period = 1 << 16;  // uploaded once, then repeated: zeros would run faster than data do
  std::vector<double> values;
  for (int64_t i = 0; i < std::min(n, period); ++i) values.push_back(Random(5, "bench").normal(uint64_t(i)));
  const Tensor t(device, shape, dtype), seed = from_doubles(device, {int64_t(values.size())}, dtype, values), flat = t.reshape(Shape{n});
  for (int64_t i = 0; i < n; i += period) copy_into(flat.rows(i, std::min(n, i + period)), seed.rows(0, std::min(n - i, period)));
  return t;
}
Ceilings ceilings(Device& device, Dtype dtype) {
  if (device.kind() != DeviceKind::cuda) return {.flops = dtype == Dtype::f64 ? gemm_rate<double>(0.3) : gemm_rate<float>(0.3)};
  const int64_t n = 8192;
  const Tensor a = random_tensor(device, {n, n}, Dtype::bf16), b = random_tensor(device, {n, n}, Dtype::bf16), c(device, {n, n}, Dtype::bf16);
  const Timing product = measure_all(device, 0.1, [&] { kernels::matmul({.a = a, .b = b, .c = c, .transpose_b = true}); });
  const Tensor from = random_tensor(device, {int64_t(1) << 29}, Dtype::bf16), to = empty_like(from);
  const Timing copy = measure_all(device, 0.05, [&] { copy_into(to, from); });
  return {.flops = 2.0 * n * n * n / product.median, .bytes = 2.0 * double(from.bytes()) / copy.median};
}

struct OpTimes {
  Timing forward, backward, both;
};

// Forward without a tape; backward with a new tape each time, as in training, from the outputs that have a time axis: a loss
// sees those, and not the state at the end. Both together with a tape: what a forward keeps, or does ahead, for the backward
// is in there and in neither of the others.
OpTimes time_build(const Build& build, const std::vector<int>& outputs, const std::vector<Tensor>& inputs, Device& device, double seconds) {
  std::vector<Var> constants;
  for (const Tensor& t : inputs) constants.push_back(constant(t));
  OpTimes times;
  times.forward = measure_all(device, seconds, [&] { build(constants, {}); });
  std::vector<Tensor> seeds;
  auto with_tape = [&](bool both) {
    return measure(device, seconds, [&](Device::Mark& begin, Device::Mark& end) {
      Tape tape;
      std::vector<Var> leaves, roots;
      for (size_t i = 0; i < inputs.size(); ++i) leaves.push_back(tape.leaf("in" + std::to_string(i), inputs[i]));
      if (both) begin = device.mark();
      const std::vector<Var> made = build(leaves, {});
      for (const int o : outputs) roots.push_back(made.at(size_t(o)));
      for (size_t i = seeds.size(); i < roots.size(); ++i) {
        const Tensor& v = roots[i].value;
        seeds.push_back(v.numel() > 1 ? random_tensor(device, v.shape(), v.dtype()) : full(device, v.shape(), v.dtype(), 1));
      }
      if (!both) begin = device.mark();
      backward(roots, seeds);
      end = device.mark();
    });
  };
  times.backward = with_tape(false);
  times.both = with_tape(true);
  return times;
}

// The most bytes in use while a forward and a backward run, their inputs among them.
size_t peak_of(const Build& build, const std::vector<int>& outputs, const std::vector<Tensor>& inputs, Device& device) {
  device.reset_peak();
  Tape tape;
  std::vector<Var> leaves, roots;
  for (size_t i = 0; i < inputs.size(); ++i) leaves.push_back(tape.leaf("in" + std::to_string(i), inputs[i]));
  const std::vector<Var> made = build(leaves, {});
  std::vector<Tensor> seeds;
  for (const int o : outputs) {
    roots.push_back(made.at(size_t(o)));
    seeds.push_back(full(device, roots.back().shape(), roots.back().value.dtype(), 1));
  }
  backward(roots, seeds);
  return device.bytes_peak();
}

// A speed is never printed on a wrong result: forward and the definition's forward must agree here too. A GPU is held
// against its own f64, which the laws hold against the CPU's: at these sizes the CPU would take minutes.
void gate(const OpCase& c, const Bench& b, const std::vector<Tensor>& inputs, Device& device, Dtype dtype) {
  const bool gpu = device.kind() == DeviceKind::cuda;
  auto outputs = [](const Build& build, const std::vector<Tensor>& in) {
    std::vector<Var> vars;
    for (const Tensor& x : in) vars.push_back(constant(x));
    return build(vars, {});
  };
  std::vector<Tensor> exact;
  for (const Tensor& t : inputs) exact.push_back(from_doubles(gpu ? device : open_device("cpu"), t.shape(), Dtype::f64, to_doubles(t)));
  const auto want = outputs(b.example.definition && !gpu ? b.example.definition : b.example.build, exact);
  const auto got = outputs(b.example.build, inputs);
  const double limit = dtype == Dtype::f64 ? 1e-10 : dtype == Dtype::bf16 ? c.bf16->forward : c.f32.forward;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = test::relative_error(to_doubles(got[i].value), to_doubles(want[i].value));
    check(error <= limit, Exit::failure, "bench: {} [{}] output {} must be within {:.0e} of its definition; it is {:.2e} off", c.room,
          b.example.name, i, limit, error);
  }
}

Json row(const char* pass, const Timing& t, double flops, double bytes, const Ceilings& most) {
  Json r{{"pass", pass}, {"median_ms", t.median * 1e3}, {"fastest_ms", t.fastest * 1e3}, {"runs", t.runs}};
  if (flops > 0) {
    r["gflops"] = flops / t.median / 1e9;
    r[most.bytes > 0 ? "share_of_matmul" : "share_of_gemm_per_thread"] = flops / t.median / most.flops / (most.bytes > 0 ? 1 : thread_count());
  }
  if (bytes > 0) r["gbytes_per_s"] = bytes / t.median / 1e9;
  if (bytes > 0 && most.bytes > 0) r["share_of_bandwidth"] = bytes / t.median / most.bytes;
  return r;
}

Json bench_op(const Options& o, Device& device) {
  const auto& cases = test::all_cases();
  const auto found = std::ranges::find(cases, o.op, &OpCase::room);
  check(found != cases.end() && !found->bench.empty(), Exit::usage, "bench: no op with a bench is called '{}'; try ssd_scan or matmul", o.op);
  const Dtype dtype = dtype_of(o);
  const bool gpu = device.kind() == DeviceKind::cuda;
  check(dtype != Dtype::bf16 || (found->bf16 && gpu), Exit::usage, "bench: {} does not run in bf16 on {}; use f32", o.op, device.name());
  const Ceilings most = ceilings(device, dtype);
  const bool has_large = std::ranges::any_of(found->bench, &Bench::large);
  Json out = Json::array();
  for (const Bench& b : found->bench) {
    if (b.large != (gpu && has_large)) continue;
    const std::vector<Tensor> inputs = test::draw(*found, b.example, device, dtype);
    gate(*found, b, inputs, device, dtype);
    const size_t peak = peak_of(b.example.build, b.example.timed_outputs, inputs, device);
    const OpTimes t = time_build(b.example.build, b.example.timed_outputs, inputs, device, o.seconds);
    // The bytes of a case count f32.
    const double wide = dtype == Dtype::f64 ? 2 : dtype == Dtype::bf16 ? 0.5 : 1;
    Json rows = {row("forward", t.forward, b.forward_flops, wide * b.forward_bytes, most),
                 row("backward", t.backward, b.backward_flops, wide * b.backward_bytes, most),
                 row("forward and backward", t.both, 0, 0, most)};
    if (b.example.definition && !gpu) {
      const OpTimes d = time_build(b.example.definition, b.example.timed_outputs, inputs, device, 0);
      rows.push_back(row("definition forward", d.forward, 0, 0, most));
      rows.push_back(row("definition backward", d.backward, 0, 0, most));
    }
    Json line{{"op", o.op}, {"shape", b.example.name}, {"dtype", name(dtype)}};
    if (gpu) line["matmul_tflops"] = most.flops / 1e12, line["copy_gbytes_per_s"] = most.bytes / 1e9;
    else line["gemm_gflops_one_thread"] = most.flops / 1e9;
    line["peak_bytes"] = peak;
    line["passes"] = rows;
    out.push_back(line);
  }
  return out;
}

// Forward, backward and update on random tokens.
class Step {
 public:
  Step(const ModelConfig& config, const Options& o, Device& device, bool fused, bool recompute)
      : device_(device),
        recompute_(recompute),
        model_(config, 1, device, o.dtype == "f64" ? Dtype::f64 : Dtype::f32, dtype_of(o)),
        optimizer_({}, model_.parameters()), gradients_(model_.parameters()),
        factor_(full(device, {}, Dtype::f64, 1 / double(o.batch * o.sequence))), work_(device, [this] { update(); }, o.graph) {
    model_.fused = fused;
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < o.batch * (o.sequence + 1); ++i)
      ids.push_back(int32_t(Random(1, "bench").below(uint64_t(i), uint64_t(config.vocab))));
    const int64_t n = o.batch * o.sequence;
    ids_ = from_host<int32_t>(device, {o.batch, o.sequence}, std::vector<int32_t>(ids.begin(), ids.begin() + n));
    labels_ = from_host<int32_t>(device, {o.batch, o.sequence}, std::vector<int32_t>(ids.begin() + 1, ids.begin() + n + 1));
  }
  Step(const Step&) = delete;
  void operator()() { work_(); }
  int64_t parameters() { return model_.parameter_count(); }

 private:
  void update() {
    {
      Tape tape;
      tape.recompute = recompute_;
      const Var loss = model_.loss(tape, ids_, labels_, {}, {.factor = factor_}).loss;
      BackwardOptions options;
      options.into = gradients_.into();
      backward(loss, full(device_, {}, loss.value.dtype(), 1), options);
    }
    optimizer_.step(gradients_, 1e-4);
    gradients_.clear();
  }

  Device& device_;
  const bool recompute_;
  LanguageModel model_;
  AdamW optimizer_;
  Gradients gradients_;
  Tensor ids_, labels_, factor_;
  Repeated work_;
};

// mamba2_post/180m is mamba2_post_180m.
std::string preset_of(std::string name) {
  const std::vector<std::string> all = model_presets();
  std::string joined = name;
  std::ranges::replace(joined, '/', '_');
  return std::ranges::count(all, joined) ? joined : name;
}

Json bench_model(const Options& o, Device& device) {
  Config given;
  if (o.model.ends_with(".toml")) given = load_config(o.model, o.set);
  else given.model = model_preset(preset_of(o.model));
  ModelConfig config = given.model;
  if (!config.vocab) config.vocab = o.vocab;
  if (o.layers) config.layers = o.layers;
  const bool gpu = device.kind() == DeviceKind::cuda;
  Step step(config, o, device, given.fusion == "full", given.train.recompute);
  step();
  device.synchronize();
  const double first = seconds_since_start();
  if (gpu || o.graph)
    for (int i = 0; i < 3; ++i) step();
  device.synchronize();
  if (!o.graph) device.reset_peak(), step();  // with a graph the peak is that of the recording: what it launches has its place already
  const size_t peak = device.bytes_peak(), reserved = device.bytes_reserved();  // before measuring takes memory of its own
  const Timing t = measure_all(device, o.seconds, [&] { step(); });
  Json out{{"model", o.model}, {"layers", config.layers}, {"vocab", config.vocab}, {"batch", o.batch}, {"sequence", o.sequence},
           {"dtype", o.dtype}, {"parameters", step.parameters()}, {"step_ms", t.median * 1e3}, {"runs", t.runs},
           {"tokens_per_s", double(o.batch * o.sequence) / t.median}, {"peak_bytes", peak},
           {"reserved_bytes", reserved}, {"graph", o.graph}, {"start_to_first_step_s", first}};
  if (!o.profile) return out;
  profile_start();
  const Timing p = measure_all(device, 0, [&] { step(); });
  const Profile profile = profile_stop();
  const double steps = p.runs + (gpu ? 3 : 1);  // with those that warmed up
  if (!gpu) {
    out["gemm_share"] = profile.gemm_seconds / (steps * p.median * thread_count());
    out["gemm_gflops_per_thread"] = profile.gemm_flops / profile.gemm_seconds / 1e9;
  }
  for (const ProfileEntry& e : profile.kernels)
    out["kernels"].push_back({{"name", e.name}, {"calls", double(e.calls) / steps}, {"ms", e.seconds / steps * 1e3},
                              {"share", e.seconds / (steps * p.median)}});
  if (const int threads = thread_count(); threads > 1 && device.kind() == DeviceKind::cpu) {
    set_thread_count(1);
    const Timing one = measure_all(device, o.seconds, [&] { step(); });
    set_thread_count(2);
    const Timing two = measure_all(device, o.seconds, [&] { step(); });
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
  const bool gpu = r.contains("copy_gbytes_per_s");
  fmt::print("{} [{}] {}, {:.1f} MiB at most; {}\n", r["op"].get<std::string>(), r["shape"].get<std::string>(), r["dtype"].get<std::string>(),
             double(r["peak_bytes"].get<size_t>()) / (1 << 20),
             gpu ? fmt::format("a matmul does {:.0f} TFLOP/s, a copy {:.0f} GB/s", r["matmul_tflops"].get<double>(), r["copy_gbytes_per_s"].get<double>())
                 : fmt::format("one thread's gemm: {:.1f} GFLOP/s", r["gemm_gflops_one_thread"].get<double>()));
  for (const Json& p : r["passes"]) {
    const auto share = [&](const char* key, const char* of) { return p.contains(key) ? fmt::format(", {:.0f}% of {}", 100 * p[key].get<double>(), of) : ""; };
    fmt::print("  {:<20} {:>10.3f} ms (fastest {:.3f}){}{}{}{}{}\n", p["pass"].get<std::string>(), p["median_ms"].get<double>(),
               p["fastest_ms"].get<double>(), p.contains("gflops") ? fmt::format("  {:8.2f} GFLOP/s", p["gflops"].get<double>()) : "",
               share("share_of_gemm_per_thread", "gemm per thread"), share("share_of_matmul", "the matmul"),
               p.contains("gbytes_per_s") ? fmt::format("  {:8.2f} GB/s", p["gbytes_per_s"].get<double>()) : "",
               share("share_of_bandwidth", "the copy"));
  }
}

int bench(const Options& o, const Common& common) {
  check(o.op.empty() != o.model.empty(), Exit::usage, "bench: wants one of --op and --model");
  Device& device = open_device(o.device);
  Json rows = o.op.empty() ? Json::array({bench_model(o, device)}) : bench_op(o, device);
  for (Json& r : rows) {
    r["device"] = device.product();
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
  CLI::Option* model = app.add_option("--model", o->model, "A preset, mamba2_post_180m or mamba2_post/180m, or a configuration file");
  app.add_option("--set", o->set, "section.key=value over the configuration; may be repeated")->allow_extra_args(false)->needs(model);
  app.add_option("--vocab", o->vocab, "Vocabulary of a preset")->check(CLI::Range(2, 1 << 24))->needs(model);
  app.add_option("--batch", o->batch, "Sequences")->check(CLI::Range(1, 1 << 20))->needs(model);
  app.add_option("--seq", o->sequence, "Tokens a sequence")->check(CLI::Range(1, 1 << 24))->needs(model);
  app.add_option("--layers", o->layers, "Layers, instead of the model's")->check(CLI::Range(1, 1000))->needs(model);
  app.add_option("--dtype", o->dtype, "f32, f64, or, on a GPU, bf16; of a model: its activations")->check(CLI::IsMember({"f32", "f64", "bf16"}));
  app.add_option("--device", o->device, "cpu or cuda:0");
  app.add_option("--seconds", o->seconds, "How long each measurement runs")->check(CLI::Range(0.0, 600.0));
  app.add_flag("--graph", o->graph, "With --model: the step as a recorded graph, as train.graph has it (not in --profile's part)")->needs(model);
  app.add_flag("--profile", o->profile, "With --model: time by kernel, the share of matrix products, the second thread's gain")->needs(model);
  app.add_option("--record", o->record, "Append each result as a JSON line to this file");
  app.add_option("--commit", o->commit, "The commit to write into the record");
  app.callback([=, &common] { common.chosen = [=, &common] { return bench(*o, common); }; });
}

}  // namespace taper
