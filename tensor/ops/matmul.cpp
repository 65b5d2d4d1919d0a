// matmul on the CPU: one call of gemm.
#include "tensor/ops/matmul.h"

#include <algorithm>

#include "tensor/gemm.h"

namespace taper::kernels {
namespace {

void product(const Matmul& m) {
  visit<float, double>("matmul", m.c.dtype(), [&]<class T>() {
    const int64_t N = m.c.size(-1), K = m.transpose_b ? m.b.size(-1) : m.b.numel() / std::max<int64_t>(1, N);
    gemm(Gemm<T>{.transpose_a = m.transpose_a,
                 .transpose_b = m.transpose_b,
                 .m = m.c.numel() / std::max<int64_t>(1, N),
                 .n = N,
                 .k = K,
                 .a = m.a.data<T>(),
                 .lda = m.a.size(-1),
                 .b = m.b.data<T>(),
                 .ldb = m.b.size(-1),
                 .c = m.c.data<T>(),
                 .ldc = N});
  });
}

const Implement f{matmul, DeviceKind::cpu, product};

}  // namespace
}  // namespace taper::kernels
