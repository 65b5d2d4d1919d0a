// binary: five functions, each with b as large as a, as a's tail, and as a scalar.
#include <functional>

#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

using Op2 = std::function<Var(const Var&, const Var&)>;

struct Function {
  const char* name;
  Op2 op;
  Fill fill_b = normal();
  Op2 composed = {};  // of other ops: the law "fused = composed"
};

const std::vector<Function>& functions() {
  static const std::vector<Function> list = {
      {"add", [](const Var& a, const Var& b) { return add(a, b); }},
      {"subtract", [](const Var& a, const Var& b) { return subtract(a, b); }},
      {"multiply", [](const Var& a, const Var& b) { return multiply(a, b); }},
      {"divide", [](const Var& a, const Var& b) { return divide(a, b); }, uniform(0.5, 3)},
      {"swiglu", [](const Var& a, const Var& b) { return swiglu(a, b); }, normal(), [](const Var& a, const Var& b) { return multiply(silu(a), b); }},
  };
  return list;
}

// wide: of bf16 a, b stays f32.
Example example(const Function& f, const Shape& a, const Shape& b, bool wide = false) {
  const auto of = [](const Op2& op) -> Build {
    if (!op) return {};
    return [op](const std::vector<Var>& in, const Packing&) { return std::vector{op(in[0], in[1])}; };
  };
  return {.name = fmt::format("{} {} {}{}", f.name, a.text(), b.text(), wide ? " wide" : ""),
          .inputs = {{.edge = "a", .shape = a}, {.edge = "b", .shape = b, .fill = f.fill_b, .wide = wide}},
          .build = of(f.op),
          .definition = of(f.composed)};
}

std::vector<Example> examples() {
  const std::pair<Shape, Shape> shapes[] = {{{}, {}},          {{7}, {7}},       {{3, 5}, {3, 5}}, {{3, 5}, {5}},
                                            {{2, 3, 5}, {3, 5}}, {{4, 9}, {}}, {{6, 1}, {1}},   {{300, 70}, {70}},
                                            {{130, 24}, {24}}, {{33, 296}, {296}}, {{5, 1001}, {}}};
  std::vector<Example> all;
  for (const Function& f : functions())
    for (const auto& [a, b] : shapes)
      for (bool wide : {false, true})
        if (!wide || b.rank() == 1) all.push_back(example(f, a, b, wide));
  return all;
}

std::vector<Bench> benches() {
  std::vector<Bench> all;
  const double n = 2048.0 * 1536;
  for (const Shape& b : {Shape{2048, 1536}, Shape{1536}, Shape{}})
    all.push_back({.example = example(functions()[2], {2048, 1536}, b),
                   .forward_flops = n,
                   .forward_bytes = 8 * n + 4 * double(b.numel()),
                   .backward_flops = 3 * n,
                   .backward_bytes = 12 * n + 8 * double(b.numel())});
  const double m = 8.0 * 2048 * 768;
  for (const Shape& b : {Shape{8, 2048, 768}, Shape{768}})
    all.push_back({.example = example(functions()[2], {8, 2048, 768}, b, b.rank() == 1),
                   .forward_flops = m,
                   .forward_bytes = 8 * m + 4 * double(b.numel()),
                   .backward_flops = 3 * m,
                   .backward_bytes = 12 * m + 8 * double(b.numel()),
                   .large = true});
  for (const int64_t F : {2048, 2816}) {  // feed-forward layers at 180M and 440M
    const Shape shape = {8, 2048, F};
    const double k = double(shape.numel());
    all.push_back({.example = example(functions()[4], shape, shape), .forward_flops = 4 * k, .forward_bytes = 12 * k,
                   .backward_flops = 9 * k, .backward_bytes = 20 * k, .large = true});
  }
  return all;
}

// Both edges may come from one leaf, and the sum must hold both parts.
void a_value_may_meet_itself() {
  Device& cpu = open_device("cpu");
  Tape tape;
  const Var x = tape.leaf("x", from_doubles(cpu, {2}, Dtype::f64, {{3, -2}}));
  const Tensor one = full(cpu, {2}, Dtype::f64, 1);
  expect(to_doubles(backward(multiply(x, x), one).at("x")) == std::vector<double>{6, -4}, "d(x x) must be 2x");
  Tape other;
  const Var y = other.leaf("y", from_doubles(cpu, {2}, Dtype::f64, {{3, -2}}));
  expect(to_doubles(backward(subtract(y, y), one).at("y")) == std::vector<double>{0, 0}, "d(y - y) must be 0");
}

