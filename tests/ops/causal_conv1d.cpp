// causal_conv1d: short and long windows, history and tail, document starts, one step at a time.
#include <cmath>

#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

struct Dims {
  int64_t B, T, D, W;
  bool bias = true, history = true, silu = true;
};

Example example(const Dims& s) {
  Example e{.name = fmt::format("B={} T={} D={} W={}{}{}{}", s.B, s.T, s.D, s.W, s.bias ? " bias" : "",
                                s.history ? " history" : "", s.silu ? " silu" : ""),
            .inputs = {{.edge = "x", .shape = {s.B, s.T, s.D}, .time_axis = 1},
                       {.edge = "weight", .shape = {s.D, 1, s.W}, .wide = true}},
            .build = [s](const std::vector<Var>& in, const Packing& packing) {
              const Var bias = s.bias ? in[2] : Var{}, history = s.history ? in[s.bias ? 3 : 2] : Var{};
              const ConvResult r = causal_conv1d(in[0], in[1], bias, history, packing, s.silu);
              return std::vector{r.y, r.tail};
            }};
  if (s.bias) e.inputs.push_back({.edge = "bias", .shape = {s.D}, .wide = true});
  if (s.history) e.inputs.push_back({.edge = "history", .shape = {s.B, s.W - 1, s.D}, .carried = true});
  return e;
}

std::vector<Example> examples() {
  std::vector<Example> all;
  for (int64_t W : {2, 4})
    for (int64_t T : {1, 2, 3, 7, 33}) all.push_back(example({.B = 2, .T = T, .D = 3, .W = W}));
  all.push_back(example({.B = 1, .T = 1, .D = 1, .W = 4, .history = false}));
  all.push_back(example({.B = 3, .T = 9, .D = 5, .W = 4, .bias = false, .history = false}));
  all.push_back(example({.B = 2, .T = 8, .D = 17, .W = 4, .bias = false, .silu = false}));
  all.push_back(example({.B = 1, .T = 140, .D = 6, .W = 4}));  // several stretches of the backward
  all.push_back(example({.B = 1, .T = 70, .D = 2, .W = 7, .silu = false}));
  // Channels in whole vectors, within one stretch of time and over several.
  for (int64_t T : {1, 2, 5}) all.push_back(example({.B = 2, .T = T, .D = 8, .W = 4}));
  all.push_back(example({.B = 2, .T = 37, .D = 40, .W = 4}));
  all.push_back(example({.B = 1, .T = 150, .D = 136, .W = 4, .bias = false, .history = false}));
  all.push_back(example({.B = 3, .T = 20, .D = 4, .W = 4, .silu = false}));
  return all;
}

struct Data {
  Tensor x, weight, bias, history;
};
Data data(const Dims& s, Dtype dtype) {
  auto of = [&](const char* what, const Shape& shape, Dtype dtype) {
    std::vector<double> v;
    for (int64_t i = 0; i < shape.numel(); ++i) v.push_back(float(Random(4, what).normal(uint64_t(i))));
    return from_doubles(open_device("cpu"), shape, dtype, v);
  };
  return {of("x", {s.B, s.T, s.D}, dtype), of("weight", {s.D, 1, s.W}, wide(dtype)), of("bias", {s.D}, wide(dtype)),
          of("history", {s.B, s.W - 1, s.D}, dtype)};
}

// Another way to the same numbers: the input is looked up by time, one output at a time.
void equals_its_formula() {
  Device& cpu = open_device("cpu");
  const Dims s{.B = 2, .T = 11, .D = 3, .W = 4};
  const std::vector<std::vector<int64_t>> starts = {{2, 3, 9}, {}};
  const Data in = data(s, Dtype::f64);
  const auto x = to_doubles(in.x), w = to_doubles(in.weight), bias = to_doubles(in.bias), history = to_doubles(in.history);
  auto input = [&](int64_t b, int64_t t, int64_t time, int64_t d) {  // what position t sees of `time`
    int64_t start = 0;
    for (int64_t at : starts[size_t(b)])
      if (at <= t) start = at;
    if (time < start && (start > 0 || time < 1 - s.W)) return 0.0;
    return time < 0 ? history[size_t((b * (s.W - 1) + s.W - 1 + time) * s.D + d)] : x[size_t((b * s.T + time) * s.D + d)];
  };
  const ConvResult r = causal_conv1d(constant(in.x), constant(in.weight), constant(in.bias), constant(in.history),
                                     make_packing(cpu, s.B, s.T, starts), true);
  const auto y = to_doubles(r.y.value), tail = to_doubles(r.tail.value);
  for (int64_t b = 0; b < s.B; ++b)
    for (int64_t d = 0; d < s.D; ++d) {
      for (int64_t t = 0; t < s.T; ++t) {
        double pre = bias[size_t(d)];
        for (int64_t j = 0; j < s.W; ++j) pre += w[size_t(d * s.W + j)] * input(b, t, t - s.W + 1 + j, d);
        const double want = pre / (1 + std::exp(-pre)), got = y[size_t((b * s.T + t) * s.D + d)];
        expect(std::abs(got - want) < 1e-14, "y[{},{},{}]: want {}; got {}", b, t, d, want, got);
      }
      for (int64_t i = 0; i < s.W - 1; ++i) {
        const double want = input(b, s.T - 1, s.T - s.W + 1 + i, d), got = tail[size_t((b * (s.W - 1) + i) * s.D + d)];
        expect(got == want, "tail[{},{},{}]: want {}; got {}", b, i, d, want, got);
      }
    }
}

