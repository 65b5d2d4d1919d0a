// group_norm: against its composition from plain ops, and its own truths; layer_norm is its one-group case.
#include <cmath>

#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

// From plain ops: a product with a matrix of 1/n, block by block on the diagonal, gives each channel its group's mean.
Var composed(const Var& x, const Var& weight, const Var& bias, int64_t groups, double eps) {
  Device& device = x.value.device();
  const int64_t D = x.size(-1), n = D / groups;
  std::vector<double> blocks;
  for (int64_t i = 0; i < D * D; ++i) blocks.push_back(i / D / n == i % D / n ? 1 / double(n) : 0);
  const Var average = constant(from_doubles(device, {D, D}, x.value.dtype(), blocks));
  const Var centred = subtract(x, matmul(x, average));
  const Var variance = add(matmul(square(centred), average), constant(full(device, {}, x.value.dtype(), eps)));
  return add(multiply(multiply(centred, exp(scale(log(variance), -0.5))), weight), bias);
}

Example example(const Shape& shape, int64_t groups, double eps) {
  const Shape last = {shape[-1]};
  return {.name = fmt::format("{} G={} eps={}", shape.text(), groups, eps),
          .inputs = {{.edge = "x", .shape = shape},
                     {.edge = "weight", .shape = last, .fill = uniform(0.5, 1.5), .wide = true},
                     {.edge = "bias", .shape = last, .wide = true}},
          .build = [=](const std::vector<Var>& in, const Packing&) {
            return std::vector{group_norm(in[0], in[1], in[2], groups, eps)};
          },
          .definition = [=](const std::vector<Var>& in, const Packing&) {
            return std::vector{composed(in[0], in[1], in[2], groups, eps)};
          }};
}

// With added: against add and group_norm (the law "fused = composed"). wide: of bf16, x stays f32.
Example add_example(const Shape& shape, int64_t groups, double eps, bool wide = false) {
  const Shape last = {shape[-1]};
  return {.name = fmt::format("{} G={} eps={} added{}", shape.text(), groups, eps, wide ? " to f32" : ""),
          .inputs = {{.edge = "x", .shape = shape, .wide = wide},
                     {.edge = "added", .shape = shape},
                     {.edge = "weight", .shape = last, .fill = uniform(0.5, 1.5), .wide = true},
                     {.edge = "bias", .shape = last, .wide = true}},
          .build = [=](const std::vector<Var>& in, const Packing&) {
            const NormResult r = add_group_norm(in[0], in[1], in[2], in[3], groups, eps);
            return std::vector{r.y, r.sum};
          },
          .definition = [=](const std::vector<Var>& in, const Packing&) {
            const Var s = add(in[0], in[1]);
            return std::vector{group_norm(s, in[2], in[3], groups, eps), s};
          },
          .timed_outputs = {0, 1}};
}

Bench bench(int64_t B, int64_t groups, double eps, bool large = false) {
  const double n = double(B) * 2048 * 768;
  Example e = example({B, 2048, 768}, groups, eps);
  e.definition = {};
  return {.example = e, .forward_flops = 7 * n, .forward_bytes = 8 * n, .backward_flops = 14 * n, .backward_bytes = 12 * n,
          .large = large};
}

Bench add_bench(int64_t B, bool wide, bool large) {
  const double n = double(B) * 2048 * 768;
  return {.example = add_example({B, 2048, 768}, 1, 1e-5, wide), .forward_flops = 8 * n, .forward_bytes = 16 * n,
          .backward_flops = 15 * n, .backward_bytes = 16 * n, .large = large};
}

// x as rows of D, with weight 1 and bias 0.
std::vector<double> normed(const std::vector<double>& x, int64_t D, int64_t groups, double eps, Dtype t) {
  Device& cpu = open_device("cpu");
  const Var v = constant(from_doubles(cpu, {int64_t(x.size()) / D, D}, t, x));
  return to_doubles(group_norm(v, constant(full(cpu, {D}, wide(t), 1)), constant(full(cpu, {D}, wide(t), 0)), groups, eps).value);
}

