// matmul on the CPU: one call of gemm; bf16 goes through f32 copies.
#include "tensor/ops/matmul.h"

#include <algorithm>
#include <vector>

#include "tensor/gemm.h"
#include "tensor/ops/scalar_math.h"
#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

// c, from sums of its own or in place. Onto c itself gemm adds; another residual is added as add would.
template <class T, class C>
void product(const Matmul& m, const T* a, const T* b, T* sums, C* c) {
  const int64_t N = m.c.size(-1), K = m.transpose_b ? m.b.size(-1) : m.b.numel() / std::max<int64_t>(1, N);
  const C* added = m.then.kind == Epilogue::add ? m.then.with.data<C>() : nullptr;
  const bool onto = added == c, squared = m.then.kind == Epilogue::relu_squared, in_place = std::is_same_v<T, C>;
  if (onto && !in_place)
    for (int64_t i = 0; i < m.c.numel(); ++i) sums[i] = T(c[i]);
  gemm(Gemm<T>{.transpose_a = m.transpose_a,
               .transpose_b = m.transpose_b,
               .m = m.c.numel() / std::max<int64_t>(1, N),
               .n = N,
               .k = K,
               .a = a,
               .lda = m.a.size(-1),
               .b = b,
               .ldb = m.b.size(-1),
               .c = sums,
               .ldc = N,
               .beta = onto ? T(1) : T(0)});
  if (in_place && !squared && (!added || onto)) return;
  parallel_for(m.c.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T sum = squared ? scalar::ReluSquared().value(sums[i]) : sums[i];
      c[i] = C(added && !onto ? T(added[i]) + sum : sum);
    }
  });
}

std::vector<float> floats(const Tensor& t) {
  const bf16* x = t.data<bf16>();
  std::vector<float> copy(size_t(t.numel()));
  for (size_t i = 0; i < copy.size(); ++i) copy[i] = float(x[i]);
  return copy;
}

void forward(const Matmul& m) {
  check_matmul(m);
  if (m.then.kind == Epilogue::silu_gate) return silu_gate_apart(m);
  visit<float, double, bf16>("matmul", m.a.dtype(), [&]<class T>() {
    if constexpr (!std::is_same_v<T, bf16>) {
      product(m, m.a.data<T>(), m.b.data<T>(), m.c.data<T>(), m.c.data<T>());
    } else {
      const std::vector<float> a = floats(m.a), b = floats(m.b);
      visit<float, bf16>("matmul", m.c.dtype(), [&]<class C>() {
        C* c = m.c.data<C>();
        std::vector<float> sums(std::is_same_v<C, float> ? 0 : size_t(m.c.numel()));
        if constexpr (std::is_same_v<C, float>) product(m, a.data(), b.data(), c, c);
        else product(m, a.data(), b.data(), sums.data(), c);
      });
    }
  });
}

void backends(const MatmulBackends& b) { *b.text = std::string("gemm: ") + gemm_backend() + "\n"; }

void query(const MatmulQuery& q) { *q.takes = q.product->by == MatmulBy::rule; }

const Implement f{matmul, DeviceKind::cpu, forward};
const Implement n{matmul_backends, DeviceKind::cpu, backends};
const Implement q{matmul_query, DeviceKind::cpu, query};

}  // namespace
}  // namespace taper::kernels
