// adamw: its checks. It has no rule, so no law but these.
#include "tensor/ops/adamw.h"

#include <cmath>

#include "tensor/parallel.h"
#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

std::vector<double> drawn(int64_t n, uint64_t seed) {
  std::vector<double> values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); ++i) values[i] = Random(seed, "adamw").normal(i);
  return values;
}

struct Run {
  Tensor value, moment1, moment2;
  Tensor scale = full(tested_device(), {}, Dtype::f64, 1);
  Tensor finite = from_host<int32_t>(tested_device(), {}, std::vector<int32_t>{1});
  int64_t steps = 0;
  Run(const Shape& shape, Dtype dtype, const std::vector<double>& start)
      : value(from_doubles(tested_device(), shape, dtype, start)), moment1(zeros_like(value)), moment2(zeros_like(value)) {}
  void step(const Tensor& gradient, double lr, double weight_decay, double eps = 1e-8) {
    ++steps;
    kernels::adamw({.tensors = {{.value = value,
                                 .gradient = gradient,
                                 .moment1 = moment1,
                                 .moment2 = moment2,
                                 .weight_decay = weight_decay}},
                    .rate = full(tested_device(), {}, Dtype::f64, lr),
                    .scale = scale,
                    .finite = finite,
                    .steps = from_host<int64_t>(tested_device(), {}, std::vector<int64_t>{steps}),
                    .beta1 = 0.9,
                    .beta2 = 0.95,
                    .eps = eps});
  }
};

// The published update, one scalar at a time: moments as weighted sums over all past gradients.
double published(double value, const std::vector<double>& gradients, double lr, double decay, double eps) {
  for (size_t t = 1; t <= gradients.size(); ++t) {
    double m = 0, v = 0, weight1 = 0, weight2 = 0;
    for (size_t k = 1; k <= t; ++k) {
      const double g = gradients[k - 1], w1 = std::pow(0.9, double(t - k)), w2 = std::pow(0.95, double(t - k));
      m += w1 * g, v += w2 * g * g, weight1 += w1, weight2 += w2;
    }
    // (1 - beta) * sum / (1 - beta^t) is the weighted mean: 1 - beta^t = (1 - beta) * sum of the weights.
    value = value - lr * decay * value - lr * (m / weight1) / (std::sqrt(v / weight2) + eps);
  }
  return value;
}

void follows_the_published_update() {
  const int64_t n = 40003, updates = 7;
  const std::vector<double> start = drawn(n, 1);
  for (Dtype dtype : {Dtype::f64, Dtype::f32}) {
    Run run({n}, dtype, start);
    std::vector<std::vector<double>> gradients(size_t(n), std::vector<double>{});
    for (int64_t t = 0; t < updates; ++t) {
      const std::vector<double> g = drawn(n, uint64_t(100 + t));
      for (size_t i = 0; i < g.size(); ++i) gradients[i].push_back(g[i]);
      run.step(from_doubles(tested_device(), {n}, dtype, g), 3e-2, 0.1);
    }
    std::vector<double> wanted(static_cast<size_t>(n));
    for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = published(start[i], gradients[i], 3e-2, 0.1, 1e-8);
    const double error = relative_error(to_doubles(run.value), wanted), limit = dtype == Dtype::f64 ? 1e-14 : 1e-6;
    expect(error <= limit, "{}: relative error must be <= {}; got {}", name(dtype), limit, error);
  }
}

// By hand: the first step of any gradient moves by lr against its sign; decay is apart from it.
void first_step_moves_by_the_rate() {
  Run run({4}, Dtype::f64, {1, 1, 1, 1});
  run.step(from_doubles(tested_device(), {4}, Dtype::f64, std::vector<double>{1e-4, -1e4, 3, 0}), 0.5, 0.1, 0);
  const std::vector<double> got = to_doubles(run.value);
  for (size_t i = 0; i < 3; ++i) {
    const double wanted = 0.95 + (i == 1 ? 0.5 : -0.5);
    expect(std::abs(got[i] - wanted) < 1e-12, "element {}: want {}; got {}", i, wanted, got[i]);
  }
  expect(std::isnan(got[3]), "0 / 0 with eps = 0 is NaN; got {}", got[3]);
}

void tiny_eps_keeps_zero_gradients_still() {
  Run run({2}, Dtype::f32, {1, -2});
  run.step(zeros(tested_device(), {2}, Dtype::f32), 0.5, 0, 1e-18);
  expect(to_doubles(run.value) == std::vector<double>{1, -2}, "a zero gradient must move nothing");
}

void scale_multiplies_the_gradient() {
  Run scaled({1000}, Dtype::f64, drawn(1000, 1)), plain({1000}, Dtype::f64, drawn(1000, 1));
  scaled.scale = full(tested_device(), {}, Dtype::f64, 0.25);
  std::vector<double> g = drawn(1000, 2);
  scaled.step(from_doubles(tested_device(), {1000}, Dtype::f64, g), 1e-2, 0.1);
  for (double& x : g) x *= 0.25;
  plain.step(from_doubles(tested_device(), {1000}, Dtype::f64, g), 1e-2, 0.1);
  expect_same_bits(scaled.value, plain.value, "value");
  expect_same_bits(scaled.moment2, plain.moment2, "moment2");
}

