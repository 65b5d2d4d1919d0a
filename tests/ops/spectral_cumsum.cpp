// spectral_cumsum: the case; order of the rates and the published values.
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

Example example(int64_t N) {
  return {.name = fmt::format("N={}", N),
          .inputs = {{.edge = "theta", .shape = {}}, {.edge = "delta", .shape = {N - 1}, .fill = normal(0, 2)}},
          .build = [](const std::vector<Var>& in, const Packing&) { return std::vector{spectral_cumsum(in[0], in[1])}; }};
}

void golden_values() {  // specification 4.2b
  Device& cpu = open_device("cpu");
  const std::vector<double> delta = {0.5, -0.3, 1.2}, want = {-1, -0.025923016, 0.528432229, 1.991714696};
  const auto p = to_doubles(spectral_cumsum(constant(full(cpu, {}, Dtype::f64, -1)), constant(from_doubles(cpu, {3}, Dtype::f64, delta))).value);
  for (size_t k = 0; k < 4; ++k) expect(std::abs(p[k] - want[k]) < 1e-9, "p[{}] must be {}; got {:.9f}", k, want[k], p[k]);
}

void rates_stay_ordered() {
  Device& cpu = open_device("cpu");
  const std::vector<double> delta = {-30, 0, 30, -3};
  const auto p = to_doubles(spectral_cumsum(constant(full(cpu, {}, Dtype::f64, 0)), constant(from_doubles(cpu, {4}, Dtype::f64, delta))).value);
  for (size_t k = 1; k < p.size(); ++k) expect(p[k] > p[k - 1], "p[{}] = {} must exceed p[{}] = {}", k, p[k], k - 1, p[k - 1]);
}

void refuses_bad_shapes() {
  Device& cpu = open_device("cpu");
  const Var scalar = constant(zeros(cpu, {}, Dtype::f32)), row = constant(zeros(cpu, {3}, Dtype::f32));
  expect_error([&] { spectral_cumsum(row, row); }, "spectral_cumsum: theta must be []; got [3]");
  expect_error([&] { spectral_cumsum(scalar, scalar); }, "spectral_cumsum: delta must be f32 [N-1]; got f32 []");
}

const RegisterCase registered{{
    .room = "spectral_cumsum",
    .ops = {"spectral_cumsum"},
    .examples = {example(1), example(2), example(5), example(64), example(700)},
    .bench = {{.example = example(2048), .forward_flops = 3 * 2048, .forward_bytes = 8 * 2048, .backward_flops = 3 * 2048, .backward_bytes = 12 * 2048}},
    .checks = {{"golden values", golden_values}, {"rates stay ordered", rates_stay_ordered}, {"refuses bad shapes", refuses_bad_shapes}},
}};

}  // namespace
}  // namespace taper::test
