// token_shift: its values by hand, document starts, segments, one step at a time.
#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

Example example(int64_t B, int64_t T, int64_t D, bool last) {
  Example e{.name = fmt::format("B={} T={} D={}{}", B, T, D, last ? " last" : ""),
            .inputs = {{.edge = "x", .shape = {B, T, D}, .time_axis = 1}},
            .build = [](const std::vector<Var>& in, const Packing& packing) {
              const ShiftResult r = token_shift(in[0], in.size() > 1 ? in[1] : Var{}, packing);
              return std::vector{r.y, r.tail};
            }};
  if (last) e.inputs.push_back({.edge = "last", .shape = {B, D}, .carried = true});
  return e;
}

std::vector<Example> examples() {
  std::vector<Example> all;
  for (int64_t T : {1, 2, 3, 7, 33}) all.push_back(example(2, T, 5, true));
  all.push_back(example(3, 20, 17, false));
  all.push_back(example(2, 19, 24, true));
  return all;
}

void equals_what_is_worked_out_by_hand() {
  Device& cpu = open_device("cpu");
  for (Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16}) {
    Tape tape;
    const Var x = tape.leaf("x", from_doubles(cpu, {1, 4, 1}, dtype, {{1, 3, 7, 20}}));
    const Var last = tape.leaf("last", from_doubles(cpu, {1, 1}, dtype, {{10}}));
    const ShiftResult r = token_shift(x, last, make_packing(cpu, 1, 4, {{2}}));
    expect(to_doubles(r.y.value) == std::vector<double>{9, -2, -7, -13}, "the document at 2 must not see 3");
    expect(to_doubles(r.tail.value) == std::vector<double>{20}, "the tail is the last token");
    const auto d = backward({r.y, r.tail}, {from_doubles(cpu, {1, 4, 1}, dtype, {{1, 2, 4, 8}}), from_doubles(cpu, {1, 1}, dtype, {{16}})});
    expect(to_doubles(d.at("x")) == std::vector<double>{1, -2, 4, 8}, "d_x");
    expect(to_doubles(d.at("last")) == std::vector<double>{1}, "d_last");
  }
  expect(to_doubles(token_shift(constant(full(cpu, {1, 1, 1}, Dtype::f64, 5)), {}, {}).y.value)[0] == -5, "before all is 0");
}

// A window cut anywhere, the tail handed on: the same bits, down to single steps.
void segments_equal_one_pass() {
  const int64_t T = 12, D = 5;
  std::vector<double> v;
  for (int64_t i = 0; i < T * D; ++i) v.push_back(Random(4, "x").normal(uint64_t(i)));
  const Tensor x = from_doubles(open_device("cpu"), {T, D}, Dtype::f32, v);
  auto part = [&](const Tensor& t, int64_t begin, int64_t end) { return t.rows(begin, end).reshape(Shape{1, end - begin, D}); };
  const ShiftResult whole = token_shift(constant(part(x, 0, T)), {}, {});
  for (int64_t step : {1, 2, 5}) {
    Var last;
    for (int64_t t = 0; t < T; t += step) {
      const int64_t end = std::min(T, t + step);
      const ShiftResult r = token_shift(constant(part(x, t, end)), last, {});
      expect_same_bits(r.y.value, part(whole.y.value.reshape(Shape{T, D}), t, end), "segment");
      last = constant(r.tail.value);
    }
    expect_same_bits(last.value, whole.tail.value, "last tail");
  }
}

void the_tail_alone_has_a_gradient() {
  Device& cpu = open_device("cpu");
  Tape tape;
  const ShiftResult r = token_shift(tape.leaf("x", full(cpu, {1, 2, 1}, Dtype::f64, 1)), {}, {});
  expect(to_doubles(backward(r.tail, full(cpu, {1, 1}, Dtype::f64, 3)).at("x")) == std::vector<double>{0, 3}, "d_x");
}

void refuses_shapes_that_do_not_match() {
  Device& cpu = open_device("cpu");
  auto of = [&](const Shape& shape, Dtype t = Dtype::f32) { return constant(zeros(cpu, shape, t)); };
  expect_error([&] { token_shift(of({7, 3}), {}, {}); }, "token_shift: x must be [B,T,D] with T >= 1; got [7,3]");
  expect_error([&] { token_shift(of({2, 7, 3}), of({2, 4}), {}); }, "token_shift: last must be f32 [2,3] to match x; got f32 [2,4]");
  expect_error([&] { token_shift(of({2, 7, 3}), of({2, 3}, Dtype::f64), {}); },
               "token_shift: last must be f32 [2,3] to match x; got f64 [2,3]");
}

Bench bench(int64_t B, bool large = false) {
  const double n = double(B) * 2048 * 768;
  return {.example = example(B, 2048, 768, false), .forward_flops = n, .forward_bytes = 8 * n, .backward_flops = n,
          .backward_bytes = 8 * n, .large = large};
}

const RegisterCase registered{{
    .room = "token_shift",
    .ops = {"token_shift"},
    .examples = examples(),
    .looks_back = true,
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {bench(1), bench(8, true)},
    .checks = {{"equals what is worked out by hand", equals_what_is_worked_out_by_hand},
               {"segments equal one pass", segments_equal_one_pass},
               {"the tail alone has a gradient", the_tail_alone_has_a_gradient},
               {"refuses shapes that do not match", refuses_shapes_that_do_not_match}},
    .huge = {example(huge_rows(64 * 768), 64, 768, false)},
}};

}  // namespace
}  // namespace taper::test
