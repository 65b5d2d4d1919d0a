// ssd_scan: chunked against the recurrence over shapes, documents and decays; split runs; bad shapes.
#include <cmath>

#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

struct Dims {
  int64_t B, T, H, P, G, N;
  bool dt = true, d = true, initial = true;
  double slowest = 0.01, fastest = 1;  // -log_a
  int64_t chunk = ssd_chunk;
  bool spread = false;  // the logarithm of -log_a is uniform, so that decays of every size stand side by side
};

Build scan(const Dims& s, int64_t chunk) {
  return [s, chunk](const std::vector<Var>& in, const Packing& packing) {
    SsdInputs v{.x = in[0], .log_a = s.spread ? negate(exp(in[1])) : in[1], .b = in[2], .c = in[3], .dt = {}, .d = {}, .initial = {}};
    size_t next = 4;
    if (s.dt) v.dt = in[next++];
    if (s.d) v.d = in[next++];
    if (s.initial) v.initial = in[next++];
    const SsdResult r = ssd_scan(v, packing, chunk);
    return std::vector{r.y, r.final};
  };
}

Example example(const Dims& s) {
  Example e{.name = fmt::format("B={} T={} H={} P={} G={} N={} decay {}..{}{} chunk {}{}", s.B, s.T, s.H, s.P, s.G, s.N, s.slowest,
                                s.fastest, s.spread ? " spread" : "", s.chunk, s.dt ? "" : " bare"),
            .inputs = {{.edge = "x", .shape = {s.B, s.T, s.H, s.P}, .time_axis = 1},
                       {.edge = "log_a", .shape = {s.B, s.T, s.H}, .fill = s.spread ? uniform(std::log(s.slowest), std::log(s.fastest)) : uniform(-s.fastest, -s.slowest), .time_axis = 1, .wide = true},
                       {.edge = "b", .shape = {s.B, s.T, s.G, s.N}, .time_axis = 1},
                       {.edge = "c", .shape = {s.B, s.T, s.G, s.N}, .time_axis = 1}},
            .build = scan(s, s.chunk),
            .definition = scan(s, 0)};
  if (s.dt) e.inputs.push_back({.edge = "dt", .shape = {s.B, s.T, s.H}, .fill = uniform(0.1, 1), .time_axis = 1, .wide = true});
  if (s.d) e.inputs.push_back({.edge = "d", .shape = {s.H}, .wide = true});
  if (s.initial) e.inputs.push_back({.edge = "initial", .shape = {s.B, s.H, s.N, s.P}, .wide = true, .carried = true});
  return e;
}

std::vector<Example> examples() {
  std::vector<Example> all;
  for (int64_t T : {1, 2, 3, 7, 15, 16, 17}) all.push_back(example({.B = 2, .T = T, .H = 4, .P = 3, .G = 2, .N = 5, .chunk = 16}));
  for (int64_t T : {63, 64, 65, 127, 128, 129}) all.push_back(example({.B = 1, .T = T, .H = 2, .P = 3, .G = 1, .N = 4}));
  all.push_back(example({.B = 3, .T = 33, .H = 2, .P = 4, .G = 2, .N = 3, .dt = false, .d = false, .initial = false, .chunk = 8}));
  all.push_back(example({.B = 1, .T = 200, .H = 2, .P = 2, .G = 1, .N = 2, .slowest = 0, .fastest = 1e-6}));
  all.push_back(example({.B = 2, .T = 70, .H = 2, .P = 2, .G = 1, .N = 3, .slowest = 5, .fastest = 30}));
  all.push_back(example({.B = 1, .T = 70, .H = 2, .P = 2, .G = 1, .N = 3, .slowest = 1e-4, .fastest = 1e3, .spread = true}));
  // Shapes that tensor cores take: one tile and several, of N and of P; documents inside and between chunks.
  all.push_back(example({.B = 2, .T = 131, .H = 6, .P = 16, .G = 2, .N = 16}));
  all.push_back(example({.B = 1, .T = 70, .H = 2, .P = 64, .G = 1, .N = 128, .slowest = 0, .fastest = 1e-6}));
  all.push_back(example({.B = 1, .T = 66, .H = 2, .P = 72, .G = 1, .N = 72, .d = false, .slowest = 5, .fastest = 30}));
  all.push_back(example({.B = 1, .T = 130, .H = 2, .P = 16, .G = 1, .N = 16, .slowest = 1e-4, .fastest = 1e3, .spread = true}));
  all.push_back(example({.B = 1, .T = 65, .H = 2, .P = 136, .G = 2, .N = 136, .dt = false, .d = false, .initial = false}));
  // More chunks than a kernel keeps under way, of two heads.
  all.push_back(example({.B = 1, .T = 330, .H = 2, .P = 24, .G = 1, .N = 16}));
  all.push_back(example({.B = 1, .T = 210, .H = 2, .P = 8, .G = 1, .N = 136}));
  return all;
}

