// l2_norm: against its composition from plain ops where the sum is one number, and its own truths.
#include <cmath>

#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

// One row from plain ops: x * (sum(x^2) + eps)^(-1/2).
Var composed(const Var& x, double eps) {
  const Var squares = add(sum(square(x)), constant(full(x.value.device(), {}, x.value.dtype(), eps)));
  return multiply(x, exp(scale(log(squares), -0.5)));
}

Example example(const Shape& shape, double eps, bool one_row = false) {
  Example e{.name = fmt::format("{} eps={}", shape.text(), eps),
            .inputs = {{.edge = "x", .shape = shape}},
            .build = [eps](const std::vector<Var>& in, const Packing&) { return std::vector{l2_norm(in[0], eps)}; }};
  if (one_row)
    e.definition = [eps](const std::vector<Var>& in, const Packing&) { return std::vector{composed(in[0], eps)}; };
  return e;
}

struct Outcome {
  std::vector<double> y, d_x;
};
Outcome run(const Shape& shape, const std::vector<double>& x, const std::vector<double>& d_y, double eps, Dtype t) {
  Device& cpu = open_device("cpu");
  Tape tape;
  const Var y = l2_norm(tape.leaf("x", from_doubles(cpu, shape, t, x)), eps);
  return {to_doubles(y.value), to_doubles(backward(y, from_doubles(cpu, shape, t, d_y)).at("x"))};
}

// Rows of very different sizes all get length 1, and no gradient along themselves.
void rows_have_length_one() {
  std::vector<double> x, d_y;
  for (int i = 0; i < 3 * 50; ++i) {
    x.push_back((i % 7 - 3) * std::pow(10.0, 4 * (i / 50) - 4));
    d_y.push_back(i % 5 - 1.0);
  }
  for (Dtype t : {Dtype::f32, Dtype::f64}) {
    const Outcome got = run({3, 50}, x, d_y, 1e-18, t);
    for (size_t r = 0; r < 3; ++r) {
      double squares = 0, along = 0, size = 0;
      for (size_t j = r * 50; j < (r + 1) * 50; ++j) {
        squares += got.y[j] * got.y[j];
        along += got.y[j] * got.d_x[j];
        size += std::abs(got.d_x[j]);
      }
      expect(std::abs(squares - 1) < 1e-6, "row {}: the squares must add up to 1; got {}", r, squares);
      expect(size > 0 && std::abs(along) < 1e-6 * size, "row {}: the gradient must be across the row; along it is {}", r,
             along);
    }
  }
}

void a_row_of_zeros_stays_zero() {
  for (Dtype t : {Dtype::f32, Dtype::f64, Dtype::bf16}) {
    const Outcome got = run({3}, {0, 0, 0}, {1, -2, 4}, 0.0625, t);
    for (double y : got.y) expect(y == 0, "want 0; got {}", y);
    expect(got.d_x == std::vector<double>({4, -8, 16}), "d_x must be d_y / sqrt(eps); its first is {}", got.d_x[0]);
  }
}

// The eps of RWKV-7's max(|x|, 1e-12): r^3 would overflow f32.
void a_tiny_row_with_a_tiny_eps_stays_finite() {
  const Outcome got = run({2}, {3e-13, 4e-13}, {1, 1}, 1e-24, Dtype::f32);
  const Outcome want = run({2}, {3e-13, 4e-13}, {1, 1}, 1e-24, Dtype::f64);
  expect(relative_error(got.y, want.y) < 1e-6, "y is {:.2e} off", relative_error(got.y, want.y));
  expect(relative_error(got.d_x, want.d_x) < 1e-6, "d_x is {:.2e} off", relative_error(got.d_x, want.d_x));
}

void bf16_keeps_its_statistics_in_f32() {
  // 4096 equal squares: a bf16 sum would stick at 256, and y would be 1/16.
  const Outcome got = run({4096}, std::vector<double>(4096, 1.0), std::vector<double>(4096, 0.0), 1e-9, Dtype::bf16);
  for (double y : got.y) expect(y == 1.0 / 64, "want 1/64; got {}", y);
}

void refuses_bad_input() {
  Device& cpu = open_device("cpu");
  expect_error([&] { l2_norm({}, 1e-6); }, "l2_norm: x must be [...,D]; got nothing");
  expect_error([&] { l2_norm(constant(zeros(cpu, {3, 0}, Dtype::f32)), 1e-6); },
               "l2_norm: x must be [...,D]; got [3,0]");
  expect_error([&] { l2_norm(constant(zeros(cpu, {3}, Dtype::f32)), 0); }, "l2_norm: eps must be > 0; got 0");
}

Bench bench(const Shape& shape, bool large = false) {
  const double n = double(shape.numel());
  return {.example = example(shape, 1e-6), .forward_flops = 3 * n, .forward_bytes = 8 * n, .backward_flops = 7 * n,
          .backward_bytes = 12 * n, .large = large};
}

const RegisterCase registered{{
    .room = "l2_norm",
    .ops = {"l2_norm"},
    // With one column and a small eps, y is the sign of x and the gradient is all cancellation: eps 0.5.
    .examples = {example({1}, 0.5, true), example({7}, 1e-6, true), example({65}, 1e-3, true), example({5, 1}, 0.5),
                 example({2, 3, 33}, 1e-6), example({130, 48}, 1e-6), example({7, 2, 64}, 1e-6), example({3, 776}, 1e-6)},
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {bench({1, 2048, 6, 128}), bench({8, 2048, 6, 128}, true), bench({8, 2048, 12, 64}, true)},
    .checks = {{"rows have length one", rows_have_length_one},
               {"a row of zeros stays zero", a_row_of_zeros_stays_zero},
               {"a tiny row with a tiny eps stays finite", a_tiny_row_with_a_tiny_eps_stays_finite},
               {"bf16 keeps its statistics in f32", bf16_keeps_its_statistics_in_f32},
               {"refuses bad input", refuses_bad_input}},
    .huge = {example({huge_rows(6 * 128), 6, 128}, 1e-6)},
}};

}  // namespace
}  // namespace taper::test
