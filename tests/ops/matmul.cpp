// matmul: all four transposes against a triple loop, leading dimensions as rows; every kernel of the ladder.
#include "tensor/ops/matmul.h"

#include <array>
#include <cstdlib>

#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/op_case.h"
#include "tests/support/product_trial.h"

namespace taper::test {
namespace {

Example example(int64_t M, int64_t K, int64_t N, Transposes t) {
  return {.name = fmt::format("M={} K={} N={}{}{}", M, K, N, t.a ? " a^T" : "", t.b ? " b^T" : ""),
          .inputs = {{.edge = "a", .shape = t.a ? Shape{K, M} : Shape{M, K}},
                     {.edge = "b", .shape = t.b ? Shape{N, K} : Shape{K, N}}},
          .build = [t](const std::vector<Var>& in, const Packing&) { return std::vector{matmul(in[0], in[1], t)}; }};
}

Example batched_example(bool b_transposed) {
  return {
      .name = fmt::format("[2,3,5] by {}", b_transposed ? "[7,5]^T" : "[5,7]"),
      .inputs = {{.edge = "a", .shape = {2, 3, 5}}, {.edge = "b", .shape = b_transposed ? Shape{7, 5} : Shape{5, 7}}},
      .build = [=](const std::vector<Var>& in, const Packing&) {
        return std::vector{matmul(in[0], in[1], {.a = false, .b = b_transposed})};
      }};
}

// Against separate products; with `partly`, one of them is not looked at.
Example project_example(int weights, bool partly) {
  Example e{.name = fmt::format("[2,9,24] by {} weights{}", weights, partly ? ", one unused" : ""),
            .inputs = {{.edge = "x", .shape = {2, 9, 24}}},
            .build = {}};
  for (int i = 0; i < weights; ++i)
    e.inputs.push_back({.edge = "weight" + std::to_string(i), .shape = {8 * (i + 1) - 3 * (i % 2), 24}});
  const auto looked_at = [partly](std::vector<Var> y) {
    if (partly) y.erase(y.begin());
    return y;
  };
  e.build = [=](const std::vector<Var>& in, const Packing&) {
    return looked_at(project(in[0], {in.begin() + 1, in.end()}));
  };
  if (!partly)
    e.definition = [](const std::vector<Var>& in, const Packing&) {
      std::vector<Var> y;
      for (size_t i = 1; i < in.size(); ++i) y.push_back(matmul(in[0], in[i], {.a = false, .b = true}));
      return y;
    };
  return e;
}

// Against matmul and relu_squared (the law "fused = composed").
Example squared_example(int64_t M, int64_t K, int64_t N, Transposes t) {
  Example e = example(M, K, N, t);
  e.name += " squared";
  e.build = [t](const std::vector<Var>& in, const Packing&) { return std::vector{matmul_relu_squared(in[0], in[1], t)}; };
  e.definition = [t](const std::vector<Var>& in, const Packing&) { return std::vector{relu_squared(matmul(in[0], in[1], t))}; };
  return e;
}

// Against matmul and add.
Example add_example(int64_t M, int64_t K, int64_t N, Transposes t) {
  Example e = example(M, K, N, t);
  e.name += " added";
  e.inputs.push_back({.edge = "added", .shape = {M, N}});
  e.build = [t](const std::vector<Var>& in, const Packing&) { return std::vector{matmul_add(in[0], in[1], in[2], t)}; };
  e.definition = [t](const std::vector<Var>& in, const Packing&) { return std::vector{add(in[2], matmul(in[0], in[1], t))}; };
  return e;
}

// Against two products and swiglu.
Example gate_example(const Shape& x, int64_t N) {
  const int64_t K = x[x.rank() - 1];
  return {.name = fmt::format("{} by two of [{},{}], gated", x.text(), N, K),
          .inputs = {{.edge = "x", .shape = x}, {.edge = "gate", .shape = {N, K}}, {.edge = "up", .shape = {N, K}}},
          .build = [](const std::vector<Var>& in, const Packing&) { return std::vector{matmul_silu_gate(in[0], in[1], in[2])}; },
          .definition = [](const std::vector<Var>& in, const Packing&) {
            return std::vector{swiglu(matmul(in[0], in[1], {.b = true}), matmul(in[0], in[2], {.b = true}))};
          }};
}

std::vector<Example> examples() {
  std::vector<Example> all = {batched_example(false), batched_example(true)};
  all.push_back(squared_example(17, 33, 9, {.b = true}));
  all.push_back(squared_example(24, 72, 136, {.b = true}));
  all.push_back(squared_example(264, 24, 40, {.b = true}));  // level 6 has work for all its rows
  all.push_back(squared_example(5, 8, 16, {}));
  all.push_back(gate_example({17, 33}, 9));
  all.push_back(gate_example({2, 12, 72}, 136));
  all.push_back(gate_example({264, 24}, 40));
  all.push_back(gate_example({2, 264, 72}, 264));  // level 6: three tiles of 128 columns, three clusters
  for (bool a : {false, true})
    for (bool b : {false, true}) {
      all.push_back(add_example(17, 33, 9, {a, b}));
      all.push_back(add_example(264, 72, 136, {a, b}));
      all.push_back(example(1, 1, 1, {a, b}));
      all.push_back(example(3, 5, 7, {a, b}));
      all.push_back(example(17, 33, 9, {a, b}));
      all.push_back(example(24, 72, 136, {a, b}));  // rows of whole 16 bytes, two tiles of 128 columns, two of 64 inner
    }
  all.push_back(
      example(8, 1040, 16, {.a = true, .b = false}));  // a weight's gradient: the inner size is cut and summed
  for (int weights : {1, 3, 6}) all.push_back(project_example(weights, false));
  all.push_back(project_example(3, true));
  return all;
}

std::vector<Bench> benches() {
  std::vector<Bench> all;
  struct Size {
    int64_t M, K, N;
  };
  // in_proj, out_proj and the head of a byte model at d_model 768; weights are stored (out, in).
  for (auto [M, K, N] : {Size{2048, 768, 3352}, {2048, 1536, 768}, {2048, 768, 257}}) {
    const double flops = 2.0 * double(M) * double(K) * double(N), bytes = 4.0 * double(M * K + K * N + M * N);
    all.push_back({.example = example(M, K, N, {.a = false, .b = true}),
                   .forward_flops = flops,
                   .forward_bytes = bytes,
                   .backward_flops = 2 * flops,
                   .backward_bytes = 2 * bytes});
  }
  // RWKV-7's channel mix at 180M: the key, with and without the square.
  const double M = 8 * 2048, K = 768, N = 3072, flops = 2 * M * K * N, bytes = 4 * (M * K + K * N + M * N);
  for (const Example& e : {example(8 * 2048, 768, 3072, {.b = true}), squared_example(8 * 2048, 768, 3072, {.b = true})})
    all.push_back({.example = e, .forward_flops = flops, .forward_bytes = bytes, .backward_flops = 2 * flops,
                   .backward_bytes = 2 * bytes, .large = true});
  // The last projection of a layer, onto the stream: GLA's and RetNet's feed-forward layers, Mamba-2's mixer.
  for (const double inner : {1024, 1536, 2048}) {
    const double f = 2 * M * inner * 768, b = 4 * (M * inner + inner * 768 + 2 * M * 768);
    all.push_back({.example = add_example(8 * 2048, int64_t(inner), 768, {.b = true}), .forward_flops = f, .forward_bytes = b,
                   .backward_flops = 2 * f, .backward_bytes = 2 * b, .large = true});
  }
  for (const double wide : {1024, 2048}) {  // RetNet's and GLA's gates; with a gradient to come, both products are written too
    const double f = 4 * M * K * wide, b = 4 * (M * K + 2 * K * wide + 3 * M * wide);
    all.push_back({.example = gate_example({8, 2048, int64_t(K)}, int64_t(wide)), .forward_flops = f, .forward_bytes = b,
                   .backward_flops = 2 * f, .backward_bytes = 2 * b, .large = true});
  }
  return all;
}

struct Kind {
  Dtype operands, result;
  double bound;
};
constexpr Kind kinds[] = {{Dtype::f64, Dtype::f64, 1e-15},
                          {Dtype::f32, Dtype::f32, 1e-6},
                          {Dtype::bf16, Dtype::f32, 1e-6},
                          {Dtype::bf16, Dtype::bf16, 3e-3}};

// By the rule, and on a GPU by each kernel for itself. A kernel that cannot take a product is not asked.
void holds(Device& device) {
  using By = kernels::MatmulBy;
  for (By by : {By::rule, By::naive, By::shared_tiles, By::register_tiles, By::tensor_cores, By::pipelined, By::wgmma,
                By::cublaslt})
    for (auto [M, K, N] : {std::array<int64_t, 3>{19, 23, 31}, {24, 72, 136}, {136, 200, 24}, {392, 72, 264}, {264, 2048, 24}})
      for (const Kind& kind : kinds)
        for (int bits = 0; bits < 24; ++bits) {
          const bool large = K > 1000 || M > 300;  // level 6: it hands sums over from block to block; several tiles each way
          if (large && (by != By::wgmma || kind.operands != Dtype::bf16)) continue;
          const Transposes t{.a = (bits & 1) != 0, .b = (bits & 2) != 0};
          const Then then = Then(bits / 4);
          Trial r = trial(device, M, K, N, t, kind.operands, kind.result, then);
          r.call.by = by;
          if (!kernels::matmul_takes(r.call)) continue;
          kernels::matmul(r.call);
          // A square doubles the error of what was rounded before it, a gate more than that.
          const double bound = then >= Then::gate ? 3 * kind.bound : then == Then::square ? 2 * kind.bound : kind.bound;
          for (const auto& [got, want] : r.pairs)
            expect_close(got, want, bound,
                         fmt::format("{} by {}: M={} K={} N={}{}{}{}, {} to {}", device.name(), kernels::name(by), M, K, N, t.a ? " a^T" : "",
                                     t.b ? " b^T" : "", names_of_then[size_t(then)], name(kind.operands), name(kind.result))
                             .c_str());
        }
}

void equals_a_triple_loop() { holds(open_device("cpu")); }

void every_kernel_equals_a_triple_loop() {
  if (const char* name = std::getenv("TAPER_TEST_DEVICE")) holds(open_device(name));
}

// More tiles than an H100 makes at once, so that its blocks go from one to the next: level 6 as level 5 has them.
void level_6_goes_from_tile_to_tile() {
  using kernels::Epilogue;
  const char* name = std::getenv("TAPER_TEST_DEVICE");
  if (!name) return;
  Device& device = open_device(name);
  constexpr int64_t M = 4104, K = 136, N = 1288;
  std::vector<double> numbers;
  for (uint64_t i = 0; i < 100003; ++i) numbers.push_back(Random(5, "numbers").normal(i));
  const auto draw = [&](int64_t rows, int64_t columns, size_t from) {
    std::vector<double> x(size_t(rows * columns));
    for (size_t i = 0; i < x.size(); ++i) x[i] = numbers[(i + from) % numbers.size()];
    return from_doubles(device, {rows, columns}, Dtype::bf16, x);
  };
  const Tensor c(device, {M, N}, Dtype::bf16);
  kernels::Matmul m{.a = draw(M, K, 0), .b = draw(N, K, 7), .c = c, .transpose_b = true, .by = kernels::MatmulBy::wgmma};
  if (!kernels::matmul_takes(m)) return;
  const Tensor up = draw(N, K, 13), r = draw(M, N, 29);
  const auto both = [&](const char* what, const auto& then) {  // what a kernel writes, one below the other
    std::vector<std::vector<Tensor>> written;
    for (const auto by : {kernels::MatmulBy::wgmma, kernels::MatmulBy::pipelined}) {
      m.by = by;
      m.c = clone(r);
      m.then = then(m.c);
      kernels::matmul(m);
      written.push_back({m.c});
      if (m.then.gate) written.back().insert(written.back().end(), {m.then.gate, m.then.up});
    }
    for (size_t i = 0; i < written[0].size(); ++i)
      expect_close(written[0][i], from_doubles(open_device("cpu"), {M, N}, Dtype::f64, to_doubles(written[1][i])), 9e-3, what);
  };
  both("many tiles", [](const Tensor&) { return Epilogue{}; });
  both("many tiles onto c", [](const Tensor& c) { return kernels::add_to(c); });
  both("many tiles added", [&](const Tensor&) { return kernels::add_to(r); });
  both("many tiles squared", [](const Tensor&) { return Epilogue{.kind = Epilogue::relu_squared}; });
  both("many tiles gated", [&](const Tensor&) { return Epilogue{.kind = Epilogue::silu_gate, .with = up}; });
  both("many tiles gated, both kept", [&](const Tensor& c) {
    return Epilogue{.kind = Epilogue::silu_gate, .with = up, .gate = empty_like(c), .up = empty_like(c)};
  });
}

void bf16_gradients() {
  Device& cpu = open_device("cpu");
  Tape tape;
  auto leaf = [&](const char* name, const Shape& shape) { return tape.leaf(name, full(cpu, shape, Dtype::bf16, 1)); };
  const Var c = matmul(leaf("a", {3, 4}), leaf("b", {4, 5}));
  expect(c.value.dtype() == Dtype::bf16, "c must be bf16; got {}", name(c.value.dtype()));
  auto d = backward(c, full(cpu, {3, 5}, Dtype::bf16, 1));
  expect(d.at("a").dtype() == Dtype::bf16, "d_a must be bf16; got {}", name(d.at("a").dtype()));
  expect(d.at("b").dtype() == Dtype::f32, "d_b must be f32; got {}", name(d.at("b").dtype()));
}

void an_empty_inner_size_gives_zeros() {
  Device& cpu = open_device("cpu");
  cpu.poison(true);
  const Tensor c = matmul(constant(zeros(cpu, {3, 0}, Dtype::f32)), constant(zeros(cpu, {0, 4}, Dtype::f32))).value;
  cpu.poison(false);
  expect(to_doubles(c) == std::vector<double>(12, 0.0), "a product over nothing must be 0");
}

void refuses_sizes_that_do_not_meet() {
  Device& cpu = open_device("cpu");
  auto of = [&](const Shape& shape, Dtype t = Dtype::f32) { return constant(zeros(cpu, shape, t)); };
  expect_error([&] { matmul(of({2, 3}), of({4, 5})); }, "matmul: the inner sizes must agree; got a [2,3] and b [4,5]");
  expect_error(
      [&] {
        matmul(of({2, 3}), of({5, 4}), {.a = false, .b = true});
      },
      "matmul: the inner sizes must agree; got a [2,3] and b [5,4] transposed");
  expect_error([&] { matmul(of({2, 3}), of({3})); }, "matmul: b must be [K,N]; got [3]");
  expect_error(
      [&] {
        matmul(of({2, 3, 4}), of({3, 4}), {.a = true, .b = false});
      },
      "matmul: a must be [K,M]; got [2,3,4]");
  expect_error(
      [&] {
        matmul(of({2, 3}), of({3, 4}, Dtype::f64));
      },
      "matmul: a and b must have one dtype; got f32 and f64; cast one of them");
  expect_error(
      [&] {
        matmul(of({2, 3}, Dtype::i32), of({3, 4}, Dtype::i32));
      },
      "matmul: dtype must be f32 or f64 or bf16; got i32");
}

// Whole numbers: every order of addition gives the same. The rows of the first input are cut: of a, or of b, which then is
// [N,K], and the product is turned.
Example rows_example(int64_t rows, int64_t K, int64_t others, bool of_b) {
  return {.name = fmt::format("{} rows of {} by {}", rows, of_b ? "b" : "a", others),
          .inputs = {{.edge = of_b ? "b" : "a", .shape = {rows, K}, .fill = whole_numbers(-2, 2)},
                     {.edge = of_b ? "a" : "b", .shape = {others, K}, .fill = whole_numbers(-2, 2)}},
          .build = [=](const std::vector<Var>& in, const Packing&) {
            return std::vector{of_b ? transpose(matmul(in[1], in[0], {.b = true})) : matmul(in[0], in[1], {.b = true})};
          }};
}

Example huge_add_example() {
  Example e = rows_example(huge_rows(1024), 64, 1024, false);
  e.name += ", added";
  e.inputs.push_back({.edge = "added", .shape = {huge_rows(1024), 1024}, .fill = whole_numbers(-2, 2)});
  e.build = [](const std::vector<Var>& in, const Packing&) { return std::vector{matmul_add(in[0], in[1], in[2], {.b = true})}; };
  return e;
}

void refuses_what_an_epilogue_cannot_use() {
  using kernels::Epilogue;
  Device& cpu = open_device("cpu");
  auto of = [&](const Shape& shape, Dtype t = Dtype::f32) { return zeros(cpu, shape, t); };
  const Tensor x = of({2, 2}), wrong = of({2, 3});
  const auto refuses = [&](const Epilogue& then, const char* message) {
    expect_error([&] { kernels::matmul({.a = x, .b = x, .c = of({2, 2}), .then = then}); }, message);
  };
  refuses({.kind = Epilogue::add}, "matmul: what is added must have the shape and dtype of c");
  refuses({.kind = Epilogue::add, .with = wrong}, "matmul: what is added must have the shape and dtype of c");
  refuses({.kind = Epilogue::relu_squared, .with = x}, "matmul: only add and silu_gate take a further tensor");
  refuses({.kind = Epilogue::silu_gate, .with = wrong}, "matmul: the second factor of a silu gate must have the shape and dtype of b");
  refuses({.kind = Epilogue::silu_gate, .with = x, .gate = x}, "matmul: a silu gate keeps both of its products, as c, or neither");
  refuses({.kind = Epilogue::add, .with = x, .up = x}, "matmul: only silu_gate keeps its products");
  auto var = [&](const Shape& shape, Dtype t = Dtype::f32) { return constant(of(shape, t)); };
  expect_error([&] { matmul_add(var({2, 3}), var({3, 4}), var({4})); }, "matmul_add: added must be f32 [2,4] to match the product; got f32 [4]");
  expect_error([&] { matmul_add(var({2, 3}), var({3, 4}), var({2, 4}, Dtype::f64)); },
               "matmul_add: added must be f32 [2,4] to match the product; got f64 [2,4]");
  expect_error([&] { matmul_silu_gate(var({2, 3}), var({4, 3}), var({5, 3})); },
               "matmul_silu_gate: gate and up must be f32 [N,3] to match x [2,3]; got up of f32 [5,3]");
  expect_error([&] { matmul_silu_gate(var({2, 3}), {}, var({5, 3})); },
               "matmul_silu_gate: gate and up must be f32 [N,3] to match x [2,3]; got gate of nothing ");
}

// In f32 and f64 the CPU rounds as the plain ops do, so that a model's bits do not depend on who asks for a gradient.
void the_bits_of_the_plain_ops() {
  Device& cpu = open_device("cpu");
  const auto draw = [&](const char* name, const Shape& shape, Dtype t) {
    std::vector<double> x;
    for (int64_t i = 0; i < shape.numel(); ++i) x.push_back(Random(3, name).normal(uint64_t(i)));
    return from_doubles(cpu, shape, t, x);
  };
  for (Dtype t : {Dtype::f32, Dtype::f64}) {
    const Tensor a = draw("a", {33, 520}, t), b = draw("b", {40, 520}, t), up = draw("up", {40, 520}, t), r = draw("r", {33, 40}, t);
    const Var va = constant(a), vb = constant(b), vu = constant(up), vr = constant(r);
    expect(to_doubles(matmul_add(va, vb, vr, {.b = true}).value) == to_doubles(add(vr, matmul(va, vb, {.b = true})).value), "added: other bits");
    const auto gated = to_doubles(matmul_silu_gate(va, vb, vu).value);
    expect(gated == to_doubles(swiglu(matmul(va, vb, {.b = true}), matmul(va, vu, {.b = true})).value), "gated: other bits");
    Tape tape;
    expect(gated == to_doubles(matmul_silu_gate(tape.leaf("x", a), vb, vu).value), "gated with a gradient to come: other bits");
  }
}

const RegisterCase registered{{
    .room = "matmul",
    .ops = {"matmul", "matmul_relu_squared", "matmul_add", "matmul_silu_gate", "project"},
    .examples = examples(),
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = benches(),
    .checks = {{"equals a triple loop", equals_a_triple_loop},
               {"every kernel equals a triple loop", every_kernel_equals_a_triple_loop},
               {"level 6 goes from tile to tile", level_6_goes_from_tile_to_tile},
               {"the gradient of b is wide", bf16_gradients},
               {"an empty inner size gives zeros", an_empty_inner_size_gives_zeros},
               {"refuses sizes that do not meet", refuses_sizes_that_do_not_meet},
               {"refuses what an epilogue cannot use", refuses_what_an_epilogue_cannot_use},
               {"the bits of the plain ops", the_bits_of_the_plain_ops}},
    .huge = {rows_example(huge_rows(1024), 1024, 64, false), rows_example(huge_rows(1024), 64, 1024, false),
             rows_example(huge_rows(1024), 1024, 16, true), huge_add_example()},
}};

}  // namespace
}  // namespace taper::test
