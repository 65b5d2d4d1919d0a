// l2_norm on the CPU.
#include "tensor/ops/l2_norm.h"

#include <cmath>

#include "tensor/sums.h"

namespace taper::kernels {
namespace {

void forward(const L2NormForward& a) {
  visit<float, double, bf16>("l2_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t D = a.x.size(-1), rows = a.r.numel();
    A* r = a.r.data<A>();
    parallel_for(rows, std::max<int64_t>(1, (1 << 14) / D), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* x = a.x.data<T>() + i * D;
        T* y = a.y.data<T>() + i * D;
        r[i] = 1 / std::sqrt(lane_sum<A>(D, [&](int64_t j) { return A(x[j]) * A(x[j]); }) + A(a.eps));
        for (int64_t j = 0; j < D; ++j) y[j] = T(A(x[j]) * r[i]);
      }
    });
  });
}

void backward(const L2NormBackward& a) {
  visit<float, double, bf16>("l2_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t D = a.x.size(-1), rows = a.r.numel();
    parallel_for(rows, std::max<int64_t>(1, (1 << 14) / D), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T *x = a.x.data<T>() + i * D, *d_y = a.d_y.data<T>() + i * D;
        T* d_x = a.d_x.data<T>() + i * D;
        const A r = a.r.data<A>()[i];
        // y = x r is formed before the product: r^3 alone can leave f32's range.
        const A dot = lane_sum<A>(D, [&](int64_t j) { return (A(x[j]) * r) * A(d_y[j]); });
        for (int64_t j = 0; j < D; ++j) d_x[j] = T(r * (A(d_y[j]) - (A(x[j]) * r) * dot));
      }
    });
  });
}

const Implement f{l2_norm_forward, DeviceKind::cpu, forward};
const Implement b{l2_norm_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
