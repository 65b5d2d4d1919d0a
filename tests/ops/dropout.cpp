// dropout: against a multiplication by its mask; the share that is kept, p = 0, and that the seed alone decides.
#include <cmath>

#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

Tensor key_of(Device& device, const Random& random) { return from_host<int64_t>(device, {2}, random.key()); }

// The mask as a tensor, element by element from the generator.
Var mask_of(const Var& x, double p, const Random& random) {
  std::vector<double> mask;
  for (int64_t i = 0; i < x.shape().numel(); ++i) mask.push_back(random.uniform(uint64_t(i)) >= p ? 1 / (1 - p) : 0);
  return constant(from_doubles(x.value.device(), x.shape(), x.value.dtype(), mask));
}

Example example(const Shape& shape, double p) {
  const Random random(3, "layers.0.dropout");
  return {.name = fmt::format("{} p={}", shape.text(), p),
          .inputs = {{.edge = "x", .shape = shape}},
          .build = [=](const std::vector<Var>& in, const Packing&) { return std::vector{dropout(in[0], p, key_of(in[0].value.device(), random))}; },
          .definition = [=](const std::vector<Var>& in, const Packing&) {
            return std::vector{multiply(in[0], mask_of(in[0], p, random))};
          }};
}

Example bench_example(const Shape& shape, double p) {
  Example e = example(shape, p);
  e.definition = {};
  return e;
}

std::vector<double> of_ones(int64_t n, double p, const Random& random, Dtype t = Dtype::f64) {
  return to_doubles(dropout(constant(full(open_device("cpu"), {n}, t, 1)), p, key_of(open_device("cpu"), random)).value);
}

// Kept elements are 1/(1-p), and their share is 1-p within five deviations of a binomial.
void keeps_its_share_and_its_mean() {
  const int64_t n = 200000;
  for (double p : {0.1, 0.5, 0.9}) {
    double kept = 0;
    for (double y : of_ones(n, p, Random(11, "share"))) {
      expect(y == 0 || y == 1 / (1 - p), "p={}: an element must be 0 or {}; got {}", p, 1 / (1 - p), y);
      kept += y != 0;
    }
    const double deviation = std::sqrt(double(n) * p * (1 - p));
    expect(std::abs(kept - double(n) * (1 - p)) < 5 * deviation, "p={}: {} of {} were kept", p, kept, n);
  }
}

void p_of_0_changes_no_bit() {
  Device& cpu = open_device("cpu");
  for (Dtype t : {Dtype::f32, Dtype::f64, Dtype::bf16}) {
    const Tensor x = from_doubles(cpu, {6}, t, std::vector<double>{0.1, -0.0, 1e-40, -3.3, INFINITY, 7e30});
    expect_same_bits(dropout(constant(x), 0, key_of(cpu, Random(1, "x"))).value, x, "dropout with p = 0");
  }
}

void the_seed_and_the_purpose_choose_the_mask() {
  const auto mask = of_ones(64, 0.5, Random(1, "a"));
  expect(of_ones(64, 0.5, Random(1, "a")) == mask, "the same generator must give the same mask");
  expect(of_ones(64, 0.5, Random(2, "a")) != mask, "another seed must give another mask");
  expect(of_ones(64, 0.5, Random(1, "b")) != mask, "another purpose must give another mask");
  // Every dtype sees one mask, here of 0 and 2.
  for (Dtype t : {Dtype::f32, Dtype::bf16}) expect(of_ones(64, 0.5, Random(1, "a"), t) == mask, "{} has another mask", name(t));
}

void the_gradient_goes_where_the_value_went() {
  Device& cpu = open_device("cpu");
  Tape tape;
  const Var y = dropout(tape.leaf("x", full(cpu, {1000}, Dtype::f32, 1)), 0.3, key_of(cpu, Random(5, "g")));
  expect_same_bits(backward(y, full(cpu, {1000}, Dtype::f32, 1)).at("x"), y.value, "d_x of ones");
}

void a_dropped_nan_is_0() {
  Device& cpu = open_device("cpu");
  const auto mask = of_ones(100, 0.5, Random(9, "nan"));
  const auto y = to_doubles(dropout(constant(full(cpu, {100}, Dtype::f32, NAN)), 0.5, key_of(cpu, Random(9, "nan"))).value);
  for (size_t i = 0; i < 100; ++i) expect(mask[i] == 0 ? y[i] == 0 : std::isnan(y[i]), "element {}: got {}", i, y[i]);
}

void refuses_bad_input() {
  Device& cpu = open_device("cpu");
  const Var x = constant(zeros(cpu, {2}, Dtype::f32));
  expect_error([&] { dropout(x, 1, key_of(cpu, Random(1, "x"))); }, "dropout: p must be in [0,1); got 1");
  expect_error([&] { dropout(x, -0.1, key_of(cpu, Random(1, "x"))); }, "dropout: p must be in [0,1); got -0.1");
  expect_error([&] { dropout(x, NAN, key_of(cpu, Random(1, "x"))); }, "dropout: p must be in [0,1); got nan");
  expect_error([&] { dropout({}, 0.1, key_of(cpu, Random(1, "x"))); }, "dropout: x must be present; it is absent");
  expect_error([&] { dropout(x, 0.1, zeros(cpu, {2}, Dtype::i32)); }, "dropout: key must be i64 [2]; got i32 [2]");
  expect_error([&] { dropout(constant(zeros(cpu, {2}, Dtype::i32)), 0.1, key_of(cpu, Random(1, "x"))); },
               "dropout: dtype must be f32 or f64 or bf16; got i32");
}

const double n = 2048.0 * 768;

const RegisterCase registered{{
    .room = "dropout",
    .ops = {"dropout"},
    .examples = {example({}, 0.1), example({7}, 0.5), example({3, 5, 11}, 0.1), example({2, 9000}, 0.25), example({20}, 0)},
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {{.example = bench_example({1, 2048, 768}, 0.1),
               .forward_flops = n,
               .forward_bytes = 8 * n,
               .backward_flops = n,
               .backward_bytes = 8 * n},
              {.example = bench_example({8, 2048, 768}, 0.1),
               .forward_flops = 8 * n,
               .forward_bytes = 64 * n,
               .backward_flops = 8 * n,
               .backward_bytes = 64 * n,
               .large = true}},
    .checks = {{"keeps its share and its mean", keeps_its_share_and_its_mean},
               {"p of 0 changes no bit", p_of_0_changes_no_bit},
               {"the seed and the purpose choose the mask", the_seed_and_the_purpose_choose_the_mask},
               {"the gradient goes where the value went", the_gradient_goes_where_the_value_went},
               {"a dropped nan is 0", a_dropped_nan_is_0},
               {"refuses bad input", refuses_bad_input}},
}};

}  // namespace
}  // namespace taper::test
