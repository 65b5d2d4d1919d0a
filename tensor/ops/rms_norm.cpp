// rms_norm on the CPU.
#include "tensor/ops/rms_norm.h"

#include <cmath>

#include "tensor/sums.h"

namespace taper::kernels {
namespace {

void forward(const RmsNormForward& a) {
  visit_stream("rms_norm", a.x.dtype(), a.y.dtype(), [&]<class T, class U>() {
    using A = Acc<T>;
    const int64_t D = a.x.size(-1), rows = a.r.numel();
    const A* w = a.weight.data<A>();
    A* r = a.r.data<A>();
    parallel_for(rows, std::max<int64_t>(1, (1 << 14) / D), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* s = a.x.data<T>() + i * D;
        U* y = a.y.data<U>() + i * D;
        if (a.added) {
          const U* added = a.added.data<U>() + i * D;
          T* sum = a.sum.data<T>() + i * D;
          for (int64_t j = 0; j < D; ++j) sum[j] = T(A(s[j]) + A(added[j]));
          s = sum;
        }
        const A squares = lane_sum<A>(D, [&](int64_t j) { return A(s[j]) * A(s[j]); });
        r[i] = 1 / std::sqrt(squares / A(D) + A(a.eps));
        for (int64_t j = 0; j < D; ++j) y[j] = U(A(s[j]) * r[i] * w[j]);
      }
    });
  });
}

void backward(const RmsNormBackward& a) {
  visit_stream("rms_norm", a.sum.dtype(), a.d_y.dtype(), [&]<class T, class U>() {
    using A = Acc<T>;
    const int64_t D = a.sum.size(-1), rows = a.r.numel();
    const A* w = a.weight.data<A>();
    const std::vector<double> d_w = sum_columns(rows, D, [&](int64_t begin, int64_t end, double* sum) {
      std::vector<A> d(static_cast<size_t>(D));
      for (int64_t i = begin; i < end; ++i) {
        const T* s = a.sum.data<T>() + i * D;
        const U* d_y = a.d_y.data<U>() + i * D;
        const A r = a.r.data<A>()[i];
        if (a.d_x || a.d_added) {
          const A dot = lane_sum<A>(D, [&](int64_t j) { return A(d_y[j]) * w[j] * A(s[j]); });
          const A pull = r * r * dot / A(D);
          for (int64_t j = 0; j < D; ++j) d[size_t(j)] = r * (A(d_y[j]) * w[j] - A(s[j]) * pull);
          if (a.d_sum)
            for (int64_t j = 0; j < D; ++j) d[size_t(j)] += A(a.d_sum.data<T>()[i * D + j]);
          if (a.d_x)
            for (int64_t j = 0; j < D; ++j) a.d_x.data<T>()[i * D + j] = T(d[size_t(j)]);
          if (a.d_added)
            for (int64_t j = 0; j < D; ++j) a.d_added.data<U>()[i * D + j] = U(d[size_t(j)]);
        }
        if (a.d_weight)
          for (int64_t j = 0; j < D; ++j) sum[j] += double(A(d_y[j]) * A(s[j]) * r);
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
