// matmul: all four transposes against a triple loop, leading dimensions as rows.
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
  return {.name = fmt::format("[2,3,5] by {}", b_transposed ? "[7,5]^T" : "[5,7]"),
          .inputs = {{.edge = "a", .shape = {2, 3, 5}}, {.edge = "b", .shape = b_transposed ? Shape{7, 5} : Shape{5, 7}}},
          .build = [=](const std::vector<Var>& in, const Packing&) {
            return std::vector{matmul(in[0], in[1], {.a = false, .b = b_transposed})};
          }};
}

std::vector<Example> examples() {
  std::vector<Example> all = {batched_example(false), batched_example(true)};
  for (bool a : {false, true})
    for (bool b : {false, true}) {
      all.push_back(example(1, 1, 1, {a, b}));
      all.push_back(example(3, 5, 7, {a, b}));
      all.push_back(example(17, 33, 9, {a, b}));
    }
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
  return all;
}

void equals_a_triple_loop() {
  Device& cpu = open_device("cpu");
  const int64_t M = 19, K = 23, N = 31;
  std::vector<double> a, b;
  for (int64_t i = 0; i < M * K; ++i) a.push_back(float(Random(1, "a").normal(uint64_t(i))));
  for (int64_t i = 0; i < K * N; ++i) b.push_back(float(Random(1, "b").normal(uint64_t(i))));
  for (bool ta : {false, true})
    for (bool tb : {false, true}) {
      std::vector<double> want(size_t(M * N));
      for (int64_t i = 0; i < M; ++i)
        for (int64_t j = 0; j < N; ++j)
          for (int64_t k = 0; k < K; ++k)
            want[size_t(i * N + j)] += a[size_t(ta ? k * M + i : i * K + k)] * b[size_t(tb ? j * K + k : k * N + j)];
      for (auto [dtype, bound] : {std::pair{Dtype::f64, 1e-15}, {Dtype::f32, 1e-6}}) {
        const Tensor c = matmul(constant(from_doubles(cpu, ta ? Shape{K, M} : Shape{M, K}, dtype, a)),
                                constant(from_doubles(cpu, tb ? Shape{N, K} : Shape{K, N}, dtype, b)), {ta, tb})
                             .value;
        expect_close(c, from_doubles(cpu, {M, N}, Dtype::f64, want), bound, "matmul");
      }
    }
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
  expect_error([&] { matmul(of({2, 3}), of({5, 4}), {.a = false, .b = true}); },
               "matmul: the inner sizes must agree; got a [2,3] and b [5,4] transposed");
  expect_error([&] { matmul(of({2, 3}), of({3})); }, "matmul: b must be [K,N]; got [3]");
  expect_error([&] { matmul(of({2, 3, 4}), of({3, 4}), {.a = true, .b = false}); }, "matmul: a must be [K,M]; got [2,3,4]");
  expect_error([&] { matmul(of({2, 3}), of({3, 4}, Dtype::f64)); },
               "matmul: a and b must have one dtype; got f32 and f64; cast one of them");
  expect_error([&] { matmul(of({2, 3}, Dtype::bf16), of({3, 4}, Dtype::bf16)); },
               "matmul: dtype must be f32 or f64; got bf16");
}

const RegisterCase registered{{
    .room = "matmul",
    .ops = {"matmul"},
    .examples = examples(),
    .bench = benches(),
    .checks = {{"equals a triple loop", equals_a_triple_loop},
               {"an empty inner size gives zeros", an_empty_inner_size_gives_zeros},
               {"refuses sizes that do not meet", refuses_sizes_that_do_not_meet}},
}};

}  // namespace
}  // namespace taper::test
