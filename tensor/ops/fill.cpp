// fill on the CPU.
#include "tensor/ops/fill.h"

#include <algorithm>

#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

void forward(const Fill& a) {
  visit<float, double, bf16>("fill", a.y.dtype(), [&]<class T>() {
    T* y = a.y.data<T>();
    const T value = T(Acc<T>(a.value));
    parallel_for(a.y.numel(), 1 << 15, [&](int64_t begin, int64_t end) { std::fill(y + begin, y + end, value); });
  });
}

const Implement f{fill, DeviceKind::cpu, forward};

}  // namespace
}  // namespace taper::kernels
