// keep_rows on the CPU.
#include "tensor/ops/keep_rows.h"

#include <algorithm>

#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

void forward(const KeepRows& a) {
  visit<float, double, bf16, int64_t>("keep_rows", a.x.dtype(), [&]<class T>() {
    const T* x = a.x.data<T>();
    T* y = a.y.data<T>();
    const int32_t* keep = a.keep.data<int32_t>();
    const int64_t B = a.keep.numel(), row = B ? a.x.numel() / B : 0;
    parallel_for(B, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        if (keep[b]) std::copy_n(x + b * row, row, y + b * row);
        else std::fill_n(y + b * row, row, T());
      }
    });
  });
}

const Implement f{keep_rows, DeviceKind::cpu, forward};

}  // namespace
}  // namespace taper::kernels
