// argmax on the CPU.
#include "tensor/ops/argmax.h"

#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

void forward(const Argmax& a) {
  visit<float, double, bf16>("argmax", a.x.dtype(), [&]<class T>() {
    const T* x = a.x.data<T>();
    int32_t* y = a.y.data<int32_t>();
    const int64_t V = a.x.size(-1), among = a.looked_at();
    parallel_for(a.y.numel(), 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* row = x + i * V;
        int64_t best = 0;
        for (int64_t v = 1; v < among; ++v) {
          const Acc<T> value(row[v]), most(row[best]);
          if (value > most || (most != most && value == value)) best = v;
        }
        y[i] = int32_t(best);
      }
    });
  });
}

const Implement f{argmax, DeviceKind::cpu, forward};

}  // namespace
}  // namespace taper::kernels
