// matmul on the CPU: one call of gemm; bf16 goes through f32 copies.
#include "tensor/ops/matmul.h"

#include <algorithm>
#include <vector>

#include "tensor/gemm.h"
#include "tensor/ops/scalar_math.h"
#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

template <class T>
void product(const Matmul& m, const T* a, const T* b, T* c) {
  const int64_t N = m.c.size(-1), K = m.transpose_b ? m.b.size(-1) : m.b.numel() / std::max<int64_t>(1, N);
  gemm(Gemm<T>{.transpose_a = m.transpose_a,
               .transpose_b = m.transpose_b,
               .m = m.c.numel() / std::max<int64_t>(1, N),
               .n = N,
               .k = K,
               .a = a,
               .lda = m.a.size(-1),
               .b = b,
               .ldb = m.b.size(-1),
               .c = c,
               .ldc = N,
               .beta = m.accumulate ? T(1) : T(0)});
  if (!m.relu_squared) return;
  parallel_for(m.c.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) c[i] = scalar::ReluSquared().value(c[i]);
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
  visit<float, double, bf16>("matmul", m.a.dtype(), [&]<class T>() {
    if constexpr (!std::is_same_v<T, bf16>) {
      product(m, m.a.data<T>(), m.b.data<T>(), m.c.data<T>());
    } else {
      const std::vector<float> a = floats(m.a), b = floats(m.b);
      visit<float, bf16>("matmul", m.c.dtype(), [&]<class C>() {
        if constexpr (std::is_same_v<C, float>) {
          product(m, a.data(), b.data(), m.c.data<float>());
        } else {
          std::vector<float> c = m.accumulate ? floats(m.c) : std::vector<float>(size_t(m.c.numel()));
          product(m, a.data(), b.data(), c.data());
          for (size_t i = 0; i < c.size(); ++i) m.c.data<bf16>()[i] = bf16(c[i]);
        }
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
