// group_norm on the CPU.
#include "tensor/ops/group_norm.h"

#include <cmath>

#include "tensor/sums.h"

namespace taper::kernels {
namespace {

void forward(const GroupNormForward& a) {
  visit<float, double, bf16>("group_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t D = a.x.size(-1), rows = a.r.size(0), G = a.r.size(1), n = D / G;
    parallel_for(rows, std::max<int64_t>(1, (1 << 14) / D), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * G; i < end * G; ++i) {  // one group of one row
        const T* x = a.x.data<T>() + i * n;
        const A *w = a.weight.data<A>() + i % G * n, *bias = a.bias.data<A>() + i % G * n;
        T* y = a.y.data<T>() + i * n;
        const A mean = lane_sum<A>(n, [&](int64_t j) { return A(x[j]); }) / A(n);
        const A squares = lane_sum<A>(n, [&](int64_t j) { return (A(x[j]) - mean) * (A(x[j]) - mean); });
        const A r = 1 / std::sqrt(squares / A(n) + A(a.eps));
        for (int64_t j = 0; j < n; ++j) y[j] = T((A(x[j]) - mean) * r * w[j] + bias[j]);
        a.mean.data<A>()[i] = mean;
        a.r.data<A>()[i] = r;
      }
    });
  });
}

void backward(const GroupNormBackward& a) {
  visit<float, double, bf16>("group_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t D = a.x.size(-1), rows = a.r.size(0), G = a.r.size(1), n = D / G;
    // Columns [0,D) are d_weight, [D,2D) d_bias.
    const std::vector<double> sums = sum_columns(rows, 2 * D, [&](int64_t begin, int64_t end, double* sum) {
      for (int64_t i = begin * G; i < end * G; ++i) {
        const T *x = a.x.data<T>() + i * n, *d_y = a.d_y.data<T>() + i * n;
        const A* w = a.weight.data<A>() + i % G * n;
        const A mean = a.mean.data<A>()[i], r = a.r.data<A>()[i];
        if (a.d_x) {
          T* d_x = a.d_x.data<T>() + i * n;
          const A mean_g = lane_sum<A>(n, [&](int64_t j) { return A(d_y[j]) * w[j]; }) / A(n);
          const A dot = lane_sum<A>(n, [&](int64_t j) { return A(d_y[j]) * w[j] * (A(x[j]) - mean); });
          const A pull = r * r * dot / A(n);
          for (int64_t j = 0; j < n; ++j) d_x[j] = T(r * (A(d_y[j]) * w[j] - mean_g - (A(x[j]) - mean) * pull));
        }
        double *d_w = sum + i % G * n, *d_b = d_w + D;
        if (a.d_weight)
          for (int64_t j = 0; j < n; ++j) d_w[j] += double(A(d_y[j]) * (A(x[j]) - mean) * r);
        if (a.d_bias)
          for (int64_t j = 0; j < n; ++j) d_b[j] += double(A(d_y[j]));
      }
    });
    if (a.d_weight)
      for (int64_t j = 0; j < D; ++j) a.d_weight.data<A>()[j] = A(sums[size_t(j)]);
    if (a.d_bias)
      for (int64_t j = 0; j < D; ++j) a.d_bias.data<A>()[j] = A(sums[size_t(D + j)]);
  });
}

const Implement f{group_norm_forward, DeviceKind::cpu, forward};
const Implement b{group_norm_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