// log_a [T,H], G groups of N rows, heads of P columns: outputs and gradients of the chunked form in each dtype, against the
// recurrence in f64; on the CPU, and on the device under test where that is another.
void expect_chunked_is_recurrent(const std::vector<double>& log_a, int64_t T, int64_t G, double limit, int64_t P = 3, int64_t N = 4) {
  const int64_t H = int64_t(log_a.size()) / T;
  const auto run = [&](Device& device, int64_t form, Dtype as, bool in_bf16) {
    const auto values = [&](const char* what, const Shape& shape, bool rounded) {
      std::vector<double> v;
      for (int64_t i = 0; i < shape.numel(); ++i) {
        const float x = float(Random(5, what).normal(uint64_t(i)));
        v.push_back(rounded ? float(bf16(x)) : x);
      }
      return v;
    };
    Tape tape;
    const auto drawn = [&](const char* name, const Shape& shape) { return from_doubles(device, shape, as, values(name, shape, in_bf16)); };
    const auto in = [&](const char* name, const Shape& shape) { return tape.leaf(name, drawn(name, shape)); };
    const SsdResult r = ssd_scan({.x = in("x", {1, T, H, P}),
                                  .log_a = tape.leaf("log_a", from_doubles(device, {1, T, H}, wide(as), log_a)),
                                  .b = in("b", {1, T, G, N}),
                                  .c = in("c", {1, T, G, N}),
                                  .dt = {}, .d = {}, .initial = {}},
                                 {}, form);
    const Shape state{1, H, N, P};
    auto all = backward({r.y, r.final}, {drawn("dy", {1, T, H, P}), from_doubles(device, state, wide(as), values("ds", state, false))});
    all["y"] = r.y.value;
    return all;
  };
  Device& cpu = open_device("cpu");
  const auto exact = run(cpu, 0, Dtype::f64, false), of_bf16 = run(cpu, 0, Dtype::f64, true);
  const auto holds = [&](Device& device, Dtype dtype, double forward, double backward) {
    const auto got = run(device, ssd_chunk, dtype, dtype == Dtype::bf16);
    for (const auto& [what, want] : dtype == Dtype::bf16 ? of_bf16 : exact)
      expect_close(got.at(what), want, what == "y" ? forward : backward, fmt::format("{} in {} on {}", what, name(dtype), device.name()).c_str());
  };
  for (Device* device : cpu_and_tested_device()) {
    holds(*device, Dtype::f64, limit, limit);
    holds(*device, Dtype::f32, 1e-5, 5e-5);
    if (device->kind() == DeviceKind::cuda) holds(*device, Dtype::bf16, 5e-3, 8e-3);
  }
}

