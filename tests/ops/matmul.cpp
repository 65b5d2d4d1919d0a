// matmul: all four transposes against a triple loop, leading dimensions as rows; every kernel of the ladder.
#include "tensor/ops/matmul.h"

#include <array>
#include <cstdlib>

#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

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

std::vector<Example> examples() {
  std::vector<Example> all = {batched_example(false), batched_example(true)};
  all.push_back(squared_example(17, 33, 9, {.b = true}));
  all.push_back(squared_example(24, 72, 136, {.b = true}));
  all.push_back(squared_example(264, 24, 40, {.b = true}));  // level 6 has work for all its rows
  all.push_back(squared_example(5, 8, 16, {}));
  for (bool a : {false, true})
    for (bool b : {false, true}) {
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
  return all;
}

// Device memory of a product and what it must be, from the same rounded numbers, by a triple loop in f64.
struct Trial {
  Tensor a, b, c, want;
};
enum class Then { nothing, accumulate, square };
Trial trial(Device& device, int64_t M, int64_t K, int64_t N, Transposes t, Dtype operands, Dtype result, Then then) {
  auto draw = [&](const char* name, const Shape& shape, Dtype dtype) {
    std::vector<double> x;
    for (int64_t i = 0; i < shape.numel(); ++i) x.push_back(float(Random(1, name).normal(uint64_t(i))));
    return from_doubles(device, shape, dtype, x);
  };
  Trial r{draw("a", t.a ? Shape{K, M} : Shape{M, K}, operands),
          draw("b", t.b ? Shape{N, K} : Shape{K, N}, operands),
          draw("c", {M, N}, result),
          {}};
  const auto a = to_doubles(r.a), b = to_doubles(r.b);
  auto want = then == Then::accumulate ? to_doubles(r.c) : std::vector<double>(size_t(M * N));
  for (int64_t i = 0; i < M; ++i)
    for (int64_t j = 0; j < N; ++j)
      for (int64_t k = 0; k < K; ++k)
        want[size_t(i * N + j)] += a[size_t(t.a ? k * M + i : i * K + k)] * b[size_t(t.b ? j * K + k : k * N + j)];
  if (then == Then::square)
    for (double& x : want) x = x > 0 ? x * x : 0;
  r.want = from_doubles(open_device("cpu"), {M, N}, Dtype::f64, want);
  return r;
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
    for (auto [M, K, N] : {std::array<int64_t, 3>{19, 23, 31}, {24, 72, 136}, {136, 200, 24}, {264, 2048, 24}})
      for (const Kind& kind : kinds)
        for (int bits = 0; bits < 12; ++bits) {
          if (K > 1000 && (by != By::wgmma || kind.operands != Dtype::bf16))
            continue;  // it hands sums over from block to block
          const Transposes t{.a = (bits & 1) != 0, .b = (bits & 2) != 0};
          const Then then = Then(bits / 4);
          const Trial r = trial(device, M, K, N, t, kind.operands, kind.result, then);
          const kernels::Matmul m{.a = r.a, .b = r.b, .c = r.c, .transpose_a = t.a, .transpose_b = t.b,
                                  .accumulate = then == Then::accumulate, .relu_squared = then == Then::square, .by = by};
          if (!kernels::matmul_takes(m)) continue;
          kernels::matmul(m);
          // A square doubles the error of what was rounded before it.
          expect_close(r.c, r.want, then == Then::square ? 2 * kind.bound : kind.bound,
                       fmt::format("{} by {}: M={} K={} N={}{}{}{}, {} to {}", device.name(), kernels::name(by), M, K,
                                   N, t.a ? " a^T" : "", t.b ? " b^T" : "",
                                   then == Then::accumulate ? " added" : then == Then::square ? " squared" : "",
                                   name(kind.operands), name(kind.result))
                           .c_str());
        }
}

void equals_a_triple_loop() { holds(open_device("cpu")); }

void every_kernel_equals_a_triple_loop() {
  if (const char* name = std::getenv("TAPER_TEST_DEVICE")) holds(open_device(name));
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

void refuses_a_square_that_is_added() {
  Device& cpu = open_device("cpu");
  const Tensor x = zeros(cpu, {2, 2}, Dtype::f32);
  expect_error([&] { kernels::matmul({.a = x, .b = x, .c = zeros(cpu, {2, 2}, Dtype::f32), .accumulate = true, .relu_squared = true}); },
               "matmul: a square cannot be added to c; take relu_squared or accumulate");
}

const RegisterCase registered{{
    .room = "matmul",
    .ops = {"matmul", "matmul_relu_squared", "project"},
    .examples = examples(),
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = benches(),
    .checks = {{"equals a triple loop", equals_a_triple_loop},
               {"every kernel equals a triple loop", every_kernel_equals_a_triple_loop},
               {"the gradient of b is wide", bf16_gradients},
               {"an empty inner size gives zeros", an_empty_inner_size_gives_zeros},
               {"refuses sizes that do not meet", refuses_sizes_that_do_not_meet},
               {"refuses a square that is added", refuses_a_square_that_is_added}},
    .huge = {rows_example(huge_rows(1024), 1024, 64, false), rows_example(huge_rows(1024), 64, 1024, false),
             rows_example(huge_rows(1024), 1024, 16, true)},
}};

}  // namespace
}  // namespace taper::test
