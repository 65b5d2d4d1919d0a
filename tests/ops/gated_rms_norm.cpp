// gated_rms_norm: fused = composed from silu, multiply and rms_norm, in both orders.
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

constexpr GateOrder orders[] = {GateOrder::gate_then_norm, GateOrder::norm_then_gate};

Example example(const Shape& shape, GateOrder order, double eps = 1e-5) {
  return {.name = fmt::format("{} {}", shape.text(), order == GateOrder::gate_then_norm ? "gate then norm" : "norm then gate"),
          .inputs = {{.edge = "x", .shape = shape},
                     {.edge = "gate", .shape = shape, .fill = normal(0.2, 1.5)},
                     {.edge = "weight", .shape = {shape[-1]}, .fill = uniform(0.5, 1.5), .wide = true}},
          .build = [=](const std::vector<Var>& in, const Packing&) {
            return std::vector{gated_rms_norm(in[0], in[1], in[2], eps, order)};
          },
          .definition = [=](const std::vector<Var>& in, const Packing&) {
            return std::vector{order == GateOrder::gate_then_norm
                                   ? rms_norm(multiply(in[0], silu(in[1])), in[2], eps)
                                   : multiply(rms_norm(in[0], in[2], eps), silu(in[1]))};
          }};
}

std::vector<Example> examples() {
  std::vector<Example> all;
  for (GateOrder order : orders)
    for (const Shape& shape : {Shape{1}, Shape{4, 1}, Shape{3, 7}, Shape{2, 5, 33}, Shape{70, 64}, Shape{5, 192}, Shape{3, 1536}})
      // With one column and a small eps, the norm is a sign and its gradient all cancellation.
      all.push_back(example(shape, order, shape[-1] == 1 ? 0.5 : 1e-5));
  return all;
}

std::vector<Bench> benches() {
  std::vector<Bench> all;
  const auto add = [&](const Shape& shape, GateOrder order, bool large) {
    const double n = double(shape.numel());
    all.push_back({.example = example(shape, order), .forward_flops = 8 * n, .forward_bytes = 12 * n, .backward_flops = 20 * n,
                   .backward_bytes = 20 * n, .large = large});
  };
  for (GateOrder order : orders) add({1, 2048, 1536}, order, false);
  add({8, 2048, 1536}, GateOrder::gate_then_norm, true);
  for (const Shape& heads : {Shape{8, 2048, 6, 256}, Shape{8, 2048, 4, 192}, Shape{8, 2048, 3, 512}})
    add(heads, GateOrder::norm_then_gate, true);
  return all;
}

// A gate far below zero closes: with the gate first, the norm must not divide by 0.
void a_closed_gate_gives_zero() {
  Device& cpu = open_device("cpu");
  for (GateOrder order : orders) {
    const Tensor y = gated_rms_norm(constant(full(cpu, {2, 8}, Dtype::f32, 3)), constant(full(cpu, {2, 8}, Dtype::f32, -200)),
                                    constant(full(cpu, {8}, Dtype::f32, 1)), 1e-5, order)
                         .value;
    for (double v : to_doubles(y)) expect(v == 0, "want 0; got {}", v);
  }
}

void the_orders_differ() {
  Device& cpu = open_device("cpu");
  const Var x = constant(from_doubles(cpu, {2}, Dtype::f64, {{1, 2}})), z = constant(from_doubles(cpu, {2}, Dtype::f64, {{3, -1}}));
  const Var w = constant(full(cpu, {2}, Dtype::f64, 1));
  expect(relative_error(gated_rms_norm(x, z, w, 1e-5, orders[0]).value, gated_rms_norm(x, z, w, 1e-5, orders[1]).value) > 0.1,
         "gate before norm and after it must not be the same");
}

void refuses_shapes_that_do_not_match() {
  Device& cpu = open_device("cpu");
  auto of = [&](const Shape& shape) { return constant(zeros(cpu, shape, Dtype::f32)); };
  expect_error([&] { gated_rms_norm(of({2, 3}), of({3, 2}), of({3}), 1e-5, orders[0]); },
               "gated_rms_norm: gate must be f32 [2,3] as x; got f32 [3,2]");
  expect_error([&] { gated_rms_norm(of({2, 3}), of({2, 3}), of({2}), 1e-5, orders[0]); },
               "gated_rms_norm: weight must be f32 [3] to match x [2,3]; got f32 [2]");
  const Var narrow = constant(zeros(cpu, {2, 3}, Dtype::bf16));
  expect_error([&] { gated_rms_norm(narrow, narrow, constant(zeros(cpu, {3}, Dtype::bf16)), 1e-5, orders[0]); },
               "gated_rms_norm: weight must be f32 [3] to match x [2,3]; got bf16 [3]");
}

const RegisterCase registered{{
    .room = "gated_rms_norm",
    .ops = {"gated_rms_norm"},
    .examples = examples(),
    .bf16 = Tolerance{5e-3, 8e-3},
    .rounded_alone = true,
    .bench = benches(),
    .checks = {{"a closed gate gives zero", a_closed_gate_gives_zero},
               {"the orders differ", the_orders_differ},
               {"refuses shapes that do not match", refuses_shapes_that_do_not_match}},
    .huge = {example({huge_rows(1536), 1536}, GateOrder::gate_then_norm)},
}};

}  // namespace
}  // namespace taper::test