// Decays from none to total, mixed inside one chunk: nothing non-finite, chunked = recurrent.
void survives_extreme_decays() {
  const std::vector<double> rates = {0, 1e-12, 1e-6, 1e-3, 1, 5, 20, 88, 100, 1e3, 1e4};
  const int64_t T = 150, H = int64_t(rates.size()) + 2;
  std::vector<double> log_a;
  for (int64_t t = 0; t < T; ++t)
    for (int64_t h = 0; h < H; ++h) {
      if (h < int64_t(rates.size())) log_a.push_back(-rates[size_t(h)]);
      else if (h == int64_t(rates.size())) log_a.push_back(t % 2 ? -1e4 : -1e-3);  // alternating
      else log_a.push_back(t == 70 ? -1e4 : -1e-3);                                // one spike
    }
  // The sum reaches 64 * 1e4, where neighbouring doubles are 1.2e-10 apart: so far is a difference of two off in f64.
  expect_chunked_is_recurrent(log_a, T, 1, 1e-10);
  expect_chunked_is_recurrent(log_a, T, 1, 1e-10, 16, 16);  // tensor cores take these in bf16
}

// As RetNet uses it: a constant decay for each head, b and c of their own for each.
void holds_over_1000_tokens() {
  std::vector<double> log_a;
  for (int64_t t = 0; t < 1000; ++t)
    for (int h = 0; h < 4; ++h) log_a.push_back(std::log1p(-std::exp2(-5 - h)));
  expect_chunked_is_recurrent(log_a, 1000, 4, 1e-11);
  expect_chunked_is_recurrent(log_a, 1000, 4, 1e-11, 16, 16);
}

// A window cut in two, the state handed over: the same outputs and gradients as in one piece.
void a_split_run_equals_one_run() {
  Device& cpu = open_device("cpu");
  const Example e = example({.B = 2, .T = 50, .H = 2, .P = 3, .G = 1, .N = 4, .chunk = 16});
  const OpCase c{.room = "ssd_scan", .ops = {}, .examples = {}};
  const std::vector<Tensor> in = [&] {
    std::vector<Tensor> v;
    for (const Input& i : e.inputs) {
      std::vector<double> x;
      const Random random(9, i.edge);
      for (int64_t k = 0; k < i.shape.numel(); ++k)
        x.push_back(i.edge == "log_a" ? -random.uniform(uint64_t(k)) : random.normal(uint64_t(k)));
      v.push_back(from_doubles(cpu, i.shape, Dtype::f64, x));
    }
    return v;
  }();
  auto whole = e.build({constant(in[0]), constant(in[1]), constant(in[2]), constant(in[3]), constant(in[4]), constant(in[5]), constant(in[6])}, {});
  for (int64_t cut : {1, 15, 16, 31, 49}) {
    auto part = [&](const Tensor& t, int64_t begin, int64_t end) {
      const int64_t row = t.numel() / t.size(0) / t.size(1);
      std::vector<double> all = to_doubles(t), v;
      for (int64_t b = 0; b < t.size(0); ++b)
        v.insert(v.end(), all.begin() + (b * t.size(1) + begin) * row, all.begin() + (b * t.size(1) + end) * row);
      Shape shape{t.size(0), end - begin};
      for (int i = 2; i < t.rank(); ++i) shape.push_back(t.size(i));
      return constant(from_doubles(cpu, shape, Dtype::f64, v));
    };
    const auto head = e.build({part(in[0], 0, cut), part(in[1], 0, cut), part(in[2], 0, cut), part(in[3], 0, cut), part(in[4], 0, cut),
                               constant(in[5]), constant(in[6])}, {});
    const auto tail = e.build({part(in[0], cut, 50), part(in[1], cut, 50), part(in[2], cut, 50), part(in[3], cut, 50),
                               part(in[4], cut, 50), constant(in[5]), head[1]}, {});
    expect_close(tail[0].value, part(whole[0].value, cut, 50).value, 1e-12, "y after the cut");
    expect_close(tail[1].value, whole[1].value, 1e-12, "final state");
  }
}

