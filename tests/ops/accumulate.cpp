// accumulate: its checks. It has no rule, so no law but these.
#include "tensor/ops/accumulate.h"


#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

Tensor drawn(const Shape& shape, Dtype dtype, uint64_t seed) {
  std::vector<double> values(size_t(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = Random(seed, "accumulate").normal(i);
  return from_doubles(tested_device(), shape, dtype, values);
}

// More elements than one block of the grid, and a remainder.
void adds_each_element_once() {
  for (Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16}) {
    const Tensor sum = drawn({3, 40001}, dtype, 1), d = drawn({3, 40001}, dtype, 2);
    std::vector<double> wanted = to_doubles(sum);
    const std::vector<double> added = to_doubles(d);
    for (size_t i = 0; i < wanted.size(); ++i) wanted[i] += added[i];
    kernels::accumulate({.sum = sum, .d = d});
    // Rounded once to the dtype: from_doubles rounds the same exact sum.
    expect_same_bits(sum, from_doubles(tested_device(), {3, 40001}, dtype, wanted), name(dtype));
    expect_same_bits(d, drawn({3, 40001}, dtype, 2), "d is only read");
  }
}

void takes_nothing_and_scalars() {
  kernels::accumulate({.sum = drawn({0, 4}, Dtype::f32, 1), .d = drawn({0, 4}, Dtype::f32, 2)});
  const Tensor one = full(tested_device(), {}, Dtype::f32, 1);
  kernels::accumulate({.sum = one, .d = one});
  expect(item(one) == 2, "1 + 1 must be 2; got {}", item(one));
}

void refuses_another_shape() {
  expect_error([] { kernels::accumulate({.sum = drawn({2, 3}, Dtype::f32, 1), .d = drawn({3, 2}, Dtype::f32, 1)}); },
               "accumulate: d must be f32 [2,3]; got f32 [3,2]");
  expect_error([] { kernels::accumulate({.sum = drawn({2}, Dtype::f32, 1), .d = drawn({2}, Dtype::f64, 1)}); },
               "accumulate: d must be f32 [2]; got f64 [2]");
}

// Of its inputs, so that they stay.
Example added(const Shape& shape) {
  return {.name = shape.text(),
          .inputs = {{.edge = "sum", .shape = shape}, {.edge = "d", .shape = shape}},
          .build = [](const std::vector<Var>& in, const Packing&) {
            const Tensor sum = clone(in[0].value);
            kernels::accumulate({.sum = sum, .d = in[1].value});
            return std::vector{constant(sum)};
          }};
}

const RegisterCase registered{{
    .room = "accumulate",
    .ops = {},
    .examples = {},
    .checks = {{"adds each element once", adds_each_element_once},
               {"takes nothing and scalars", takes_nothing_and_scalars},
               {"refuses another shape", refuses_another_shape}},
    .huge = {added({huge_rows(1024), 1024})},
}};

}  // namespace
}  // namespace taper::test
