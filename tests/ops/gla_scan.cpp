// gla_scan: chunked against the recurrence over shapes, documents and decays; split runs; bad shapes.
#include <cmath>

#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

struct Dims {
  int64_t B, T, H, K, V;
  bool initial = true;
  double slowest = 0.01, fastest = 1;  // -log_a
  int64_t chunk = gla_chunk;
  double scale = 0.5;
};

Build scan(const Dims& s, int64_t chunk) {
  return [s, chunk](const std::vector<Var>& in, const Packing& packing) {
    const Var initial = s.initial ? in[4] : Var{};
    const GlaResult r =
        gla_scan({.q = in[0], .k = in[1], .v = in[2], .log_a = in[3], .initial = initial}, s.scale, packing, chunk);
    return std::vector{r.y, r.final};
  };
}

Example example(const Dims& s) {
  Example e{.name = fmt::format("B={} T={} H={} K={} V={} decay {}..{} chunk {}{}", s.B, s.T, s.H, s.K, s.V, s.slowest,
                                s.fastest, s.chunk, s.initial ? "" : " bare"),
            .inputs = {{.edge = "q", .shape = {s.B, s.T, s.H, s.K}, .time_axis = 1},
                       {.edge = "k", .shape = {s.B, s.T, s.H, s.K}, .time_axis = 1},
                       {.edge = "v", .shape = {s.B, s.T, s.H, s.V}, .time_axis = 1},
                       {.edge = "log_a", .shape = {s.B, s.T, s.H, s.K},
                        .fill = uniform(-s.fastest, -s.slowest), .time_axis = 1, .wide = true}},
            .build = scan(s, s.chunk),
            .definition = scan(s, 0)};
  if (s.initial) e.inputs.push_back({.edge = "initial", .shape = {s.B, s.H, s.K, s.V}, .wide = true, .carried = true});
  return e;
}

std::vector<Example> examples() {
  std::vector<Example> all;
  for (int64_t T : {1, 2, 3, 7, 15, 16, 17})
    all.push_back(example({.B = 2, .T = T, .H = 2, .K = 5, .V = 3, .chunk = 16}));
  for (int64_t T : {63, 64, 65, 127, 128, 129}) all.push_back(example({.B = 1, .T = T, .H = 2, .K = 4, .V = 3}));
  all.push_back(example({.B = 3, .T = 33, .H = 2, .K = 3, .V = 4, .initial = false, .chunk = 8}));
  // More channels than lanes, ragged blocks.
  all.push_back(example({.B = 2, .T = 90, .H = 1, .K = 17, .V = 2, .chunk = 40}));
  all.push_back(example({.B = 1, .T = 200, .H = 2, .K = 2, .V = 2, .slowest = 0, .fastest = 1e-6}));
  all.push_back(example({.B = 2, .T = 70, .H = 2, .K = 3, .V = 2, .slowest = 5, .fastest = 30}));
  all.push_back(example({.B = 2, .T = 9, .H = 2, .K = 3, .V = 2, .chunk = 0}));
  // What tensor cores take in bf16: sizes between tiles, many chunks, a chunk of one token, decays too strong for one reference.
  all.push_back(example({.B = 2, .T = 129, .H = 2, .K = 16, .V = 16}));
  all.push_back(example({.B = 1, .T = 70, .H = 2, .K = 48, .V = 80, .slowest = 0, .fastest = 0.1}));
  all.push_back(example({.B = 1, .T = 66, .H = 1, .K = 112, .V = 16, .initial = false}));
  all.push_back(example({.B = 2, .T = 100, .H = 1, .K = 16, .V = 32, .slowest = 0.1, .fastest = 30}));
  return all;
}

// The same numbers for every dtype: what f32 can hold, or bf16.
std::vector<double> values(const char* what, int64_t n, bool in_bf16 = false) {
  const Random random(5, what);
  std::vector<double> v;
  for (int64_t i = 0; i < n; ++i) {
    const float x = float(random.normal(uint64_t(i)));
    v.push_back(in_bf16 ? float(bf16(x)) : x);
  }
  return v;
}