// A window cut anywhere, the tail handed on as history: the same bits, down to single steps.
void segments_equal_one_pass() {
  Device& cpu = open_device("cpu");
  const Dims s{.B = 1, .T = 12, .D = 5, .W = 4};
  for (Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16}) {
    const Data in = data(s, dtype);
    const Var w = constant(in.weight), bias = constant(in.bias);
    const ConvResult whole = causal_conv1d(constant(in.x), w, bias, {}, {}, true);
    for (int64_t step : {1, 2, 5}) {
      Var history;
      for (int64_t t = 0; t < s.T; t += step) {
        const int64_t end = std::min(s.T, t + step);
        const Tensor part = in.x.reshape(Shape{s.T, s.D}).rows(t, end).reshape(Shape{1, end - t, s.D});
        const ConvResult r = causal_conv1d(constant(part), w, bias, history, {}, true);
        expect_same_bits(r.y.value, whole.y.value.reshape(Shape{s.T, s.D}).rows(t, end).reshape(Shape{1, end - t, s.D}), "segment");
        history = constant(r.tail.value);
      }
      expect_same_bits(history.value, whole.tail.value, "last tail");
    }
  }
  // A document that begins in the last segment hides what came before it.
  const Data in = data(s, Dtype::f64);
  const Tensor tail = causal_conv1d(constant(in.x), constant(in.weight), {}, constant(in.history),
                                    make_packing(cpu, 1, s.T, {{s.T - 1}}), true)
                          .tail.value;
  const auto v = to_doubles(tail), x = to_doubles(in.x);
  for (size_t i = 0; i < v.size(); ++i)
    expect(v[i] == (i < 10 ? 0 : x[55 + i - 10]), "tail element {}: got {}", i, v[i]);
}

// A loss on the tail alone still reaches x and the history.
void the_tail_alone_has_a_gradient() {
  Device& cpu = open_device("cpu");
  const Dims s{.B = 1, .T = 2, .D = 2, .W = 4};
  const Data in = data(s, Dtype::f64);
  Tape tape;
  const ConvResult r = causal_conv1d(tape.leaf("x", in.x), tape.leaf("weight", in.weight), {}, tape.leaf("history", in.history), {}, true);
  const auto d = backward(r.tail, from_doubles(cpu, {1, 3, 2}, Dtype::f64, {{1, 2, 3, 4, 5, 6}}));
  expect(to_doubles(d.at("history")) == std::vector<double>{0, 0, 0, 0, 1, 2}, "only the last of the history is in the tail");
  expect(to_doubles(d.at("x")) == std::vector<double>{3, 4, 5, 6}, "x is the rest of the tail");
  expect(to_doubles(d.at("weight")) == std::vector<double>(8, 0.0), "the tail does not depend on the weight");
}

void refuses_shapes_that_do_not_match() {
  Device& cpu = open_device("cpu");
  auto of = [&](const Shape& shape, Dtype t = Dtype::f32) { return constant(zeros(cpu, shape, t)); };
  const Var x = of({2, 7, 3}), w = of({3, 1, 4});
  expect_error([&] { causal_conv1d(of({7, 3}), w, {}, {}, {}, true); },
               "causal_conv1d: x must be [B,T,D] with T >= 1; got [7,3]");
  expect_error([&] { causal_conv1d(x, of({3, 4}), {}, {}, {}, true); },
               "causal_conv1d: weight must be [3,1,W] to match x [2,7,3]; got [3,4]");
  expect_error([&] { causal_conv1d(x, w, of({4}), {}, {}, true); },
               "causal_conv1d: bias must be [3] to match x [2,7,3]; got [4]");
  expect_error([&] { causal_conv1d(x, w, {}, of({2, 4, 3}), {}, true); },
               "causal_conv1d: history must be [2,3,3]; got [2,4,3]");
  expect_error([&] { causal_conv1d(x, w, of({3}, Dtype::f64), {}, {}, true); },
               "causal_conv1d: all inputs must have the dtype of x, f32; got f64");
  expect_error([&] { causal_conv1d(of({2, 7, 3}, Dtype::bf16), of({3, 1, 4}, Dtype::bf16), {}, {}, {}, true); },
               "causal_conv1d: all inputs must have the dtype of x, bf16, but weight and bias f32; got bf16");
  expect_error([&] { causal_conv1d(x, w, {}, {}, {.start = zeros(cpu, {2, 6}, Dtype::i32)}, true); },
               "causal_conv1d: packing start must be i32 [2,7]; got i32 [2,6]");
}

Bench bench(const Dims& s, bool large = false) {
  const double n = double(s.B * s.T * s.D);
  return {.example = example(s), .forward_flops = 12 * n, .forward_bytes = 8 * n, .backward_flops = 32 * n,
          .backward_bytes = 12 * n, .large = large};
}

const RegisterCase registered{{
    .room = "causal_conv1d",
    .ops = {"causal_conv1d"},
    .examples = examples(),
    .looks_back = true,
    .bf16 = Tolerance{5e-3, 8e-3},
    .rounded_alone = true,
    // d_model 768: 1536 + 2 * 128 channels.
    .bench = {bench({.B = 1, .T = 2048, .D = 1792, .W = 4, .history = false}),
              bench({.B = 8, .T = 2048, .D = 1792, .W = 4, .history = false}, true),
              bench({.B = 8, .T = 2048, .D = 768, .W = 4, .bias = false, .history = false}, true)},
    .checks = {{"equals its formula", equals_its_formula},
               {"segments equal one pass", segments_equal_one_pass},
               {"the tail alone has a gradient", the_tail_alone_has_a_gradient},
               {"refuses shapes that do not match", refuses_shapes_that_do_not_match}},
    .huge = {example({.B = huge_rows(64 * 1792), .T = 64, .D = 1792, .W = 4, .history = false}),
             example({.B = huge_rows(64 * 1001), .T = 64, .D = 1001, .W = 3, .history = false})},
}};

}  // namespace
}  // namespace taper::test