// A loss on the final state alone must not lose its gradient.
void final_state_alone_has_gradients() {
  Device& cpu = open_device("cpu");
  Tape tape;
  auto ones = [&](const char* name, const Shape& s, double v) { return tape.leaf(name, full(cpu, s, Dtype::f64, v)); };
  const SsdResult r = ssd_scan({.x = ones("x", {1, 3, 1, 1}, 1), .log_a = ones("log_a", {1, 3, 1}, -1), .b = ones("b", {1, 3, 1, 1}, 1),
                                .c = ones("c", {1, 3, 1, 1}, 1), .dt = {}, .d = {}, .initial = {}}, {});
  const auto d = backward(r.final, full(cpu, {1, 1, 1, 1}, Dtype::f64, 1));
  // S_3 = e^-2 x_1 + e^-1 x_2 + x_3
  const auto dx = to_doubles(d.at("x"));
  for (int t = 0; t < 3; ++t) expect(std::abs(dx[size_t(t)] - std::exp(t - 2.0)) < 1e-15, "d_x[{}] is {}", t, dx[size_t(t)]);
}

void refuses_bad_shapes() {
  Device& cpu = open_device("cpu");
  auto t = [&](const Shape& s) { return constant(zeros(cpu, s, Dtype::f32)); };
  expect_error([&] { ssd_scan({.x = t({2, 8, 3}), .log_a = {}, .b = {}, .c = {}, .dt = {}, .d = {}, .initial = {}}, {}); },
               "ssd_scan: x must be [B,T,H,P]; got [2,8,3]");
  expect_error([&] { ssd_scan({.x = t({2, 8, 3, 4}), .log_a = t({2, 8, 4}), .b = t({2, 8, 1, 5}), .c = t({2, 8, 1, 5}), .dt = {}, .d = {}, .initial = {}}, {}); },
               "ssd_scan: log_a must be f32 [2,8,3] to match x; got f32 [2,8,4]");
  expect_error([&] { ssd_scan({.x = t({2, 8, 3, 4}), .log_a = t({2, 8, 3}), .b = t({2, 8, 2, 5}), .c = t({2, 8, 2, 5}), .dt = {}, .d = {}, .initial = {}}, {}); },
               "ssd_scan: the 2 groups of b must divide the 3 heads of x");
}

Bench bench(const Dims& s) {
  const double tokens = double(s.B * s.T), C = double(s.chunk), H = double(s.H), P = double(s.P), N = double(s.N), G = double(s.G);
  const double forward = tokens * (2 * C * N * G + H * (2 * C * P + 4 * N * P));
  const double backward = tokens * (2 * C * N * G * 3 + H * (4 * C * P + 8 * N * P));
  const double bytes = 4 * tokens * (2 * H * P + 2 * G * N + 2 * H);
  return {.example = example(s), .forward_flops = forward, .forward_bytes = bytes, .backward_flops = backward, .backward_bytes = 2 * bytes,
          .large = s.B >= 8};
}

const RegisterCase registered{{
    .room = "ssd_scan",
    .ops = {"ssd_scan"},
    .examples = examples(),
    .looks_back = true,
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {bench({.B = 1, .T = 2048, .H = 24, .P = 64, .G = 1, .N = 128, .initial = false}),
              bench({.B = 4, .T = 512, .H = 8, .P = 64, .G = 1, .N = 64, .initial = false}),
              bench({.B = 8, .T = 2048, .H = 24, .P = 64, .G = 1, .N = 128, .initial = false}),
              bench({.B = 8, .T = 2048, .H = 3, .P = 512, .G = 3, .N = 256, .dt = false, .d = false, .initial = false, .slowest = 0.004, .fastest = 0.03})},
    .checks = {{"survives extreme decays", survives_extreme_decays},
               {"holds over 1000 tokens", holds_over_1000_tokens},
               {"a split run equals one run", a_split_run_equals_one_run},
               {"the final state alone has gradients", final_state_alone_has_gradients},
               {"refuses bad shapes", refuses_bad_shapes}},
    .huge = {example({.B = huge_rows(64 * 64 * 64), .T = 64, .H = 64, .P = 64, .G = 1, .N = 64, .initial = false})},
}};

}  // namespace
}  // namespace taper::test
