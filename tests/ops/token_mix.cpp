// token_mix: against its composition from token_shift (the law "fused = composed"), by hand, its refusals.
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

Example example(int64_t B, int64_t T, int64_t D, int weights, bool last) {
  Example e{.name = fmt::format("B={} T={} D={} weights={}{}", B, T, D, weights, last ? " last" : ""),
            .inputs = {{.edge = "x", .shape = {B, T, D}, .time_axis = 1}},
            .build = {}};
  for (int m = 0; m < weights; ++m) e.inputs.push_back({.edge = "weight" + std::to_string(m), .shape = {D}, .fill = uniform(0, 1), .wide = true});
  if (last) e.inputs.push_back({.edge = "last", .shape = {B, D}, .carried = true});
  const size_t n = size_t(weights);
  e.build = [n](const std::vector<Var>& in, const Packing& packing) {
    const MixResult r = token_mix(in[0], in.size() > n + 1 ? in[n + 1] : Var{}, {in.begin() + 1, in.begin() + 1 + int64_t(n)}, packing);
    std::vector<Var> out = r.y;
    out.push_back(r.tail);
    return out;
  };
  e.definition = [n](const std::vector<Var>& in, const Packing& packing) {
    const ShiftResult shift = token_shift(in[0], in.size() > n + 1 ? in[n + 1] : Var{}, packing);
    std::vector<Var> out;
    for (size_t m = 0; m < n; ++m) out.push_back(add(in[0], multiply(shift.y, in[m + 1])));
    out.push_back(shift.tail);
    return out;
  };
  e.timed_outputs.clear();
  for (int m = 0; m < weights; ++m) e.timed_outputs.push_back(m);
  return e;
}

std::vector<Example> examples() {
  std::vector<Example> all;
  for (int64_t T : {1, 2, 3, 7, 33}) all.push_back(example(2, T, 5, 6, true));
  all.push_back(example(3, 20, 17, 1, false));
  all.push_back(example(2, 65, 48, 4, true));
  all.push_back(example(1, 129, 64, 6, false));
  return all;
}

void equals_what_is_worked_out_by_hand() {
  Device& cpu = open_device("cpu");
  Tape tape;
  const Var x = tape.leaf("x", from_doubles(cpu, {1, 3, 1}, Dtype::f64, {{2, 6, 10}}));
  const Var w = tape.leaf("w", from_doubles(cpu, {1}, Dtype::f64, {{0.25}}));
  const MixResult r = token_mix(x, {}, {w}, make_packing(cpu, 1, 3, {{2}}));
  expect(to_doubles(r.y[0].value) == std::vector<double>{1.5, 5, 7.5}, "y; the document at 2 must not see 6");
  const auto d = backward(r.y[0], from_doubles(cpu, {1, 3, 1}, Dtype::f64, {{1, 2, 4}}));
  expect(to_doubles(d.at("x")) == std::vector<double>{1.25, 1.5, 3}, "d_x");
  expect(to_doubles(d.at("w")) == std::vector<double>{-2 - 8 - 40}, "d_weight");
}

void refuses_shapes_that_do_not_match() {
  Device& cpu = open_device("cpu");
  auto of = [&](const Shape& shape, Dtype t = Dtype::f32) { return constant(zeros(cpu, shape, t)); };
  expect_error([&] { token_mix(of({7, 3}), {}, {of({3})}, {}); }, "token_mix: x must be [B,T,D] with T >= 1; got [7,3]");
  expect_error([&] { token_mix(of({2, 7, 3}), {}, {}, {}); }, "token_mix: wants 1 to 6 weights; got 0");
  expect_error([&] { token_mix(of({2, 7, 3}), {}, {of({4})}, {}); }, "token_mix: each weight must be f32 [3] to match x; got f32 [4]");
  expect_error([&] { token_mix(of({2, 7, 3}), of({3, 3}), {of({3})}, {}); }, "token_mix: last must be f32 [2,3] to match x; got f32 [3,3]");
}

Bench bench(int64_t B, bool large) {
  const double n = double(B) * 2048.0 * 768;
  return {.example = example(B, 2048, 768, 6, false), .forward_flops = 18 * n, .forward_bytes = 28 * n, .backward_flops = 42 * n,
          .backward_bytes = 32 * n, .large = large};
}

const RegisterCase registered{{
    .room = "token_mix",
    .ops = {"token_mix"},
    .examples = examples(),
    .looks_back = true,
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {bench(1, false), bench(8, true)},
    .checks = {{"equals what is worked out by hand", equals_what_is_worked_out_by_hand},
               {"refuses shapes that do not match", refuses_shapes_that_do_not_match}},
    .huge = {example(huge_rows(64 * 768), 64, 768, 2, false)},
}};

}  // namespace
}  // namespace taper::test