// Also where the mean is a thousand times the deviation: there the squares of x alone would cancel in f32.
void groups_have_mean_0_and_variance_1() {
  const size_t n = 50;
  std::vector<double> x;
  for (size_t i = 0; i < 6 * n; ++i) x.push_back(double(i * i % 7) * std::pow(4.0, double(i / n)) + (i / n % 2 ? 4096 : 0));
  for (Dtype t : {Dtype::f32, Dtype::f64}) {
    const auto y = normed(x, 2 * int64_t(n), 2, 1e-12, t);
    for (size_t g = 0; g < 6; ++g) {
      double mean = 0, square = 0;
      for (size_t j = 0; j < n; ++j) mean += y[g * n + j] / double(n), square += y[g * n + j] * y[g * n + j] / double(n);
      const double limit = t == Dtype::f32 ? 3e-4 : 1e-11;
      expect(std::abs(mean) < limit, "group {}: the mean must be 0; got {}", g, mean);
      expect(std::abs(square - mean * mean - 1) < limit, "group {}: the variance must be 1; got {}", g, square - mean * mean);
    }
  }
}

void a_constant_row_stays_finite() {
  Device& cpu = open_device("cpu");
  Tape tape;
  const Var x = tape.leaf("x", full(cpu, {2, 7}, Dtype::f32, 0.1));
  const Var y = layer_norm(x, constant(full(cpu, {7}, Dtype::f32, 3)), constant(full(cpu, {7}, Dtype::f32, 0.25)), 1e-5);
  for (double v : to_doubles(y.value)) expect(std::abs(v - 0.25) < 1e-4, "want the bias 0.25; got {}", v);
  // d_y of one channel: what is left of d_x is r w (1 - 1/7) there, with r = eps^-1/2, and -r w / 7 elsewhere.
  std::vector<double> one(14, 0.0);
  one[3] = 1;
  const auto d = to_doubles(backward(y, from_doubles(cpu, {2, 7}, Dtype::f32, one)).at("x"));
  for (size_t j = 0; j < 14; ++j) {
    const double want = j < 7 ? 3 / std::sqrt(1e-5) * ((j == 3) - 1.0 / 7) : 0;
    expect(std::abs(d[j] - want) <= 1e-4 * std::abs(want), "d_x[{}] must be {}; got {}", j, want, d[j]);
  }
}

void bf16_keeps_its_statistics_in_f32() {
  // 1 and 3 in turn, 4096 of them: mean 2, variance 1; sums in bf16 would stick at 512.
  std::vector<double> x;
  for (int i = 0; i < 4096; ++i) x.push_back(i % 2 ? 3 : 1);
  const auto y = normed(x, 4096, 1, 1e-9, Dtype::bf16);
  for (size_t i = 0; i < y.size(); ++i) expect(y[i] == (i % 2 ? 1 : -1), "y[{}] must be {}; got {}", i, i % 2 ? 1 : -1, y[i]);
}

void only_wanted_gradients_are_computed() {
  Device& cpu = open_device("cpu");
  const std::vector<double> v = {1, 2, 4, 8, -3, 5, 0.5, 9}, w = {1, 2, 3, 4}, seed = {1, -1, 2, 0.5, 3, 1, -2, 4};
  auto run = [&](bool x, bool weight, bool bias) {
    Tape tape;
    auto in = [&](bool tracked, const char* name, const Tensor& t) { return tracked ? tape.leaf(name, t) : constant(t); };
    const Var vx = in(x, "x", from_doubles(cpu, {2, 4}, Dtype::f64, v));
    const Var vw = in(weight, "weight", from_doubles(cpu, {4}, Dtype::f64, w));
    const Var vb = in(bias, "bias", from_doubles(cpu, {4}, Dtype::f64, w));
    return backward(group_norm(vx, vw, vb, 2, 1e-3), from_doubles(cpu, {2, 4}, Dtype::f64, seed));
  };
  const auto all = run(true, true, true);
  for (int i = 0; i < 3; ++i) {
    const auto one = run(i == 0, i == 1, i == 2);
    expect(one.size() == 1, "one gradient was wanted; got {}", one.size());
    expect_same_bits(one.begin()->second, all.at(one.begin()->first), one.begin()->first.c_str());
  }
  expect(to_doubles(all.at("bias")) == std::vector<double>{4, 0, 0, 4.5}, "d_bias must be the column sums of d_y");
}

