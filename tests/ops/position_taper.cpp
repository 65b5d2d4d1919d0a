// position_taper: the case, and the truths of its own.
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

Example example(int64_t B, int64_t T, int64_t H, double reference = 1) {
  return {.name = fmt::format("B={} T={} H={} reference={}", B, T, H, reference),
          .inputs = {{.edge = "alpha", .shape = {H}, .fill = uniform(0, 1)}},
          .build = [=](const std::vector<Var>& in, const Packing& packing) {
            return std::vector{position_taper(in[0], B, T, packing, reference)};
          }};
}

Tensor taper_of(const std::vector<double>& alpha, int64_t B, int64_t T, const Packing& packing) {
  Device& cpu = open_device("cpu");
  return position_taper(constant(from_doubles(cpu, {int64_t(alpha.size())}, Dtype::f64, alpha)), B, T, packing).value;
}

void first_position_is_never_scaled() {
  for (double s : to_doubles(taper_of({0, 0.3, 1}, 1, 1, {}))) expect(s == 1, "s at position 1 must be 1; got {}", s);
}

void alpha_zero_scales_nothing() {
  for (double s : to_doubles(taper_of({0}, 2, 500, {}))) expect(s == 1, "alpha = 0 must give exactly 1; got {}", s);
}

// A window begun after t0 tokens is the tail of a longer one; a document start begins at 1 again.
void positions_follow_the_packing() {
  Device& cpu = open_device("cpu");
  const std::vector<double> alpha = {0.7, 0.1};
  const auto whole = to_doubles(taper_of(alpha, 1, 12, {}));
  Packing packing = make_packing(cpu, 1, 7, {{4}});
  packing.t0 = from_host<int64_t>(cpu, {1}, {5});
  const auto part = to_doubles(taper_of(alpha, 1, 7, packing));
  for (size_t t = 0; t < 7; ++t)
    for (size_t h = 0; h < 2; ++h)
      expect(part[t * 2 + h] == whole[(t < 4 ? t + 5 : t - 4) * 2 + h], "position {} head {} is off", t, h);
}

void refuses_a_matrix_of_exponents() {
  Device& cpu = open_device("cpu");
  expect_error([&] { position_taper(constant(zeros(cpu, {2, 2}, Dtype::f32)), 1, 3, {}); },
               "position_taper: alpha must be [H]; got [2,2]");
  expect_error([&] { position_taper(constant(zeros(cpu, {2}, Dtype::f32)), 1, 3, {.start = zeros(cpu, {1, 4}, Dtype::i32)}); },
               "position_taper: packing start must be i32 [1,3]; got i32 [1,4]");
}

// As many rows as the first input, which is there to be cut.
Example cut_example(int64_t B, int64_t T, int64_t H) {
  return {.name = fmt::format("B={} T={} H={}", B, T, H),
          .inputs = {{.edge = "rows", .shape = {B, 1}}, {.edge = "alpha", .shape = {H}, .fill = uniform(0, 1)}},
          .build = [=](const std::vector<Var>& in, const Packing&) {
            return std::vector{position_taper(in[1], in[0].size(0), T, {})};
          }};
}

const RegisterCase registered{{
    .room = "position_taper",
    .ops = {"position_taper"},
    .examples = {example(1, 2, 1), example(2, 7, 3), example(1, 130, 12), example(2, 33, 5, 16)},
    .bench = {{.example = example(8, 2048, 24),
               .forward_flops = 2.0 * 8 * 2048 * 24,
               .forward_bytes = 4.0 * 8 * 2048 * 24,
               .backward_flops = 3.0 * 8 * 2048 * 24,
               .backward_bytes = 8.0 * 8 * 2048 * 24}},
    .checks = {{"the first position is never scaled", first_position_is_never_scaled},
               {"alpha = 0 scales nothing", alpha_zero_scales_nothing},
               {"positions follow the packing", positions_follow_the_packing},
               {"refuses a matrix of exponents", refuses_a_matrix_of_exponents}},
    .huge = {cut_example(huge_rows(2048 * 24), 2048, 24)},
}};

}  // namespace
}  // namespace taper::test
