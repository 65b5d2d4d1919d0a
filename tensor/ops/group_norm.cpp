// group_norm on the CPU.
#include "tensor/ops/group_norm.h"

#include <cmath>

#include "tensor/sums.h"

namespace taper::kernels {
namespace {

void forward(const GroupNormForward& a) {
  visit_stream("group_norm", a.x.dtype(), a.y.dtype(), [&]<class T, class U>() {
    using A = Acc<T>;
    const int64_t D = a.x.size(-1), rows = a.r.size(0), G = a.r.size(1), n = D / G;
    parallel_for(rows, std::max<int64_t>(1, (1 << 14) / D), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * G; i < end * G; ++i) {  // one group of one row
        const T* s = a.x.data<T>() + i * n;
        const A *w = a.weight.data<A>() + i % G * n, *bias = a.bias.data<A>() + i % G * n;
        U* y = a.y.data<U>() + i * n;
        if (a.added) {
          const U* added = a.added.data<U>() + i * n;
          T* sum = a.sum.data<T>() + i * n;
          for (int64_t j = 0; j < n; ++j) sum[j] = T(A(s[j]) + A(added[j]));
          s = sum;
        }
        const A mean = lane_sum<A>(n, [&](int64_t j) { return A(s[j]); }) / A(n);
        const A squares = lane_sum<A>(n, [&](int64_t j) { return (A(s[j]) - mean) * (A(s[j]) - mean); });
        const A r = 1 / std::sqrt(squares / A(n) + A(a.eps));
        for (int64_t j = 0; j < n; ++j) y[j] = U((A(s[j]) - mean) * r * w[j] + bias[j]);
        a.mean.data<A>()[i] = mean;
        a.r.data<A>()[i] = r;
      }
    });
  });
}

void backward(const GroupNormBackward& a) {
  visit_stream("group_norm", a.sum.dtype(), a.d_y.dtype(), [&]<class T, class U>() {
    using A = Acc<T>;
    const int64_t D = a.sum.size(-1), rows = a.r.size(0), G = a.r.size(1), n = D / G;
    // Columns [0,D) are d_weight, [D,2D) d_bias.
    const std::vector<double> sums = sum_columns(rows, 2 * D, [&](int64_t begin, int64_t end, double* sum) {
      std::vector<A> d(static_cast<size_t>(n));
      for (int64_t i = begin * G; i < end * G; ++i) {
        const T* s = a.sum.data<T>() + i * n;
        const U* d_y = a.d_y.data<U>() + i * n;
        const A* w = a.weight.data<A>() + i % G * n;
        const A mean = a.mean.data<A>()[i], r = a.r.data<A>()[i];
        if (a.d_x || a.d_added) {
          const A mean_g = lane_sum<A>(n, [&](int64_t j) { return A(d_y[j]) * w[j]; }) / A(n);
          const A dot = lane_sum<A>(n, [&](int64_t j) { return A(d_y[j]) * w[j] * (A(s[j]) - mean); });
          const A pull = r * r * dot / A(n);
          for (int64_t j = 0; j < n; ++j) d[size_t(j)] = r * (A(d_y[j]) * w[j] - mean_g - (A(s[j]) - mean) * pull);
          if (a.d_sum)
            for (int64_t j = 0; j < n; ++j) d[size_t(j)] += A(a.d_sum.data<T>()[i * n + j]);
          if (a.d_x)
            for (int64_t j = 0; j < n; ++j) a.d_x.data<T>()[i * n + j] = T(d[size_t(j)]);
          if (a.d_added)
            for (int64_t j = 0; j < n; ++j) a.d_added.data<U>()[i * n + j] = U(d[size_t(j)]);
        }
        double *d_w = sum + i % G * n, *d_b = d_w + D;
        if (a.d_weight)
          for (int64_t j = 0; j < n; ++j) d_w[j] += double(A(d_y[j]) * (A(s[j]) - mean) * r);
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