void a_refused_step_writes_nothing() {
  Run run({1000}, Dtype::f32, drawn(1000, 1));
  run.step(from_doubles(tested_device(), {1000}, Dtype::f32, drawn(1000, 2)), 1e-2, 0.1);
  const Tensor before[] = {clone(run.value), clone(run.moment1), clone(run.moment2)};
  run.finite = zeros(tested_device(), {}, Dtype::i32);
  run.step(full(tested_device(), {1000}, Dtype::f32, std::nan("")), 1e-2, 0.1);
  expect_same_bits(run.value, before[0], "value");
  expect_same_bits(run.moment1, before[1], "moment1");
  expect_same_bits(run.moment2, before[2], "moment2");
}

// More tensors than one table of a GPU holds, of both dtypes, empty and unaligned ones among them.
void many_tensors_are_each_alone() {
  const Tensor memory = from_doubles(tested_device(), {4 * 20001}, Dtype::f32, drawn(4 * 20001, 5));
  const auto lists = [&] {
    std::vector<kernels::AdamWTensor> list;
    for (int64_t i = 0; i < 150; ++i) {
      const int64_t n = i % 50 == 7 ? 0 : i % 30 == 3 ? 9001 : 1 + 37 * i;
      const Dtype dtype = i % 4 == 1 ? Dtype::f64 : Dtype::f32;
      const auto tensor = [&](uint64_t seed) { return from_doubles(tested_device(), {n}, dtype, drawn(n, seed + uint64_t(i))); };
      list.push_back({.value = tensor(100), .gradient = tensor(400), .moment1 = tensor(700), .moment2 = full(tested_device(), {n}, dtype, 0.5),
                      .lr_scale = 0.1 * double(i), .weight_decay = i % 3 ? 0.1 : 0});
    }
    const auto piece = [&](int64_t k) { return clone(memory).rows(20001 * k + 1, 20001 * (k + 1)); };
    list.push_back({.value = piece(0), .gradient = piece(1), .moment1 = piece(2), .moment2 = full(tested_device(), {20000}, Dtype::f32, 1),
                    .lr_scale = 1, .weight_decay = 0.1});
    return list;
  };
  const auto start = lists(), together = lists(), alone = lists();
  kernels::AdamWUpdate update{.rate = full(tested_device(), {}, Dtype::f64, 1e-2),
                              .scale = full(tested_device(), {}, Dtype::f64, 0.5),
                              .finite = from_host<int32_t>(tested_device(), {}, std::vector<int32_t>{1}),
                              .steps = from_host<int64_t>(tested_device(), {}, std::vector<int64_t>{3})};
  update.tensors = together;
  kernels::adamw(update);
  for (size_t i = 0; i < alone.size(); ++i) {
    update.tensors = {alone[i]};
    kernels::adamw(update);
    expect_same_bits(together[i].value, alone[i].value, "value");
    expect_same_bits(together[i].moment1, alone[i].moment1, "moment1");
    expect_same_bits(together[i].moment2, alone[i].moment2, "moment2");
    expect(alone[i].lr_scale == 0 || alone[i].value.numel() == 0 || relative_error(alone[i].value, start[i].value) > 1e-6,
           "tensor {} must have moved", i);
  }
}

void threads_change_no_bit() {
  const int threads = thread_count();
  Tensor first;
  for (int n : {1, 2, 8}) {
    set_thread_count(n);
    Run run({300, 401}, Dtype::f32, drawn(300 * 401, 1));
    for (uint64_t t = 0; t < 3; ++t)
      run.step(from_doubles(tested_device(), {300, 401}, Dtype::f32, drawn(300 * 401, t)), 1e-2, 0.1);
    if (first) expect_same_bits(run.value, first, "value");
    else first = run.value;
  }
  set_thread_count(threads);
}

void refuses_a_gradient_of_another_shape() {
  Run run({2, 3}, Dtype::f32, drawn(6, 1));
  expect_error([&] { run.step(zeros(tested_device(), {3, 2}, Dtype::f32), 1, 0); },
               "adamw: gradient and moments must be f32 [2,3] like the value; got f32 [3,2]");
}

// One step, value and moments on copies of the inputs.
Example stepped(const Shape& shape) {
  return {.name = shape.text(),
          .inputs = {{.edge = "value", .shape = shape, .fill = uniform(0.1, 1)}, {.edge = "gradient", .shape = shape}},
          .build = [](const std::vector<Var>& in, const Packing&) {
            Run run({1}, Dtype::f32, {0});
            run.value = clone(in[0].value), run.moment1 = clone(in[1].value), run.moment2 = clone(in[0].value);
            run.step(in[1].value, 1e-2, 0.1);
            return std::vector{constant(run.value), constant(run.moment1), constant(run.moment2)};
          },
          .timed_outputs = {0, 1, 2}};
}

const RegisterCase registered{{
    .room = "adamw",
    .ops = {},
    .examples = {},
    .checks = {{"follows the published update", follows_the_published_update},
               {"the first step moves by the rate", first_step_moves_by_the_rate},
               {"a tiny eps keeps zero gradients still", tiny_eps_keeps_zero_gradients_still},
               {"scale multiplies the gradient", scale_multiplies_the_gradient},
               {"a refused step writes nothing", a_refused_step_writes_nothing},
               {"many tensors are each alone", many_tensors_are_each_alone},
               {"threads change no bit", threads_change_no_bit},
               {"refuses a gradient of another shape", refuses_a_gradient_of_another_shape}},
    .huge = {stepped({huge_rows(1024), 1024})},
}};

}  // namespace
}  // namespace taper::test
