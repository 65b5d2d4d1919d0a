// global_norm and step_guard: their checks. They have no rule, so no law but these.
#include "tensor/ops/global_norm.h"

#include <array>
#include <cmath>

#include "tensor/parallel.h"
#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

Tensor drawn(const Shape& shape, Dtype dtype, double deviation = 1) {
  std::vector<double> values(size_t(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = deviation * Random(7, "global_norm").normal(i);
  return from_doubles(tested_device(), shape, dtype, values);
}

double norm_of(const std::vector<Tensor>& tensors) {
  const Tensor norm(tested_device(), {}, Dtype::f64);
  kernels::global_norm({.tensors = tensors, .norm = norm});
  return item(norm);
}

void is_the_norm_of_all() {
  expect(norm_of({full(tested_device(), {3, 3}, Dtype::f32, 1), full(tested_device(), {4, 4}, Dtype::f32, 1)}) == 5,
         "3^2 + 4^2 ones: want 5");
  expect(norm_of({}) == 0, "nothing: want 0");
  const std::vector<Tensor> mixed = {drawn({100003}, Dtype::f32), drawn({7, 11}, Dtype::f64), drawn({0, 5}, Dtype::f32),
                                     drawn({}, Dtype::f32)};
  long double sum = 0;
  for (const Tensor& t : mixed)
    for (double g : to_doubles(t)) sum += (long double)(g) * g;
  const double wanted = double(std::sqrt(sum)), got = norm_of(mixed);
  expect(std::abs(got - wanted) <= 1e-14 * wanted, "want {}; got {}", wanted, got);
}

// More tensors than one table of a GPU holds, and one that is not aligned.
void many_tensors_are_one_norm() {
  std::vector<Tensor> tensors;
  long double sum = 0;
  for (int64_t i = 0; i < 400; ++i) tensors.push_back(drawn({i * 7 % 90}, i % 3 ? Dtype::f32 : Dtype::f64));
  tensors.push_back(drawn({40001}, Dtype::f32).rows(1, 40001));
  for (const Tensor& t : tensors)
    for (double g : to_doubles(t)) sum += (long double)(g) * g;
  const double wanted = double(std::sqrt(sum)), got = norm_of(tensors);
  expect(std::abs(got - wanted) <= 1e-14 * wanted, "want {}; got {}", wanted, got);
}

// f32 squares of 1e-25 vanish and of 1e25 overflow; their f64 squares do neither.
void squares_neither_vanish_nor_overflow() {
  for (double size : {1e-25, 1e25}) {
    const double got = norm_of({full(tested_device(), {10000}, Dtype::f32, size)});
    expect(std::abs(got - 100 * size) <= 1e-6 * 100 * size, "want {}; got {}", 100 * size, got);
  }
}

void threads_change_no_bit() {
  const std::vector<Tensor> tensors = {drawn({300, 1001}, Dtype::f32), drawn({65537}, Dtype::f64, 1e-3)};
  const int before = thread_count();
  set_thread_count(1);
  const double one = norm_of(tensors);
  for (int threads : {2, 3, 8}) {
    set_thread_count(threads);
    expect(norm_of(tensors) == one, "{} threads must give the bits of one", threads);
  }
  set_thread_count(before);
}

void one_bad_element_shows() {
  for (double bad : {std::nan(""), double(INFINITY), -double(INFINITY)})
    for (int64_t at : {0, 40000, 99999}) {
      std::vector<double> values(100000, 1.0);
      values[size_t(at)] = bad;
      expect(
          !std::isfinite(norm_of({full(tested_device(), {5}, Dtype::f32, 1), from_doubles(tested_device(), {100000}, Dtype::f32, values)})),
          "{} at {} must show", bad, at);
    }
}

struct Guard {
  Tensor scale = full(tested_device(), {}, Dtype::f64, 0), finite = zeros(tested_device(), {}, Dtype::i32);
  Tensor steps = zeros(tested_device(), {}, Dtype::i64), bad_steps = zeros(tested_device(), {}, Dtype::i64);
  void judge(double norm, double loss, double clip = 1, int64_t max_bad_steps = 0, Dtype loss_dtype = Dtype::f32) {
    kernels::step_guard({.norm = full(tested_device(), {}, Dtype::f64, norm),
                         .loss = full(tested_device(), {}, loss_dtype, loss),
                         .scale = scale,
                         .finite = finite,
                         .steps = steps,
                         .bad_steps = bad_steps,
                         .clip = clip,
                         .max_bad_steps = max_bad_steps});
  }
  void wants(bool ok, int64_t good, int64_t bad, const char* what) const {
    expect(item(finite) == ok && item(steps) == double(good) && item(bad_steps) == double(bad),
           "{}: want finite {} steps {} bad {}; got {} {} {}", what, ok, good, bad, item(finite), item(steps),
           item(bad_steps));
  }
};

void clips_as_pytorch_does() {
  Guard g;
  for (auto [norm, clip, wanted] :
       {std::array{4.0, 1.0, 1 / (4 + 1e-6)}, std::array{0.5, 1.0, 1.0}, std::array{4.0, 0.0, 1.0},
        std::array{0.0, 1.0, 1.0}, std::array{1.0, 1.0, 1 / (1 + 1e-6)}}) {
    g.judge(norm, 1, clip);
    expect(item(g.scale) == wanted, "norm {} clip {}: want scale {}; got {}", norm, clip, wanted, item(g.scale));
  }
}

void counts_good_and_bad_steps() {
  const double nan = std::nan(""), inf = INFINITY;
  for (Dtype dtype : {Dtype::f32, Dtype::f64}) {
    Guard g;
    g.judge(1, 1, 1, 0, dtype), g.wants(true, 1, 0, "a good step");
    g.judge(nan, 1, 1, 0, dtype), g.wants(false, 1, 1, "a norm of NaN");
    g.judge(1, nan, 1, 0, dtype), g.wants(false, 1, 2, "a loss of NaN");
    g.judge(1, -inf, 1, 0, dtype), g.wants(false, 1, 3, "an infinite loss");
    g.judge(inf, 1, 1, 0, dtype), g.wants(false, 1, 4, "an infinite norm");
    g.judge(1, 1, 1, 0, dtype), g.wants(true, 2, 0, "a good step again");
  }
}

void stays_bad_at_the_limit() {
  Guard g;
  g.judge(1, std::nan(""), 1, 2), g.judge(1, 1, 1, 2), g.wants(true, 1, 0, "one bad step of two allowed");
  g.judge(1, std::nan(""), 1, 2), g.judge(1, std::nan(""), 1, 2);
  g.judge(1, 1, 1, 2), g.wants(false, 1, 3, "a good step after the limit");
}

void works_without_a_loss() {
  Guard g;
  kernels::step_guard({.norm = full(tested_device(), {}, Dtype::f64, 2),
                       .scale = g.scale,
                       .finite = g.finite,
                       .steps = g.steps,
                       .bad_steps = g.bad_steps});
  g.wants(true, 1, 0, "no loss given");
}

// Squared, a norm is the sum of its parts'.
Example squared(const Shape& shape) {
  return {.name = shape.text(),
          .inputs = {{.edge = "x", .shape = shape, .fill = whole_numbers(-2, 2)}},
          .build = [](const std::vector<Var>& in, const Packing&) {
            const Tensor norm(tested_device(), {}, Dtype::f64);
            kernels::global_norm({.tensors = {in[0].value}, .norm = norm});
            return std::vector{square(constant(norm))};
          }};
}

const RegisterCase registered{{
    .room = "global_norm",
    .ops = {},
    .examples = {},
    .checks = {{"is the norm of all tensors together", is_the_norm_of_all},
               {"many tensors are one norm", many_tensors_are_one_norm},
               {"squares neither vanish nor overflow", squares_neither_vanish_nor_overflow},
               {"threads change no bit", threads_change_no_bit},
               {"one bad element shows", one_bad_element_shows},
               {"clips as PyTorch does", clips_as_pytorch_does},
               {"counts good and bad steps", counts_good_and_bad_steps},
               {"stays bad at the limit", stays_bad_at_the_limit},
               {"works without a loss", works_without_a_loss}},
    .huge = {squared({huge_rows(1024), 1024})},
}};

}  // namespace
}  // namespace taper::test
