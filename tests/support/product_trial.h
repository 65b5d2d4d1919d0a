// Product trial: device memory of a product with each epilogue, and what it must be: from the same rounded numbers, by a triple loop
// in f64.
#pragma once
#include <cmath>
#include <utility>
#include <vector>

#include "tensor/ops/matmul.h"
#include "tensor/random.h"
#include "tests/support/op_case.h"

namespace taper::test {

enum class Then { nothing, onto, residual, square, gate, kept_gate };
inline constexpr const char* names_of_then[] = {"", " onto c", " added", " squared", " gated", " gated, both kept"};

struct Trial {
  kernels::Matmul call;
  std::vector<std::pair<Tensor, Tensor>> pairs;  // what it writes, and what that must be
};

inline Trial trial(Device& device, int64_t M, int64_t K, int64_t N, Transposes t, Dtype operands, Dtype result, Then then) {
  auto draw = [&](const char* name, const Shape& shape, Dtype dtype) {
    std::vector<double> x;
    for (int64_t i = 0; i < shape.numel(); ++i) x.push_back(float(Random(1, name).normal(uint64_t(i))));
    return from_doubles(device, shape, dtype, x);
  };
  const Shape b_shape = t.b ? Shape{N, K} : Shape{K, N};
  kernels::Matmul m{.a = draw("a", t.a ? Shape{K, M} : Shape{M, K}, operands), .b = draw("b", b_shape, operands), .c = draw("c", {M, N}, result),
                    .transpose_a = t.a, .transpose_b = t.b};
  const auto product = [&](const Tensor& with) {
    const auto a = to_doubles(m.a), b = to_doubles(with);
    std::vector<double> c(size_t(M * N));
    for (int64_t i = 0; i < M; ++i)
      for (int64_t j = 0; j < N; ++j)
        for (int64_t k = 0; k < K; ++k) c[size_t(i * N + j)] += a[size_t(t.a ? k * M + i : i * K + k)] * b[size_t(t.b ? j * K + k : k * N + j)];
    return c;
  };
  const auto exact = [&](const std::vector<double>& x) { return from_doubles(open_device("cpu"), {M, N}, Dtype::f64, x); };
  std::vector<double> want = product(m.b);
  Trial r;
  if (then == Then::onto || then == Then::residual) {
    m.then = kernels::add_to(then == Then::onto ? m.c : draw("r", {M, N}, result));
    const auto added = to_doubles(m.then.with);
    for (size_t i = 0; i < want.size(); ++i) want[i] += added[i];
  } else if (then == Then::square) {
    m.then.kind = kernels::Epilogue::relu_squared;
    for (double& x : want) x = x > 0 ? x * x : 0;
  } else if (then != Then::nothing) {
    m.then = {.kind = kernels::Epilogue::silu_gate, .with = draw("up", b_shape, operands)};
    const auto up = product(m.then.with);
    if (then == Then::kept_gate) {
      m.then.gate = draw("kept gate", {M, N}, result);
      m.then.up = draw("kept up", {M, N}, result);
      r.pairs = {{m.then.gate, exact(want)}, {m.then.up, exact(up)}};
    }
    for (size_t i = 0; i < want.size(); ++i) want[i] *= up[i] / (1 + std::exp(-want[i]));
  }
  r.pairs.emplace_back(m.c, exact(want));
  r.call = m;
  return r;
}

}  // namespace taper::test
