// token_mix on the CPU.
#include "tensor/ops/token_mix.h"

#include <algorithm>

#include "tensor/sums.h"

namespace taper::kernels {
namespace {

constexpr int64_t grain = 16;  // tokens

template <class T>
struct Rows {  // of x, and of what comes before them
  const T *x, *last;
  int64_t steps, D;
  PackingView packing;
  explicit Rows(const Tensor& x, const Tensor& last, const Packing& p)
      : x(x.data<T>()), last(last ? last.data<T>() : nullptr), steps(x.size(1)), D(x.size(2)), packing(p, steps) {}
  const T* before(int64_t i) const {  // of row i = b T + t; null: zeros
    const int64_t b = i / steps, t = i % steps;
    if (packing.resets(b, t)) return nullptr;
    return t > 0 ? x + (i - 1) * D : last ? last + b * D : nullptr;
  }
};

void forward(const TokenMixForward& a) {
  visit<float, double, bf16>("token_mix", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const Rows<T> rows(a.x, a.last, a.packing);
    const int64_t B = a.x.size(0), steps = rows.steps, D = rows.D;
    parallel_for(B * steps, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T *now = rows.x + i * D, *before = rows.before(i);
        for (int m = 0; m < token_mix_most && a.y[size_t(m)]; ++m) {
          const A* w = a.weight[size_t(m)].data<A>();
          T* y = a.y[size_t(m)].data<T>() + i * D;
          for (int64_t d = 0; d < D; ++d) y[d] = T(A(now[d]) + ((before ? A(before[d]) : A(0)) - A(now[d])) * w[d]);
        }
      }
    });
    for (int64_t b = 0; b < B; ++b) std::copy_n(rows.x + ((b + 1) * steps - 1) * D, D, a.tail.data<T>() + b * D);
  });
}

void backward(const TokenMixBackward& a) {
  visit<float, double, bf16>("token_mix", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const Rows<T> rows(a.x, a.last, a.packing);
    const int64_t B = a.x.size(0), steps = rows.steps, D = rows.D;
    const T* d_tail = a.d_tail ? a.d_tail.data<T>() : nullptr;
    const auto d_y = [&](int m, int64_t i) { return a.d_y[size_t(m)] ? a.d_y[size_t(m)].data<T>() + i * D : nullptr; };
    parallel_for(B * steps, grain, [&](int64_t begin, int64_t end) {
      std::vector<A> sum(static_cast<size_t>(D));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / steps, t = i % steps;
        const bool next = t + 1 < steps && !rows.packing.resets(b, t + 1);
        for (int64_t d = 0; d < D; ++d) sum[size_t(d)] = t + 1 == steps && d_tail ? A(d_tail[b * D + d]) : A(0);
        for (int m = 0; m < token_mix_most && a.weight[size_t(m)]; ++m) {
          const A* w = a.weight[size_t(m)].data<A>();
          const T *own = d_y(m, i), *after = next ? d_y(m, i + 1) : nullptr;
          for (int64_t d = 0; own && d < D; ++d) sum[size_t(d)] += A(own[d]) * (1 - w[d]);
          for (int64_t d = 0; after && d < D; ++d) sum[size_t(d)] += A(after[d]) * w[d];
        }
        if (a.d_x)
          for (int64_t d = 0; d < D; ++d) a.d_x.data<T>()[i * D + d] = T(sum[size_t(d)]);
      }
    });
    if (a.d_last)
      for (int64_t b = 0; b < B; ++b)
        for (int64_t d = 0; d < D; ++d) {
          A sum = 0;
          for (int m = 0; m < token_mix_most && a.weight[size_t(m)]; ++m)
            if (const T* own = d_y(m, b * steps); own && !rows.packing.resets(b, 0)) sum += A(own[d]) * a.weight[size_t(m)].data<A>()[d];
          a.d_last.data<T>()[b * D + d] = T(sum);
        }
    for (int m = 0; m < token_mix_most && a.weight[size_t(m)]; ++m) {
      if (!a.d_weight[size_t(m)]) continue;
      const auto sums = sum_columns(B * steps, D, [&](int64_t begin, int64_t end, double* sum) {
        for (int64_t i = begin; i < end; ++i) {
          const T *now = rows.x + i * D, *before = rows.before(i), *own = d_y(m, i);
          for (int64_t d = 0; own && d < D; ++d) sum[d] += double(A(own[d])) * double((before ? A(before[d]) : A(0)) - A(now[d]));
        }
      });
      for (int64_t d = 0; d < D; ++d) a.d_weight[size_t(m)].data<A>()[d] = A(sums[size_t(d)]);
    }
  });
}

const Implement f{token_mix_forward, DeviceKind::cpu, forward};
const Implement b{token_mix_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
