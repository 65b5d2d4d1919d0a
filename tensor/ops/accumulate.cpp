// accumulate on the CPU.
#include "tensor/ops/accumulate.h"

#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

void forward(const Accumulate& a) {
  check_accumulate(a);
  visit<float, double, bf16>("accumulate", a.sum.dtype(), [&]<class T>() {
    T* sum = a.sum.data<T>();
    const T* d = a.d.data<T>();
    parallel_for(a.sum.numel(), 1 << 15, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sum[i] = T(Acc<T>(sum[i]) + Acc<T>(d[i]));
    });
  });
}

const Implement f{accumulate, DeviceKind::cpu, forward};

}  // namespace
}  // namespace taper::kernels
