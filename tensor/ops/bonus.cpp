// bonus on the CPU.
#include "tensor/ops/bonus.h"

#include "tensor/sums.h"

namespace taper::kernels {
namespace {

void forward(const BonusForward& a) {
  visit<float, double, bf16>("bonus", a.y.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t H = a.v.size(2), V = a.v.size(3), K = a.r.size(3), heads = a.v.size(0) * a.v.size(1) * H;
    parallel_for(heads, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, K + V)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {  // one head of one token
        const T *r = a.r.data<T>() + i * K, *k = a.k.data<T>() + i * K;
        const A* w = a.weight.data<A>() + i % H * K;
        const T *y = a.y.data<T>() + i * V, *v = a.v.data<T>() + i * V;
        T* out = a.out.data<T>() + i * V;
        const A c = lane_sum<A>(K, [&](int64_t j) { return A(r[j]) * A(k[j]) * w[j]; });
        for (int64_t j = 0; j < V; ++j) out[j] = T(A(y[j]) + c * A(v[j]));
      }
    });
  });
}

void backward(const BonusBackward& a) {
  visit<float, double, bf16>("bonus", a.d_out.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t H = a.v.size(2), V = a.v.size(3), K = a.r.size(3), tokens = a.v.size(0) * a.v.size(1);
    const std::vector<double> d_w = sum_columns(tokens, H * K, [&](int64_t begin, int64_t end, double* sum) {
      for (int64_t i = begin * H; i < end * H; ++i) {
        const T *r = a.r.data<T>() + i * K, *k = a.k.data<T>() + i * K;
        const A* w = a.weight.data<A>() + i % H * K;
        const T *v = a.v.data<T>() + i * V, *d_out = a.d_out.data<T>() + i * V;
        const A g = lane_sum<A>(V, [&](int64_t j) { return A(d_out[j]) * A(v[j]); });
        if (a.d_r) {
          T* d_r = a.d_r.data<T>() + i * K;
          for (int64_t j = 0; j < K; ++j) d_r[j] = T(g * A(k[j]) * w[j]);
        }
        if (a.d_k) {
          T* d_k = a.d_k.data<T>() + i * K;
          for (int64_t j = 0; j < K; ++j) d_k[j] = T(g * A(r[j]) * w[j]);
        }
        if (a.d_v) {
          T* d_v = a.d_v.data<T>() + i * V;
          const A c = lane_sum<A>(K, [&](int64_t j) { return A(r[j]) * A(k[j]) * w[j]; });
          for (int64_t j = 0; j < V; ++j) d_v[j] = T(c * A(d_out[j]));
        }
        if (a.d_weight) {
          double* d_weight = sum + i % H * K;
          for (int64_t j = 0; j < K; ++j) d_weight[j] += double(g * A(r[j]) * A(k[j]));
        }
      }
    });
    if (!a.d_weight) return;
    for (int64_t j = 0; j < H * K; ++j) a.d_weight.data<A>()[j] = A(d_w[size_t(j)]);
  });
}

const Implement f{bonus_forward, DeviceKind::cpu, forward};
const Implement b{bonus_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
