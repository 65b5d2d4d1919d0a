// dropout on the CPU.
#include "tensor/ops/dropout.h"

#include <algorithm>

#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

void forward(const Dropout& a) {
  visit<float, double, bf16>("dropout", a.x.dtype(), [&]<class T>() {
    const Acc<T> scale = Acc<T>(1 / (1 - a.p));
    parallel_for(a.x.numel(), 1 << 13, [&](int64_t begin, int64_t end) {
      const T* x = a.x.data<T>();
      T* y = a.y.data<T>();
      const Random random = Random::of_key(a.key.data<int64_t>());
      const double p = a.p;
      // The draws of a stretch, then its products: each loop runs in vector registers, one loop for both does not.
      constexpr int64_t stretch = 256;
      bool kept[stretch];
      for (int64_t from = begin; from < end; from += stretch) {
        const int64_t n = std::min(stretch, end - from);
        for (int64_t j = 0; j < n; ++j) kept[j] = random.uniform(uint64_t(from + j)) >= p;
        for (int64_t j = 0; j < n; ++j) {
          const Acc<T> product = Acc<T>(x[from + j]) * scale;
          y[from + j] = T(kept[j] ? product : Acc<T>(0));
        }
      }
    });
  });
}

const Implement f{dropout, DeviceKind::cpu, forward};

}  // namespace
}  // namespace taper::kernels
