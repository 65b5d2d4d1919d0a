// cast: to f64 in the laws (a rounding has no derivative); the roundings are checked by value.
#include <cmath>

#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

Example example(const Shape& shape, Dtype to) {
  return {.name = fmt::format("{} to {}", shape.text(), name(to)),
          .inputs = {{.edge = "x", .shape = shape}},
          .build = [to](const std::vector<Var>& in, const Packing&) { return std::vector{cast(in[0], to)}; }};
}

void rounds_to_nearest_even() {
  Device& cpu = open_device("cpu");
  auto through = [&](Dtype from, Dtype to, double x) {
    return item(cast(constant(from_doubles(cpu, {}, from, {{x}})), to).value);
  };
  auto expect_cast = [&](Dtype from, Dtype to, double x, double want) {
    const double y = through(from, to, x);
    expect(y == want || (std::isnan(y) && std::isnan(want)), "{} to {} of {}: want {}; got {}", name(from), name(to), x,
           want, y);
  };
  expect_cast(Dtype::f32, Dtype::bf16, 1 + 0x1p-8, 1);              // a tie goes to the even side
  expect_cast(Dtype::f32, Dtype::bf16, 1 + 3 * 0x1p-8, 1 + 0x1p-6);
  expect_cast(Dtype::f32, Dtype::bf16, 1 + 0x1.02p-8, 1 + 0x1p-7);  // past it, up
  expect_cast(Dtype::f32, Dtype::bf16, 3.4e38, INFINITY);
  expect_cast(Dtype::f32, Dtype::bf16, -INFINITY, -INFINITY);
  expect_cast(Dtype::f32, Dtype::bf16, NAN, NAN);
  expect_cast(Dtype::f64, Dtype::f32, 1 + 0x1p-24, 1);
  expect_cast(Dtype::f64, Dtype::f32, 1e300, INFINITY);
  expect_cast(Dtype::bf16, Dtype::f64, -1.5, -1.5);
  expect_cast(Dtype::f32, Dtype::f32, 0.1f, 0.1f);
}

// The gradient comes back in the dtype of x.
void gradient_is_cast_back() {
  Device& cpu = open_device("cpu");
  Tape tape;
  const Var x = tape.leaf("x", full(cpu, {3}, Dtype::f32, 0.1f));
  const Tensor d = backward(cast(x, Dtype::bf16), full(cpu, {3}, Dtype::bf16, 1.5)).at("x");
  expect(d.dtype() == Dtype::f32 && to_doubles(d) == std::vector<double>{1.5, 1.5, 1.5}, "d_x must be f32 1.5");
}

void refuses_integers() {
  Device& cpu = open_device("cpu");
  expect_error([&] { cast(constant(zeros(cpu, {2}, Dtype::i32)), Dtype::f32); },
               "cast: both dtypes must be f32, f64 or bf16; got i32 to f32");
  expect_error([&] { cast(constant(zeros(cpu, {2}, Dtype::f32)), Dtype::i64); },
               "cast: both dtypes must be f32, f64 or bf16; got f32 to i64");
}

const RegisterCase registered{{
    .room = "cast",
    .ops = {"cast"},
    .examples = {example({}, Dtype::f64), example({7}, Dtype::f64), example({3, 5, 2}, Dtype::f64)},
    .bench = {{.example = example({2048, 1536}, Dtype::bf16),
               .forward_bytes = 6.0 * 2048 * 1536,
               .backward_bytes = 6.0 * 2048 * 1536}},
    .checks = {{"rounds to nearest even", rounds_to_nearest_even},
               {"gradient is cast back", gradient_is_cast_back},
               {"refuses integers", refuses_integers}},
}};

}  // namespace
}  // namespace taper::test
