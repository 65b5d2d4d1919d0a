// fill: its checks. It has no rule, so no law but these.
#include "tensor/ops/fill.h"

#include <cmath>

#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

// More elements than one block of the grid, a remainder, no element, and a window that is not aligned.
void writes_each_element_of_its_own() {
  for (Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16})
    for (const double value : {0.1, -3e38, double(INFINITY)})
      for (const int64_t n : {0, 1, 7, 40001}) {
        const Tensor all = from_doubles(tested_device(), {n + 2}, dtype, std::vector<double>(size_t(n + 2), 5));
        kernels::fill({.y = all.rows(1, n + 1), .value = value});
        std::vector<double> want(size_t(n + 2), value);
        want.front() = want.back() = 5;
        expect_same_bits(all, from_doubles(tested_device(), {n + 2}, dtype, want), name(dtype));
      }
}

void full_is_its_use() {
  const Tensor y = full(tested_device(), {2, 3}, Dtype::bf16, 0.3);
  expect_same_bits(y, from_doubles(tested_device(), {2, 3}, Dtype::bf16, std::vector<double>(6, 0.3)), "full");
  expect_error([] { full(tested_device(), {2}, Dtype::i32, 1); }, "fill: dtype must be f32 or f64 or bf16; got i32");
}

const RegisterCase registered{{
    .room = "fill",
    .ops = {},
    .examples = {},
    .checks = {{"writes each element of its own", writes_each_element_of_its_own}, {"full is its use", full_is_its_use}},
}};

}  // namespace
}  // namespace taper::test