// Chunked in every dtype against the recurrence in f64, outputs and every gradient, finite throughout: on the CPU, and on
// the device under test where that is another.
void agrees_with_recurrence(const Dims& s, const std::vector<double>& log_a,
                            const std::vector<std::vector<int64_t>>& documents = {}) {
  const Shape keys{s.B, s.T, s.H, s.K}, outputs{s.B, s.T, s.H, s.V}, state{s.B, s.H, s.K, s.V};
  auto run = [&](Device& device, int64_t form, Dtype as, bool in_bf16) {
    const Packing packing = documents.empty() ? Packing{} : make_packing(device, s.B, s.T, documents);
    Tape tape;
    auto in = [&](const char* name, const Shape& shape, Dtype dtype) {
      const bool given = std::string_view(name) == "log_a";
      return tape.leaf(name, from_doubles(device, shape, dtype, given ? log_a : values(name, shape.numel(), in_bf16)));
    };
    const GlaResult r = gla_scan({.q = in("q", keys, as), .k = in("k", keys, as), .v = in("v", outputs, as),
                                  .log_a = in("log_a", keys, wide(as)), .initial = in("initial", state, wide(as))},
                                 s.scale, packing, form);
    auto all = backward({r.y, r.final}, {from_doubles(device, outputs, as, values("dy", outputs.numel(), in_bf16)),
                                         from_doubles(device, state, wide(as), values("ds", state.numel(), in_bf16))});
    all["y"] = r.y.value;
    all["final"] = r.final.value;
    return all;
  };
  auto holds = [&](Device& device, Dtype dtype, double forward, double backward) {
    const bool in_bf16 = dtype == Dtype::bf16;
    const auto want = run(open_device("cpu"), 0, Dtype::f64, in_bf16), got = run(device, s.chunk, dtype, in_bf16);
    for (const auto& [what, tensor] : want) {
      const bool output = what == "y" || what == "final";
      const std::vector<double> have = to_doubles(got.at(what));
      for (double x : have) expect(std::isfinite(x), "{} holds {} in {}", what, x, name(dtype));
      const double error = relative_error(have, to_doubles(tensor)), limit = output ? forward : backward;
      expect(error <= limit, "{} in {}: off by {}, at most {}", what, name(dtype), error, limit);
    }
  };
  for (Device* device : cpu_and_tested_device()) {
    holds(*device, Dtype::f64, 1e-11, 1e-10);
    holds(*device, Dtype::f32, 1e-5, 5e-5);
    if (device->kind() == DeviceKind::cuda) holds(*device, Dtype::bf16, 5e-3, 8e-3);
  }
}

// Decays from none to total, side by side in the channels of a head: nothing non-finite, chunked = recurrent.
void survives_extreme_decays() {
  const std::vector<double> rates = {0, 1e-12, 1e-8, 1e-6, 1e-3, 0.1, 1, 5, 20, 88, 100, 1e3, 1e4};
  const Dims s{.B = 1, .T = 150, .H = 2, .K = int64_t(rates.size()) + 3, .V = 16};
  std::vector<double> log_a;
  for (int64_t t = 0; t < s.T; ++t)
    for (int64_t h = 0; h < s.H; ++h) {
      for (double rate : rates) log_a.push_back(-rate);
      log_a.push_back(t % 2 ? -1e4 : -1e-3);         // alternating
      log_a.push_back(t == 70 ? -1e4 : -1e-3);       // one spike inside a block
      log_a.push_back(t % 32 == 16 ? -1e4 : -1e-3);  // spikes at boundaries between blocks
    }
  agrees_with_recurrence(s, log_a);
  agrees_with_recurrence(s, log_a, {{1, 16, 17, 40, 64, 70, 71, 128, 149}});
}

