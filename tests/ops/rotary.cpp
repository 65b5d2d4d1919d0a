// rotary: angles by hand, far positions, positions carried over segments.
#include <cmath>

#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

Example example(int64_t B, int64_t T, int64_t H, int64_t K) {
  return {.name = fmt::format("B={} T={} H={} K={}", B, T, H, K),
          .inputs = {{.edge = "x", .shape = {B, T, H, K}, .time_axis = 1}},
          .build = [](const std::vector<Var>& in, const Packing& packing) { return std::vector{rotary(in[0], packing)}; }};
}

std::vector<Example> examples() {
  std::vector<Example> all;
  for (int64_t T : {1, 2, 3, 7, 33}) all.push_back(example(2, T, 2, 6));
  all.push_back(example(3, 20, 1, 2));
  all.push_back(example(2, 9, 3, 32));
  return all;
}

void equals_its_formula() {
  Device& cpu = open_device("cpu");
  const int64_t T = 5;
  std::vector<double> v;
  for (int64_t i = 0; i < T * 4; ++i) v.push_back(Random(4, "x").normal(uint64_t(i)));
  const auto y = to_doubles(rotary(constant(from_doubles(cpu, {1, T, 1, 4}, Dtype::f64, v)), make_packing(cpu, 1, T, {{3}})).value);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t n = 0; n < 2; ++n) {
      const double angle = double(t < 3 ? t : t - 3) * (n == 0 ? 1.0 : 0.01);
      const double low = v[size_t(t * 4 + n)], high = v[size_t(t * 4 + 2 + n)];
      expect(std::abs(y[size_t(t * 4 + n)] - (low * std::cos(angle) - high * std::sin(angle))) < 1e-14, "y[{},{}]", t, n);
      expect(std::abs(y[size_t(t * 4 + 2 + n)] - (low * std::sin(angle) + high * std::cos(angle))) < 1e-14, "y[{},{}]", t, n + 2);
    }
}

// t0 moves the first document's positions, and no other's; segments join to the bits of one pass.
void positions_go_on_from_t0() {
  Device& cpu = open_device("cpu");
  const int64_t T = 12, K = 8;
  std::vector<double> v;
  for (int64_t i = 0; i < T * K; ++i) v.push_back(Random(4, "x").normal(uint64_t(i)));
  const Tensor x = from_doubles(cpu, {T, K}, Dtype::f32, v);
  auto part = [&](const Tensor& t, int64_t begin, int64_t end) { return t.reshape(Shape{T, K}).rows(begin, end).reshape(Shape{1, end - begin, 1, K}); };
  const Tensor whole = rotary(constant(part(x, 0, T)), {}).value;
  for (int64_t step : {1, 2, 5})
    for (int64_t t = 0; t < T; t += step) {
      const int64_t end = std::min(T, t + step);
      const Packing from{.start = {}, .t0 = from_host<int64_t>(cpu, {1}, {t})};
      expect_same_bits(rotary(constant(part(x, t, end)), from).value, part(whole, t, end), "segment");
    }
  Packing packing = make_packing(cpu, 1, T, {{4}});
  packing.t0 = from_host<int64_t>(cpu, {1}, {100});
  const Tensor y = rotary(constant(part(x, 0, T)), packing).value;
  expect_same_bits(part(y, 4, T), rotary(constant(part(x, 4, T)), {}).value, "the second document");
}

// Scores depend on the distance alone, also far out where an f32 angle would be off.
void far_scores_equal_near_ones() {
  Device& cpu = open_device("cpu");
  const int64_t K = 16;
  auto score = [&](int64_t t0) {  // q at position t0+3 against k at t0
    std::vector<double> v;
    for (int64_t i = 0; i < 4 * K; ++i) v.push_back(Random(4, "x").normal(uint64_t(i)));
    const auto y = to_doubles(rotary(constant(from_doubles(cpu, {1, 4, 1, K}, Dtype::f32, v)),
                                     {.start = {}, .t0 = from_host<int64_t>(cpu, {1}, {t0})}).value);
    double sum = 0;
    for (int64_t n = 0; n < K; ++n) sum += y[size_t(n)] * y[size_t(3 * K + n)];
    return sum;
  };
  for (int64_t t0 : {1000, 1000000, 100000000}) expect(std::abs(score(t0) - score(0)) < 1e-5, "at {}: want {}; got {}", t0, score(0), score(t0));
}

void refuses_bad_input() {
  Device& cpu = open_device("cpu");
  auto of = [&](const Shape& shape) { return constant(zeros(cpu, shape, Dtype::f32)); };
  expect_error([&] { rotary(of({2, 7, 3}), {}); }, "rotary: x must be [B,T,H,K] with K even; got [2,7,3]");
  expect_error([&] { rotary(of({2, 7, 1, 3}), {}); }, "rotary: x must be [B,T,H,K] with K even; got [2,7,1,3]");
  expect_error([&] { rotary(of({2, 7, 1, 4}), {}, 1); }, "rotary: base must be above 1; got 1");
}

Bench bench(int64_t B, bool large = false) {
  const double n = double(B) * 2048 * 768;
  return {.example = example(B, 2048, 3, 256), .forward_flops = 3 * n, .forward_bytes = 8 * n, .backward_flops = 3 * n,
          .backward_bytes = 8 * n, .large = large};
}

const RegisterCase registered{{
    .room = "rotary",
    .ops = {"rotary"},
    .examples = examples(),
    .looks_back = true,
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {bench(1), bench(8, true)},
    .checks = {{"equals its formula", equals_its_formula},
               {"positions go on from t0", positions_go_on_from_t0},
               {"far scores equal near ones", far_scores_equal_near_ones},
               {"refuses bad input", refuses_bad_input}},
    .huge = {example(huge_rows(64 * 4 * 128), 64, 4, 128), example(huge_rows(64 * 4 * 126), 64, 4, 126)},
}};

}  // namespace
}  // namespace taper::test
