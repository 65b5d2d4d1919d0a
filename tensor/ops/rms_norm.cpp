// rms_norm on the CPU.
#include "tensor/ops/rms_norm.h"

#include <cmath>

#include "tensor/sums.h"

namespace taper::kernels {
namespace {

void forward(const RmsNormForward& a) {
  visit<float, double, bf16>("rms_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t D = a.x.size(-1), rows = a.r.numel();
    const A* w = a.weight.data<A>();
    A* r = a.r.data<A>();
    parallel_for(rows, std::max<int64_t>(1, (1 << 14) / D), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* x = a.x.data<T>() + i * D;
        T* y = a.y.data<T>() + i * D;
        const A squares = lane_sum<A>(D, [&](int64_t j) { return A(x[j]) * A(x[j]); });
        r[i] = 1 / std::sqrt(squares / A(D) + A(a.eps));
        for (int64_t j = 0; j < D; ++j) y[j] = T(A(x[j]) * r[i] * w[j]);
      }
    });
  });
}

void backward(const RmsNormBackward& a) {
  visit<float, double, bf16>("rms_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t D = a.x.size(-1), rows = a.r.numel();
    const A* w = a.weight.data<A>();
    const std::vector<double> d_w = sum_columns(rows, D, [&](int64_t begin, int64_t end, double* sum) {
      for (int64_t i = begin; i < end; ++i) {
        const T *x = a.x.data<T>() + i * D, *d_y = a.d_y.data<T>() + i * D;
        const A r = a.r.data<A>()[i];
        if (a.d_x) {
          T* d_x = a.d_x.data<T>() + i * D;
          const A dot = lane_sum<A>(D, [&](int64_t j) { return A(d_y[j]) * w[j] * A(x[j]); });
          const A pull = r * r * dot / A(D);
          for (int64_t j = 0; j < D; ++j) d_x[j] = T(r * (A(d_y[j]) * w[j] - A(x[j]) * pull));
        }
        if (a.d_weight)
          for (int64_t j = 0; j < D; ++j) sum[j] += double(A(d_y[j]) * A(x[j]) * r);
      }
    });
    if (!a.d_weight) return;
    for (int64_t j = 0; j < D; ++j) a.d_weight.data<A>()[j] = A(d_w[size_t(j)]);
  });
}

const Implement f{rms_norm_forward, DeviceKind::cpu, forward};
const Implement b{rms_norm_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