// The gradient of a fast channel's decay is tiny: each rate by itself, so that no larger one hides its error.
void small_decay_gradients_keep_their_digits() {
  for (double rate : {1e-6, 0.05, 2.0, 8.0, 14.0}) {
    const Dims s{.B = 1, .T = 130, .H = 1, .K = 16, .V = 16};
    std::vector<double> log_a;
    for (double x : values("rate", s.T * s.K)) log_a.push_back(-rate * (1 + std::abs(x) / 4));
    agrees_with_recurrence(s, log_a);
    agrees_with_recurrence(s, log_a, {{3, 5, 30, 31, 33, 64, 66, 100}});
  }
}

// A window of many chunks, with decays as PoST spreads them: from 1/T to 1 per token.
void holds_over_a_long_window() {
  const Dims s{.B = 1, .T = 1000, .H = 2, .K = 32, .V = 16};
  std::vector<double> log_a;
  const std::vector<double> noise = values("noise", s.T * s.H * s.K);
  for (int64_t i = 0; i < s.T * s.H * s.K; ++i)
    log_a.push_back(-std::pow(1000.0, double(i % s.K) / double(s.K - 1) - 1) * std::abs(noise[size_t(i)]));
  agrees_with_recurrence(s, log_a);
  agrees_with_recurrence(s, log_a, {{100, 128, 500, 501, 960}});
}

// A window cut in two, the state handed over: the same outputs as in one piece.
void a_split_run_equals_one_run() {
  Device& cpu = open_device("cpu");
  const int64_t T = 50;
  const Example e = example({.B = 2, .T = T, .H = 2, .K = 4, .V = 3, .chunk = 32});
  std::vector<Var> in;
  for (const Input& i : e.inputs) {
    std::vector<double> x = values(i.edge.c_str(), i.shape.numel());
    if (i.edge == "log_a")
      for (double& l : x) l = -std::abs(l);
    in.push_back(constant(from_doubles(cpu, i.shape, Dtype::f64, x)));
  }
  const auto whole = e.build(in, {});
  for (int64_t cut : {1, 15, 16, 31, 32, 49}) {
    auto part = [&](const Tensor& t, int64_t begin, int64_t end) {
      const int64_t row = t.numel() / t.size(0) / T;
      std::vector<double> all = to_doubles(t), v;
      for (int64_t b = 0; b < t.size(0); ++b)
        v.insert(v.end(), all.begin() + (b * T + begin) * row, all.begin() + (b * T + end) * row);
      return constant(from_doubles(cpu, {t.size(0), end - begin, t.size(2), t.size(3)}, Dtype::f64, v));
    };
    auto piece = [&](int64_t begin, int64_t end, const Var& state) {
      std::vector<Var> own;
      for (size_t i = 0; i < 4; ++i) own.push_back(part(in[i].value, begin, end));
      own.push_back(state);
      return e.build(own, {});
    };
    const auto head = piece(0, cut, in[4]), tail = piece(cut, T, head[1]);
    expect_close(head[0].value, part(whole[0].value, 0, cut).value, 1e-12, "y before the cut");
    expect_close(tail[0].value, part(whole[0].value, cut, T).value, 1e-12, "y after the cut");
    expect_close(tail[1].value, whole[1].value, 1e-12, "final state");
  }
}

// A loss on the final state alone must not lose its gradient.
void final_state_alone_has_gradients() {
  Device& cpu = open_device("cpu");
  Tape tape;
  auto ones = [&](const char* name, double v) { return tape.leaf(name, full(cpu, {1, 3, 1, 1}, Dtype::f64, v)); };
  const GlaResult r = gla_scan(
      {.q = ones("q", 1), .k = ones("k", 1), .v = ones("v", 1), .log_a = ones("log_a", -1), .initial = {}}, 1, {});
  const auto d = backward(r.final, full(cpu, {1, 1, 1, 1}, Dtype::f64, 1));
  // S_3 = e^-2 v_1 + e^-1 v_2 + v_3
  const auto dv = to_doubles(d.at("v")), dl = to_doubles(d.at("log_a"));
  const double e1 = std::exp(-1.0), e2 = std::exp(-2.0), want[3] = {0, e2, e2 + e1};
  for (int t = 0; t < 3; ++t) {
    expect(std::abs(dv[size_t(t)] - std::exp(t - 2.0)) < 1e-15, "d_v[{}] is {}", t, dv[size_t(t)]);
    expect(std::abs(dl[size_t(t)] - want[t]) < 1e-15, "d_log_a[{}] is {}", t, dl[size_t(t)]);
  }
}

