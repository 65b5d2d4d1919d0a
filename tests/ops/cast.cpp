// cast: to f64 in the laws (a rounding has no derivative); the roundings are checked by value.
#include <cmath>

#include "tensor/random.h"
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

// A product of bf16 gives the gradient of its weight in f32: it must not be rounded, nor copied.
void a_wide_gradient_is_passed_on() {
  Device& cpu = open_device("cpu");
  Tape tape;
  const Var x = tape.leaf("x", full(cpu, {3}, Dtype::f32, 0.1f));
  const Tensor d_y = full(cpu, {3}, Dtype::f32, 1 + 0x1p-20), d = backward(cast(x, Dtype::bf16), d_y).at("x");
  expect(d.dtype() == Dtype::f32 && d.data<float>() == d_y.data<float>(), "d_x must be d_y itself");
}

// bf16 to f32 and back over odd lengths: to f32 exactly, to bf16 as bf16(float) rounds.
void every_length_is_cast() {
  Device& device = tested_device();
  for (int64_t n : {1, 7, 8, 4096, 4103, 20001}) {
    std::vector<double> x, rounded;
    for (int64_t i = 0; i < n; ++i) x.push_back(float(Random(4, "cast").normal(uint64_t(i)))), rounded.push_back(float(bf16(float(x.back()))));
    const Var in = constant(from_doubles(device, {n}, Dtype::f32, x));
    const Var narrow = cast(in, Dtype::bf16);
    expect(to_doubles(narrow.value) == rounded, "{} elements to bf16", n);
    for (Dtype t : {Dtype::f32, Dtype::f64}) expect(to_doubles(cast(narrow, t).value) == rounded, "{} elements from bf16", n);
    expect(to_doubles(cast(constant(from_doubles(device, {n}, Dtype::f64, x)), Dtype::f32).value) == x, "{} elements from f64", n);
    if (n > 1) {
      const Var view = constant(in.value.rows(1, n));
      expect(to_doubles(cast(view, Dtype::bf16).value) == std::vector<double>(rounded.begin() + 1, rounded.end()), "{} elements unaligned", n - 1);
    }
  }
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
    .examples = {example({}, Dtype::f64), example({7}, Dtype::f64), example({3, 5, 2}, Dtype::f64),
                 example({9, 1003}, Dtype::f64)},
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {{.example = example({2048, 1536}, Dtype::bf16),
               .forward_bytes = 6.0 * 2048 * 1536,
               .backward_bytes = 6.0 * 2048 * 1536},
              {.example = example({8, 2048, 768}, Dtype::f32),  // of bf16: 2 bytes to 4
               .forward_bytes = 12.0 * 8 * 2048 * 768,
               .backward_bytes = 12.0 * 8 * 2048 * 768,
               .large = true}},
    .checks = {{"rounds to nearest even", rounds_to_nearest_even},
               {"gradient is cast back", gradient_is_cast_back},
               {"a wide gradient is passed on", a_wide_gradient_is_passed_on},
               {"every length is cast", every_length_is_cast},
               {"refuses integers", refuses_integers}},
    .huge = {example({huge_rows(1024), 1024}, Dtype::f32)},
}};

}  // namespace
}  // namespace taper::test
