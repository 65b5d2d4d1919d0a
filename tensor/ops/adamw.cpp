// adamw on the CPU.
#include "tensor/ops/adamw.h"

#include <cmath>

#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

void update(const AdamWUpdate& a) {
  check_adamw(a);
  if (!*a.finite.data<int32_t>()) return;
  const double steps = double(*a.steps.data<int64_t>());
  const double step_scale = 1 / (1 - std::pow(a.beta1, steps)), spread = 1 / std::sqrt(1 - std::pow(a.beta2, steps));

  for (const AdamWTensor& t : a.tensors) {
    const double lr = *a.rate.data<double>() * t.lr_scale;
    visit<float, double>("adamw", t.value.dtype(), [&]<class T>() {
      T *value = t.value.data<T>(), *moment1 = t.moment1.data<T>(), *moment2 = t.moment2.data<T>();
      const T* gradient = t.gradient.data<T>();
      const T scale = T(*a.scale.data<double>()), keep = T(1 - lr * t.weight_decay), eps = T(a.eps);
      const T b1 = T(a.beta1), c1 = T(1 - a.beta1), b2 = T(a.beta2), c2 = T(1 - a.beta2);
      const T rate = T(lr * step_scale), root = T(spread);
      parallel_for(t.value.numel(), 1 << 15, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const T g = scale * gradient[i];
          const T m = b1 * moment1[i] + c1 * g, v = b2 * moment2[i] + c2 * (g * g);
          moment1[i] = m;
          moment2[i] = v;
          value[i] = keep * value[i] - rate * m / (std::sqrt(v) * root + eps);
        }
      });
    });
  }
}

const Implement u{adamw, DeviceKind::cpu, update};

}  // namespace
}  // namespace taper::kernels