// The sum over 100000 rows of 1 + 2^-20 would drift in f32.
void broadcast_sums_do_not_drift() {
  Device& cpu = open_device("cpu");
  for (const Shape& tail : {Shape{3}, Shape{}}) {
    Tape tape;
    const int64_t rows = 100000;
    const Var b = tape.leaf("b", zeros(cpu, tail, Dtype::f32));
    const Var y = add(constant(zeros(cpu, {rows, 3}, Dtype::f32)), b);
    const Tensor d = backward(y, full(cpu, {rows, 3}, Dtype::f32, 1 + 0x1p-20)).at("b");
    const double want = double(float((1 + 0x1p-20) * double(rows) * 3 / double(d.numel())));
    for (double v : to_doubles(d)) expect(v == want, "want {}; got {}", want, v);
  }
}

void bf16_is_computed_in_f32() {
  Device& cpu = open_device("cpu");
  const Var a = constant(from_doubles(cpu, {2}, Dtype::bf16, {{256, 1}}));
  const Var b = constant(from_doubles(cpu, {2}, Dtype::bf16, {{3, 3}}));
  const auto y = to_doubles(divide(a, b).value);
  expect(y[0] == float(bf16(256.0f / 3)) && y[1] == float(bf16(1.0f / 3)), "got {} and {}", y[0], y[1]);
}

// f32 beside bf16: computed in f32 from both, y in bf16, the gradient of b in f32.
void b_may_be_wide() {
  Device& cpu = open_device("cpu");
  Tape tape;
  const Var a = tape.leaf("a", from_doubles(cpu, {2, 2}, Dtype::bf16, {{1, 2, 3, 4}}));
  const Var b = tape.leaf("b", from_doubles(cpu, {2}, Dtype::f32, {{1 + 0x1p-20, 3}}));
  const Var y = multiply(a, b);
  expect(y.value.dtype() == Dtype::bf16, "y must be bf16; it is {}", name(y.value.dtype()));
  expect(to_doubles(y.value) == std::vector<double>{1, 6, 3, 12}, "y must be the rounded product");
  const auto d = backward(y, from_doubles(cpu, {2, 2}, Dtype::bf16, {{1, 1, 1, 1}}));
  expect(d.at("a").dtype() == Dtype::bf16 && d.at("b").dtype() == Dtype::f32, "gradients must be bf16 and f32; they are {} and {}",
         name(d.at("a").dtype()), name(d.at("b").dtype()));
  expect(to_doubles(d.at("b")) == std::vector<double>{4, 6}, "d_b must be the column sums of a");
}

// A sum's gradient is the one that came: the same memory, on both edges.
void a_sum_passes_its_gradient_on() {
  Device& cpu = open_device("cpu");
  Tape tape;
  const Var a = tape.leaf("a", zeros(cpu, {2}, Dtype::f32)), b = tape.leaf("b", zeros(cpu, {2}, Dtype::f32));
  const Tensor seed = full(cpu, {2}, Dtype::f32, 3);
  const auto d = backward(add(a, b), seed);
  expect(d.at("a").data<float>() == seed.data<float>() && d.at("b").data<float>() == seed.data<float>(), "no copy is wanted");
}

void refuses_what_does_not_broadcast() {
  Device& cpu = open_device("cpu");
  auto of = [&](const Shape& shape, Dtype t = Dtype::f32) { return constant(zeros(cpu, shape, t)); };
  expect_error([&] { add(of({2, 3}), of({2})); },
               "add: b must have a's shape [2,3], its last dimensions, or be a scalar []; got [2]");
  expect_error([&] { multiply(of({3}), of({2, 3})); },
               "multiply: b must have a's shape [3], its last dimensions, or be a scalar []; got [2,3]");
  expect_error([&] { divide(of({3}), of({3}, Dtype::f64)); },
               "divide: a and b must have one dtype; got f32 and f64; cast one of them");
  expect_error([&] { add(of({3}), of({3}, Dtype::bf16)); }, "add: a and b must have one dtype; got f32 and bf16");
  expect_error([&] { add(of({3}, Dtype::bf16), of({3}, Dtype::f64)); }, "add: a and b must have one dtype; got bf16 and f64");
}

const RegisterCase registered{{
    .room = "binary",
    .ops = {"add", "subtract", "multiply", "divide", "swiglu"},
    .examples = examples(),
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = benches(),
    .checks = {{"a value may meet itself", a_value_may_meet_itself},
               {"broadcast sums do not drift", broadcast_sums_do_not_drift},
               {"bf16 is computed in f32", bf16_is_computed_in_f32},
               {"b may be wide", b_may_be_wide},
               {"a sum passes its gradient on", a_sum_passes_its_gradient_on},
               {"refuses what does not broadcast", refuses_what_does_not_broadcast}},
    .huge = {example(functions()[2], {huge_rows(1024), 1024}, {huge_rows(1024), 1024}),
             example(functions()[2], {huge_rows(768), 768}, {768}, true)},
}};

}  // namespace
}  // namespace taper::test
