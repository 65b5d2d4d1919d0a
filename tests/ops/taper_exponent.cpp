// taper_exponent: the case; ends, clamps and the published values.
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

Example example(int64_t N, double train_length, Fill fill = normal(0, 0.3)) {
  return {.name = fmt::format("N={} T_train={}", N, train_length),
          .inputs = {{.edge = "delta", .shape = {N - 1}, .fill = fill}},
          .build = [=](const std::vector<Var>& in, const Packing&) { return std::vector{taper_exponent(in[0], train_length)}; }};
}

std::vector<double> exponents(const std::vector<double>& delta, double train_length) {
  Device& cpu = open_device("cpu");
  return to_doubles(taper_exponent(constant(from_doubles(cpu, {int64_t(delta.size())}, Dtype::f64, delta)), train_length).value);
}

void golden_values() {  // specification 4.2b
  const std::vector<double> want = {1, 0.663628974, 0.272209724, 0}, alpha = exponents({0.5, -0.3, 1.2}, 2048);
  for (size_t k = 0; k < 4; ++k) expect(std::abs(alpha[k] - want[k]) < 1e-9, "alpha[{}] must be {}; got {:.9f}", k, want[k], alpha[k]);
}

void one_head_has_no_taper() { expect(exponents({}, 2048) == std::vector<double>{0}, "N = 1 must give alpha = 0"); }

void two_heads_are_the_ends() {
  expect(exponents({0.7}, 512) == std::vector<double>({1, 0}), "N = 2 must give alpha = 1 and 0");
}

void equal_gaps_give_a_line() {
  const auto alpha = exponents(std::vector<double>(7, -0.9), 2048);
  for (size_t k = 0; k < 8; ++k) expect(std::abs(alpha[k] - (1 - double(k) / 7)) < 1e-14, "alpha[{}] = {}", k, alpha[k]);
}

// A saturated exponent sends no gradient: clamped above (one huge late gap pushes raw below 0) or below.
void a_clamped_exponent_is_closed() {
  Device& cpu = open_device("cpu");
  for (const std::vector<double>& delta : {std::vector<double>{-5, -5, 40}, std::vector<double>{40, -5, -5}}) {
    Tape tape;
    const Var alpha = taper_exponent(tape.leaf("delta", from_doubles(cpu, {3}, Dtype::f64, delta)), 16);
    for (size_t k : {1, 2}) {
      const double a = to_doubles(alpha.value)[k];
      expect(a == 0 || a == 1, "alpha[{}] must be clamped; got {}", k, a);
    }
    for (double d : to_doubles(backward(alpha, full(cpu, {4}, Dtype::f64, 1)).at("delta"))) expect(d == 0, "d_delta must be 0; got {}", d);
  }
}

void refuses_bad_input() {
  Device& cpu = open_device("cpu");
  expect_error([&] { taper_exponent(constant(zeros(cpu, {}, Dtype::f32)), 10); }, "taper_exponent: delta must be [N-1]; got []");
  expect_error([&] { taper_exponent(constant(zeros(cpu, {3}, Dtype::f32)), 1); }, "taper_exponent: the training length must be > 1; got 1");
}

const RegisterCase registered{{
    .room = "taper_exponent",
    .ops = {"taper_exponent"},
    .examples = {example(1, 512), example(2, 512), example(3, 512), example(6, 2048), example(64, 512), example(700, 512, normal(0, 0.004))},
    .bench = {{.example = example(2048, 2048), .forward_flops = 6 * 2048, .forward_bytes = 8 * 2048, .backward_flops = 6 * 2048, .backward_bytes = 12 * 2048}},
    .checks = {{"golden values", golden_values},
               {"one head has no taper", one_head_has_no_taper},
               {"two heads are the ends", two_heads_are_the_ends},
               {"equal gaps give a line", equal_gaps_give_a_line},
               {"a clamped exponent is closed", a_clamped_exponent_is_closed},
               {"refuses bad input", refuses_bad_input}},
}};

}  // namespace
}  // namespace taper::test
