// rms_norm: against its composition from plain ops where the mean is one number, and its own truths.
#include <cmath>

#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

// One row from plain ops: x * (mean(x^2) + eps)^(-1/2) * w.
Var composed(const Var& x, const Var& w, double eps) {
  const Var mean_square = add(mean(square(x)), constant(full(x.value.device(), {}, x.value.dtype(), eps)));
  return multiply(multiply(x, exp(scale(log(mean_square), -0.5))), w);
}

Example example(const Shape& shape, double eps, bool one_row = false) {
  Example e{.name = fmt::format("{} eps={}", shape.text(), eps),
            .inputs = {{.edge = "x", .shape = shape}, {.edge = "weight", .shape = {shape[-1]}, .fill = uniform(0.5, 1.5), .wide = true}},
            .build = [eps](const std::vector<Var>& in, const Packing&) {
              return std::vector{rms_norm(in[0], in[1], eps)};
            }};
  if (one_row)
    e.definition = [eps](const std::vector<Var>& in, const Packing&) { return std::vector{composed(in[0], in[1], eps)}; };
  return e;
}

// With added: against add and rms_norm (the law "fused = composed"). wide: of bf16, x stays f32. Outputs: y, or y and sum.
Example add_example(const Shape& shape, double eps, bool wide = false, bool sum = true) {
  const auto outputs = [sum](const NormResult& r) { return sum ? std::vector{r.y, r.sum} : std::vector{r.y}; };
  return {.name = fmt::format("{} eps={} added{}{}", shape.text(), eps, wide ? " to f32" : "", sum ? "" : ", sum unused"),
          .inputs = {{.edge = "x", .shape = shape, .wide = wide},
                     {.edge = "added", .shape = shape},
                     {.edge = "weight", .shape = {shape[-1]}, .fill = uniform(0.5, 1.5), .wide = true}},
          .build = [=](const std::vector<Var>& in, const Packing&) { return outputs(add_rms_norm(in[0], in[1], in[2], eps)); },
          .definition = [=](const std::vector<Var>& in, const Packing&) {
            const Var s = add(in[0], in[1]);
            return outputs({.y = rms_norm(s, in[2], eps), .sum = s});
          },
          .timed_outputs = {0, 1}};
}

Tensor norm_of(const std::vector<double>& x, const std::vector<double>& w, double eps, Dtype t) {
  Device& cpu = open_device("cpu");
  const int64_t D = int64_t(w.size());
  return rms_norm(constant(from_doubles(cpu, {int64_t(x.size()) / D, D}, t, x)), constant(from_doubles(cpu, {D}, wide(t), w)), eps)
      .value;
}

void rows_have_unit_mean_square() {
  std::vector<double> x;
  for (int i = 0; i < 3 * 50; ++i) x.push_back((i % 7 - 3) * std::pow(10.0, i / 50));
  for (Dtype t : {Dtype::f32, Dtype::f64}) {
    const auto y = to_doubles(norm_of(x, std::vector<double>(50, 1.0), 1e-12, t));
    for (size_t r = 0; r < 3; ++r) {
      double sum = 0;
      for (size_t j = 0; j < 50; ++j) sum += y[r * 50 + j] * y[r * 50 + j];
      expect(std::abs(sum / 50 - 1) < 1e-6, "row {}: mean square must be 1; got {}", r, sum / 50);
    }
  }
}

void a_row_of_zeros_stays_finite() {
  for (double y : to_doubles(norm_of({0, 0, 0}, {1, 2, 3}, 1e-5, Dtype::f32))) expect(y == 0, "want 0; got {}", y);
}

void bf16_keeps_its_statistics_in_f32() {
  // 4096 equal squares: a bf16 sum would stick at 256.
  const auto y = to_doubles(norm_of(std::vector<double>(4096, 1.0), std::vector<double>(4096, 1.0), 1e-9, Dtype::bf16));
  for (double v : y) expect(v == 1, "want 1; got {}", v);
}

// x f32, added bf16: the sum keeps what bf16 would lose, y is bf16; each gradient has its own dtype, and both are one number.
void a_stream_may_be_wide() {
  Device& cpu = open_device("cpu");
  Tape tape;
  const Var x = tape.leaf("x", from_doubles(cpu, {1, 2}, Dtype::f32, {{1 + 0x1p-20, 3}}));
  const Var added = tape.leaf("added", from_doubles(cpu, {1, 2}, Dtype::bf16, {{2, -6}}));
  const NormResult r = add_rms_norm(x, added, constant(full(cpu, {2}, Dtype::f32, 1)), 1e-9);
  expect(r.sum.value.dtype() == Dtype::f32 && r.y.value.dtype() == Dtype::bf16, "sum must be f32, y bf16; they are {} and {}",
         name(r.sum.value.dtype()), name(r.y.value.dtype()));
  expect(to_doubles(r.sum.value) == std::vector<double>{3 + 0x1p-20, -3}, "the sum must be rounded to f32 only");
  expect(to_doubles(r.y.value) == std::vector<double>{1, -1}, "y must be 1 and -1");
  const auto d = backward({r.y, r.sum}, {full(cpu, {1, 2}, Dtype::bf16, 0), from_doubles(cpu, {1, 2}, Dtype::f32, {{1 + 0x1p-20, 5}})});
  expect(to_doubles(d.at("x")) == std::vector<double>{1 + 0x1p-20, 5}, "d_x must be d_sum where d_y is 0");
  expect(d.at("added").dtype() == Dtype::bf16 && to_doubles(d.at("added")) == std::vector<double>{1, 5}, "d_added must be d_x in bf16");
}

