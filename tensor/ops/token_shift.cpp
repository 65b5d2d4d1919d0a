// token_shift on the CPU.
#include "tensor/ops/token_shift.h"

#include <algorithm>

#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

constexpr int64_t grain = 16;  // tokens

void forward(const TokenShiftForward& a) {
  visit<float, double, bf16>("token_shift", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t B = a.x.size(0), steps = a.x.size(1), D = a.x.size(2);
    const T *x = a.x.data<T>(), *last = a.last ? a.last.data<T>() : nullptr;
    const PackingView packing(a.packing, steps);
    parallel_for(B * steps, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / steps, t = i % steps;
        const T *now = x + i * D, *before = t > 0 ? now - D : last ? last + b * D : nullptr;
        if (packing.resets(b, t)) before = nullptr;
        T* y = a.y.data<T>() + i * D;
        if (before)
          for (int64_t d = 0; d < D; ++d) y[d] = T(A(before[d]) - A(now[d]));
        else
          for (int64_t d = 0; d < D; ++d) y[d] = T(A(0) - A(now[d]));
      }
    });
    for (int64_t b = 0; b < B; ++b) std::copy_n(x + ((b + 1) * steps - 1) * D, D, a.tail.data<T>() + b * D);
  });
}

void backward(const TokenShiftBackward& a) {
  visit<float, double, bf16>("token_shift", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t B = a.x.size(0), steps = a.x.size(1), D = a.x.size(2);
    const T *d_y = a.d_y ? a.d_y.data<T>() : nullptr, *d_tail = a.d_tail ? a.d_tail.data<T>() : nullptr;
    const PackingView packing(a.packing, steps);
    if (a.d_x)
      parallel_for(B * steps, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t b = i / steps, t = i % steps;
          const T* own = d_y ? d_y + i * D : nullptr;
          const T* after = t + 1 == steps ? (d_tail ? d_tail + b * D : nullptr) : packing.resets(b, t + 1) || !d_y ? nullptr : own + D;
          T* d_x = a.d_x.data<T>() + i * D;
          for (int64_t d = 0; d < D; ++d) d_x[d] = T((after ? A(after[d]) : A(0)) - (own ? A(own[d]) : A(0)));
        }
      });
    if (a.d_last)
      for (int64_t b = 0; b < B; ++b)
        for (int64_t d = 0; d < D; ++d) a.d_last.data<T>()[b * D + d] = d_y ? d_y[b * steps * D + d] : T(A(0));
  });
}

const Implement f{token_shift_forward, DeviceKind::cpu, forward};
const Implement b{token_shift_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
