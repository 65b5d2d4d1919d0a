// cast on the CPU.
#include "tensor/ops/cast.h"

#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

void forward(const Cast& a) {
  visit<float, double, bf16>("cast", a.x.dtype(), [&]<class From>() {
    visit<float, double, bf16>("cast", a.y.dtype(), [&]<class To>() {
      const From* x = a.x.data<From>();
      To* y = a.y.data<To>();
      parallel_for(a.x.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) y[i] = To(Acc<To>(Acc<From>(x[i])));
      });
    });
  });
}

const Implement f{cast, DeviceKind::cpu, forward};

}  // namespace
}  // namespace taper::kernels