// Without added the sum is x, and what comes for it is added to d_x; without a look at y nothing else is.
void the_stream_passes_through() {
  Device& cpu = open_device("cpu");
  Tape tape;
  const Var x = tape.leaf("x", from_doubles(cpu, {1, 2}, Dtype::f64, {{3, -4}}));
  const Var w = tape.leaf("w", full(cpu, {2}, Dtype::f64, 1));
  const NormResult r = add_rms_norm(x, {}, w, 1e-9);
  expect(r.sum.value.data<double>() == x.value.data<double>(), "no copy is wanted");
  const auto d = backward(r.sum, from_doubles(cpu, {1, 2}, Dtype::f64, {{7, 8}}));
  expect(to_doubles(d.at("x")) == std::vector<double>{7, 8} && to_doubles(d.at("w")) == std::vector<double>{0, 0}, "d_x must be d_sum");
}

void refuses_a_weight_of_another_size() {
  Device& cpu = open_device("cpu");
  auto of = [&](const Shape& shape, Dtype t = Dtype::f32) { return constant(zeros(cpu, shape, t)); };
  expect_error([&] { rms_norm(of({2, 3}), of({2}), 1e-5); },
               "rms_norm: weight must be f32 [3] to match x [2,3]; got f32 [2]");
  expect_error([&] { rms_norm(of({2, 3}), of({3}, Dtype::f64), 1e-5); },
               "rms_norm: weight must be f32 [3] to match x [2,3]; got f64 [3]");
  expect_error([&] { rms_norm(of({2, 3}, Dtype::bf16), of({3}, Dtype::bf16), 1e-5); },
               "rms_norm: weight must be f32 [3] to match x [2,3]; got bf16 [3]");
  expect_error([&] { add_rms_norm(of({2, 3}), of({3}), of({3}), 1e-5); },
               "rms_norm: added must have the shape and dtype of x f32 [2,3], or be bf16 beside f32; got f32 [3]");
  expect_error([&] { add_rms_norm(of({2, 3}, Dtype::bf16), of({2, 3}), of({3}), 1e-5); },
               "rms_norm: added must have the shape and dtype of x bf16 [2,3], or be bf16 beside f32; got f32 [2,3]");
  expect_error([&] { rms_norm(of({2, 3}), of({3}), 0); }, "rms_norm: eps must be > 0; got 0");
}

Bench bench(const Shape& shape, bool large = false) {
  const double n = double(shape.numel());
  return {.example = example(shape, 1e-5), .forward_flops = 4 * n, .forward_bytes = 8 * n, .backward_flops = 9 * n,
          .backward_bytes = 12 * n, .large = large};
}
Bench add_bench(const Shape& shape, bool wide, bool large) {
  const double n = double(shape.numel());
  return {.example = add_example(shape, 1e-5, wide), .forward_flops = 5 * n, .forward_bytes = 16 * n, .backward_flops = 10 * n,
          .backward_bytes = 16 * n, .large = large};
}

const RegisterCase registered{{
    .room = "rms_norm",
    .ops = {"rms_norm"},
    // With one column and a small eps, y is the sign of x and the gradient is all cancellation: eps 0.5.
    .examples = {example({1}, 0.5, true), example({7}, 1e-5, true), example({65}, 1e-3, true), example({5, 1}, 0.5),
                 example({2, 3, 33}, 1e-5), example({130, 48}, 1e-6), example({11, 768}, 1e-5), example({3, 2064}, 1e-5),
                 add_example({1}, 0.5), add_example({2, 3, 33}, 1e-5), add_example({130, 48}, 1e-6), add_example({11, 768}, 1e-5),
                 add_example({11, 768}, 1e-5, false, false), add_example({5, 33}, 1e-5, true), add_example({67, 768}, 1e-5, true),
                 add_example({3, 2064}, 1e-5, true)},
    .bf16 = Tolerance{5e-3, 8e-3},
    .rounded_alone = true,
    .bench = {bench({1, 2048, 768}), bench({8, 2048, 768}, true), bench({8, 2048, 1024}, true),
              add_bench({1, 2048, 768}, false, false), add_bench({8, 2048, 768}, false, true), add_bench({8, 2048, 768}, true, true)},
    .checks = {{"rows have unit mean square", rows_have_unit_mean_square},
               {"a row of zeros stays finite", a_row_of_zeros_stays_finite},
               {"bf16 keeps its statistics in f32", bf16_keeps_its_statistics_in_f32},
               {"a stream may be wide", a_stream_may_be_wide},
               {"the stream passes through", the_stream_passes_through},
               {"refuses a weight of another size", refuses_a_weight_of_another_size}},
    .huge = {example({huge_rows(768), 768}, 1e-5), example({huge_rows(1001), 1001}, 1e-5), add_example({huge_rows(768), 768}, 1e-5)},
}};

}  // namespace
}  // namespace taper::test