void refuses_bad_input() {
  Device& cpu = open_device("cpu");
  auto of = [&](const Shape& shape, Dtype t = Dtype::f32) { return constant(zeros(cpu, shape, t)); };
  expect_error([&] { group_norm(of({}), of({6}), of({6}), 2, 1e-5); }, "group_norm: x must be [...,D]; got []");
  expect_error([&] { group_norm({}, of({6}), of({6}), 2, 1e-5); }, "group_norm: x must be [...,D]; got nothing");
  expect_error([&] { group_norm(of({2, 6}), of({6}), of({6}), 4, 1e-5); }, "group_norm: groups must divide D = 6; got 4");
  expect_error([&] { group_norm(of({2, 6}), of({6}), of({6}), 0, 1e-5); }, "group_norm: groups must divide D = 6; got 0");
  expect_error([&] { group_norm(of({2, 6}), of({2}), of({6}), 2, 1e-5); },
               "group_norm: weight must be f32 [6] to match x [2,6]; got f32 [2]");
  expect_error([&] { group_norm(of({2, 6}), of({6}), of({6}, Dtype::f64), 2, 1e-5); },
               "group_norm: bias must be f32 [6] to match x [2,6]; got f64 [6]");
  expect_error([&] { add_group_norm(of({2, 6}), of({6}), of({6}), of({6}), 2, 1e-5); },
               "group_norm: added must have the shape and dtype of x f32 [2,6], or be bf16 beside f32; got f32 [6]");
  expect_error([&] { layer_norm(of({2, 6}), of({6}), {}, 1e-5); },
               "group_norm: bias must be f32 [6] to match x [2,6]; got f32 nothing");
  expect_error([&] { group_norm(of({2, 6}), of({6}), of({6}), 2, 0); }, "group_norm: eps must be > 0; got 0");
}

const RegisterCase registered{{
    .room = "group_norm",
    .ops = {"group_norm"},
    // Two channels with a small eps are -1 and 1, and the gradient is all cancellation: eps 0.5.
    .examples = {example({1}, 1, 0.5), example({7}, 1, 1e-5), example({3, 2}, 1, 0.5), example({2, 3, 32}, 4, 64e-5),
                 example({5, 33}, 3, 1e-5), example({4, 3}, 3, 0.5), example({70, 48}, 1, 1e-5), example({2, 150}, 2, 1e-3),
                 example({7, 192}, 3, 64e-5), example({3, 768}, 1, 1e-5), example({2, 520}, 1, 1e-5),
                 add_example({2, 3, 32}, 4, 64e-5), add_example({5, 33}, 3, 1e-5), add_example({70, 48}, 1, 1e-5),
                 add_example({11, 768}, 1, 1e-5), add_example({5, 33}, 1, 1e-5, true), add_example({67, 768}, 1, 1e-5, true)},
    .bf16 = Tolerance{5e-3, 8e-3},
    .rounded_alone = true,
    .bench = {bench(1, 12, 64e-5), bench(1, 1, 1e-5), bench(8, 12, 64e-5, true), bench(8, 1, 1e-5, true),
              add_bench(1, false, false), add_bench(8, false, true), add_bench(8, true, true)},
    .checks = {{"groups have mean 0 and variance 1", groups_have_mean_0_and_variance_1},
               {"a constant row stays finite", a_constant_row_stays_finite},
               {"bf16 keeps its statistics in f32", bf16_keeps_its_statistics_in_f32},
               {"only wanted gradients are computed", only_wanted_gradients_are_computed},
               {"refuses bad input", refuses_bad_input}},
    .huge = {example({huge_rows(768), 768}, 12, 64e-5), example({huge_rows(1001), 1001}, 7, 1e-5)},
}};

}  // namespace
}  // namespace taper::test
