// bonus: against its composition from plain ops, values by hand, and its error messages.
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

// A product with a matrix of ones sums over K and spreads the sum over V.
Var composed(const Var& y, const Var& r, const Var& k, const Var& v, const Var& weight) {
  const Var ones = constant(full(y.value.device(), {r.size(3), v.size(3)}, y.value.dtype(), 1));
  const Var products = multiply(multiply(r, k), weight);
  return add(y, multiply(matmul(products, ones), v));
}

Example example(int64_t B, int64_t T, int64_t H, int64_t K, int64_t V) {
  return {.name = fmt::format("B={} T={} H={} K={} V={}", B, T, H, K, V),
          .inputs = {{.edge = "y", .shape = {B, T, H, V}, .time_axis = 1},
                     {.edge = "r", .shape = {B, T, H, K}, .time_axis = 1},
                     {.edge = "k", .shape = {B, T, H, K}, .time_axis = 1},
                     {.edge = "v", .shape = {B, T, H, V}, .time_axis = 1},
                     {.edge = "weight", .shape = {H, K}, .wide = true}},
          .build = [](const std::vector<Var>& in, const Packing&) {
            return std::vector{bonus(in[0], in[1], in[2], in[3], in[4])};
          },
          .definition = [](const std::vector<Var>& in, const Packing&) {
            return std::vector{composed(in[0], in[1], in[2], in[3], in[4])};
          }};
}

Bench bench(int64_t B, bool large = false) {
  const double n = double(B) * 2048 * 768;
  Example e = example(B, 2048, 12, 64, 64);
  e.definition = {};
  return {.example = e, .forward_flops = 5 * n, .forward_bytes = 20 * n, .backward_flops = 13 * n, .backward_bytes = 28 * n,
          .large = large};
}

// Two tokens, two heads, K = 2, V = 1; all numbers exact in bf16.
void equals_what_is_worked_out_by_hand() {
  Device& cpu = open_device("cpu");
  for (Dtype t : {Dtype::f32, Dtype::f64, Dtype::bf16}) {
    Tape tape;
    auto leaf = [&](const char* name, const Shape& shape, const std::vector<double>& v) {
      return tape.leaf(name, from_doubles(cpu, shape, name == std::string("weight") ? wide(t) : t, v));
    };
    const Var y = leaf("y", {1, 2, 2, 1}, {1, 2, 3, 4}), v = leaf("v", {1, 2, 2, 1}, {2, -1, 3, 0.5});
    const Var r = leaf("r", {1, 2, 2, 2}, {1, 2, 3, 4, -1, 1, 2, 0});
    const Var k = leaf("k", {1, 2, 2, 2}, {1, 1, 2, 0, 3, 1, 1, 5});
    const Var weight = leaf("weight", {2, 2}, {1, 2, -1, 3});
    // c = 1+4, -6, -3+2, -2
    const Var out = bonus(y, r, k, v, weight);
    expect(to_doubles(out.value) == std::vector<double>{11, 8, 0, 3}, "{}: out", name(t));
    const auto d = backward(out, from_doubles(cpu, {1, 2, 2, 1}, t, std::vector<double>{1, 2, -1, 4}));
    // g = 2, -2, -3, 2
    auto expect_gradient = [&](const char* edge, const std::vector<double>& want) {
      expect(to_doubles(d.at(edge)) == want, "{}: d_{}", name(t), edge);
    };
    expect_gradient("y", {1, 2, -1, 4});
    expect_gradient("v", {5, -12, 1, -8});
    expect_gradient("r", {2, 4, 4, 0, -9, -6, -2, 30});
    expect_gradient("k", {2, 8, 6, -24, 3, -6, -4, 0});
    expect_gradient("weight", {2 + 9, 4 - 3, -12 + 4, 0});
  }
}

void a_weight_of_zeros_changes_no_bit() {
  Device& cpu = open_device("cpu");
  const Tensor y = from_doubles(cpu, {1, 1, 1, 3}, Dtype::f32, std::vector<double>{0.1, -7.7, 1e-30});
  const Var ones = constant(full(cpu, {1, 1, 1, 3}, Dtype::f32, 1));
  const Var weight = constant(zeros(cpu, {1, 3}, Dtype::f32));
  expect_same_bits(bonus(constant(y), ones, ones, ones, weight).value, y, "bonus with weight 0");
}

// The bracket of 4096 ones is 4096; a bf16 sum would stick at 256.
void bf16_keeps_its_sums_in_f32() {
  Device& cpu = open_device("cpu");
  auto ones = [&](const Shape& shape) { return constant(full(cpu, shape, Dtype::bf16, 1)); };
  const Var out = bonus(ones({1, 1, 1, 1}), ones({1, 1, 1, 4096}), ones({1, 1, 1, 4096}),
                        constant(full(cpu, {1, 1, 1, 1}, Dtype::bf16, 0x1p-12)), constant(full(cpu, {1, 4096}, Dtype::f32, 1)));
  expect(item(out.value) == 2, "1 + 4096 * 2^-12 must be 2; got {}", item(out.value));
}

void refuses_shapes_that_do_not_match() {
  Device& cpu = open_device("cpu");
  auto of = [&](const Shape& shape, Dtype t = Dtype::f32) { return constant(zeros(cpu, shape, t)); };
  const Var y = of({2, 3, 4, 5}), r = of({2, 3, 4, 6}), w = of({4, 6});
  expect_error([&] { bonus(of({2, 3, 20}), r, r, y, w); }, "bonus: y must be [B,T,H,V]; got [2,3,20]");
  expect_error([&] { bonus(y, {}, r, y, w); }, "bonus: r must be [B,T,H,K]; got nothing");
  expect_error([&] { bonus(y, of({2, 2, 4, 6}), r, y, w); },
               "bonus: r must be f32 [2,3,4,6] to match y [2,3,4,5]; got f32 [2,2,4,6]");
  expect_error([&] { bonus(y, r, of({2, 3, 4, 5}), y, w); },
               "bonus: k must be f32 [2,3,4,6] to match y [2,3,4,5]; got f32 [2,3,4,5]");
  expect_error([&] { bonus(y, r, r, of({2, 3, 4, 5}, Dtype::f64), w); },
               "bonus: v must be f32 [2,3,4,5] to match y [2,3,4,5]; got f64 [2,3,4,5]");
  expect_error([&] { bonus(y, r, r, y, of({24})); }, "bonus: weight must be f32 [4,6] to match y [2,3,4,5]; got f32 [24]");
}


const RegisterCase registered{{
    .room = "bonus",
    .ops = {"bonus"},
    .examples = {example(1, 1, 1, 1, 1), example(2, 7, 3, 4, 5), example(1, 33, 2, 17, 32), example(3, 130, 4, 8, 8), example(1, 5, 3, 64, 64)},
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {bench(1), bench(8, true)},
    .checks = {{"equals what is worked out by hand", equals_what_is_worked_out_by_hand},
               {"a weight of zeros changes no bit", a_weight_of_zeros_changes_no_bit},
               {"bf16 keeps its sums in f32", bf16_keeps_its_sums_in_f32},
               {"refuses shapes that do not match", refuses_shapes_that_do_not_match}},
    .huge = {example(huge_rows(64 * 12 * 64), 64, 12, 64, 64)},
}};

}  // namespace
}  // namespace taper::test