void refuses_bad_shapes() {
  Device& cpu = open_device("cpu");
  auto t = [&](const Shape& s) { return constant(zeros(cpu, s, Dtype::f32)); };
  const Var q = t({2, 8, 3, 4}), v = t({2, 8, 3, 5});
  expect_error([&] { gla_scan({.q = q, .k = q, .v = t({2, 8, 3}), .log_a = q, .initial = {}}, 1, {}); },
               "gla_scan: v must be [B,T,H,V]; got [2,8,3]");
  expect_error([&] { gla_scan({.q = {}, .k = q, .v = v, .log_a = q, .initial = {}}, 1, {}); },
               "gla_scan: q must be [B,T,H,K]; got nothing");
  expect_error([&] { gla_scan({.q = q, .k = q, .v = v, .log_a = {}, .initial = {}}, 1, {}); },
               "gla_scan: k and log_a must be given");
  expect_error([&] { gla_scan({.q = q, .k = q, .v = v, .log_a = t({2, 8, 3, 1}), .initial = {}}, 1, {}); },
               "gla_scan: log_a must be f32 [2,8,3,4] to match q and v; got f32 [2,8,3,1]");
  expect_error([&] { gla_scan({.q = q, .k = q, .v = v, .log_a = q, .initial = t({2, 3, 5, 4})}, 1, {}); },
               "gla_scan: initial must be f32 [2,3,4,5] to match q and v; got f32 [2,3,5,4]");
  expect_error([&] { gla_scan({.q = q, .k = q, .v = v, .log_a = q, .initial = {}}, 1, {}, -1); },
               "gla_scan: wants T >= 1 and chunk >= 0; got T 8 and chunk -1");
}

Bench bench(const Dims& s, bool large = false) {
  const double tokens = double(s.B * s.T * s.H), K = double(s.K), V = double(s.V);
  const double pairs = double(s.chunk + 1) / 2;  // j <= i, per token: only what the triangle holds counts
  const double forward = tokens * (2 * pairs * (K + V) + 4 * K * V);
  const double backward = tokens * (2 * pairs * (3 * K + 2 * V) + 8 * K * V);
  const double bytes = 4 * tokens * (3 * K + 2 * V);
  // In bf16 log_a is as wide as q and k together, and the states are kept for the backward pass.
  const double states = tokens / double(s.chunk) * K * V;
  const double large_forward = 4 * (tokens * (4 * K + 2 * V) + states), large_backward = 4 * (tokens * (8 * K + 3 * V) + states);
  return {.example = example(s), .forward_flops = forward, .forward_bytes = large ? large_forward : bytes,
          .backward_flops = backward, .backward_bytes = large ? large_backward : 2 * bytes, .large = large};
}

const RegisterCase registered{{
    .room = "gla_scan",
    .ops = {"gla_scan"},
    .examples = examples(),
    .looks_back = true,
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {bench({.B = 1, .T = 2048, .H = 4, .K = 96, .V = 192, .initial = false}),
              bench({.B = 4, .T = 512, .H = 2, .K = 64, .V = 64, .initial = false}),
              bench({.B = 8, .T = 2048, .H = 4, .K = 96, .V = 192, .initial = false})},
    .checks = {{"survives extreme decays", survives_extreme_decays},
               {"small decay gradients keep their digits", small_decay_gradients_keep_their_digits},
               {"holds over a long window", holds_over_a_long_window},
               {"a split run equals one run", a_split_run_equals_one_run},
               {"the final state alone has gradients", final_state_alone_has_gradients},
               {"refuses bad shapes", refuses_bad_shapes}},
    .huge = {example({.B = huge_rows(64 * 64 * 128), .T = 64, .H = 64, .K = 128, .V = 16, .initial = false})},
}};

}  // namespace
}  // namespace taper::test
