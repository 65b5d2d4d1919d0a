// keep_rows: against a multiplication by its mask; that what ends is 0 whatever it held.
#include "tensor/ops/keep_rows.h"

#include <cmath>

#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

Tensor keep_some(Device& device, int64_t B) {
  std::vector<int32_t> keep;
  for (int64_t b = 0; b < B; ++b) keep.push_back(b % 3 != 1);
  return from_host(device, {B}, keep);
}

Var mask_of(const Var& x) {
  const int64_t B = x.size(0), row = x.shape().numel() / B;
  std::vector<double> mask;
  for (int64_t b = 0; b < B; ++b) mask.insert(mask.end(), size_t(row), b % 3 != 1 ? 1.0 : 0.0);
  return constant(from_doubles(x.value.device(), x.shape(), x.value.dtype(), mask));
}

Example example(const Shape& shape) {
  return {.name = shape.text(),
          .inputs = {{.edge = "x", .shape = shape}},
          .build = [=](const std::vector<Var>& in, const Packing&) {
            return std::vector{keep_rows(in[0], keep_some(in[0].value.device(), in[0].size(0)))};
          },
          .definition = [=](const std::vector<Var>& in, const Packing&) { return std::vector{multiply(in[0], mask_of(in[0]))}; }};
}

void what_ends_is_0() {
  const Tensor keep = from_host<int32_t>(tested_device(), {3}, std::vector<int32_t>{0, 1, 0}), y = Tensor(tested_device(), {3, 2}, Dtype::f32);
  kernels::keep_rows({.x = from_doubles(tested_device(), {3, 2}, Dtype::f32, std::vector<double>{NAN, INFINITY, -0.0, 7, 1, 2}), .keep = keep, .y = y});
  expect_same_bits(y, from_doubles(tested_device(), {3, 2}, Dtype::f32, std::vector<double>{0, 0, -0.0, 7, 0, 0}), "y");
  const Tensor positions = from_host<int64_t>(tested_device(), {3}, std::vector<int64_t>{4, int64_t(1) << 40, 6});
  kernels::keep_rows({.x = positions, .keep = keep, .y = positions});
  expect(to_host<int64_t>(positions) == std::vector<int64_t>{0, int64_t(1) << 40, 0}, "positions, in place");
}

void refuses_another_mask() {
  Device& cpu = open_device("cpu");
  const Var x = constant(zeros(cpu, {2, 3}, Dtype::f32));
  expect_error([&] { keep_rows(x, keep_some(cpu, 3)); }, "keep_rows: x [B,...] and keep [B] i32 are wanted; got [2,3] and i32 [3]");
  expect_error([&] { keep_rows(x, {}); }, "keep_rows: x [B,...] and keep [B] i32 are wanted; got [2,3] and nothing");
}

const RegisterCase registered{{
    .room = "keep_rows",
    .ops = {"keep_rows"},
    .examples = {example({1}), example({2}), example({5, 7}), example({4, 3, 16, 20})},
    .bf16 = Tolerance{5e-3, 8e-3},
    .checks = {{"what ends is 0", what_ends_is_0}, {"refuses another mask", refuses_another_mask}},
}};

}  // namespace
}  // namespace taper::test
