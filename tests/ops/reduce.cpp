// reduce: sum and mean to a scalar, and their order of addition.
#include <cmath>

#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

Example example(bool average, const Shape& shape) {
  return {.name = fmt::format("{} {}", average ? "mean" : "sum", shape.text()),
          .inputs = {{.edge = "x", .shape = shape, .fill = normal(0.3, 1)}},
          .build = [average](const std::vector<Var>& in, const Packing&) {
            return std::vector{average ? mean(in[0]) : sum(in[0])};
          }};
}

std::vector<Example> examples() {
  std::vector<Example> all;
  for (bool average : {false, true})
    for (const Shape& shape : {Shape{}, Shape{1}, Shape{17}, Shape{3, 5, 7}, Shape{40, 1000}})
      all.push_back(example(average, shape));
  return all;
}

// A million times 0.1f: kept in f32, a running sum would be off in the fourth digit.
void sums_do_not_drift() {
  Device& cpu = open_device("cpu");
  const int64_t n = 1000003;
  const double y = item(sum(constant(full(cpu, {n}, Dtype::f32, 0.1f))).value), want = float(double(0.1f) * double(n));
  expect(y == want, "want {}; got {}", want, y);
  const double m = item(mean(constant(full(cpu, {n}, Dtype::f32, 0.1f))).value);
  expect(m == double(0.1f), "the mean of equal numbers must be that number; got {}", m);
}

void a_sum_of_nothing_is_zero() {
  Device& cpu = open_device("cpu");
  expect(item(sum(constant(zeros(cpu, {0, 4}, Dtype::f64))).value) == 0, "an empty sum must be 0");
  expect_error([&] { mean(constant(zeros(cpu, {0, 4}, Dtype::f64))); },
               "mean: x must have at least one element; got [0,4]");
}

void refuses_integers() {
  Device& cpu = open_device("cpu");
  expect_error([&] { sum(constant(zeros(cpu, {4}, Dtype::i32))); }, "sum: x must be f32, f64 or bf16; got i32 [4]");
}

const RegisterCase registered{{
    .room = "reduce",
    .ops = {"sum", "mean"},
    .examples = examples(),
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {{.example = example(false, {2048, 1536}),
               .forward_flops = 2048.0 * 1536,
               .forward_bytes = 4.0 * 2048 * 1536,
               .backward_bytes = 4.0 * 2048 * 1536},
              {.example = example(false, {8, 2048, 1536}),
               .forward_flops = 8 * 2048.0 * 1536,
               .forward_bytes = 8 * 4.0 * 2048 * 1536,
               .backward_bytes = 8 * 4.0 * 2048 * 1536,
               .large = true}},
    .checks = {{"sums do not drift", sums_do_not_drift},
               {"a sum of nothing is zero", a_sum_of_nothing_is_zero},
               {"refuses integers", refuses_integers}},
    .huge = {example(false, {huge_rows(1000), 1000})},
}};

}  // namespace
}  // namespace taper::test
