// dropout on the CPU.
#include "tensor/ops/dropout.h"

#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

void forward(const Dropout& a) {
  visit<float, double, bf16>("dropout", a.x.dtype(), [&]<class T>() {
    const Acc<T> scale = Acc<T>(1 / (1 - a.p));
    parallel_for(a.x.numel(), 1 << 13, [&](int64_t begin, int64_t end) {
      const T* x = a.x.data<T>();
      T* y = a.y.data<T>();
      const Random random = a.random;
      const double p = a.p;
      for (int64_t i = begin; i < end; ++i) {
        const T kept = T(Acc<T>(x[i]) * scale);
        y[i] = random.uniform(uint64_t(i)) >= p ? kept : T(0);
      }
    });
  });
}

const Implement f{dropout, DeviceKind::cpu, forward};

}  // namespace
}  // namespace taper::kernels
