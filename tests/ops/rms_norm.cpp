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

void refuses_a_weight_of_another_size() {
  Device& cpu = open_device("cpu");
  auto of = [&](const Shape& shape, Dtype t = Dtype::f32) { return constant(zeros(cpu, shape, t)); };
  expect_error([&] { rms_norm(of({2, 3}), of({2}), 1e-5); },
               "rms_norm: weight must be f32 [3] to match x [2,3]; got f32 [2]");
  expect_error([&] { rms_norm(of({2, 3}), of({3}, Dtype::f64), 1e-5); },
               "rms_norm: weight must be f32 [3] to match x [2,3]; got f64 [3]");
  expect_error([&] { rms_norm(of({2, 3}, Dtype::bf16), of({3}, Dtype::bf16), 1e-5); },
               "rms_norm: weight must be f32 [3] to match x [2,3]; got bf16 [3]");
  expect_error([&] { rms_norm(of({2, 3}), of({3}), 0); }, "rms_norm: eps must be > 0; got 0");
}

Bench bench(const Shape& shape, bool large = false) {
  const double n = double(shape.numel());
  return {.example = example(shape, 1e-5), .forward_flops = 4 * n, .forward_bytes = 8 * n, .backward_flops = 9 * n,
          .backward_bytes = 12 * n, .large = large};
}

const RegisterCase registered{{
    .room = "rms_norm",
    .ops = {"rms_norm"},
    // With one column and a small eps, y is the sign of x and the gradient is all cancellation: eps 0.5.
    .examples = {example({1}, 0.5, true), example({7}, 1e-5, true), example({65}, 1e-3, true), example({5, 1}, 0.5),
                 example({2, 3, 33}, 1e-5), example({130, 48}, 1e-6), example({11, 768}, 1e-5), example({3, 2064}, 1e-5)},
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {bench({1, 2048, 768}), bench({8, 2048, 768}, true), bench({8, 2048, 1024}, true)},
    .checks = {{"rows have unit mean square", rows_have_unit_mean_square},
               {"a row of zeros stays finite", a_row_of_zeros_stays_finite},
               {"bf16 keeps its statistics in f32", bf16_keeps_its_statistics_in_f32},
               {"refuses a weight of another size", refuses_a_weight_of_another_size}},
    .huge = {example({huge_rows(768), 768}, 1e-5), example({huge_rows(1001), 1001}, 1e-5)},
}};

}  // namespace
}  // namespace taper::test
