// adamw on the CPU.
#include "tensor/ops/adamw.h"

#include <cmath>

#include "tensor/error.h"
#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

void update(const AdamWUpdate& a) {
  for (const Tensor* t : {&a.gradient, &a.moment1, &a.moment2})
    check(t->shape() == a.value.shape() && t->dtype() == a.value.dtype(),
          "adamw: gradient and moments must be {} {} like the value; got {} {}", name(a.value.dtype()),
          a.value.shape().text(), name(t->dtype()), t->shape().text());
  if (!*a.finite.data<int32_t>()) return;
  const double steps = double(*a.steps.data<int64_t>());
  const double step_size = a.lr / (1 - std::pow(a.beta1, steps));
  const double spread = 1 / std::sqrt(1 - std::pow(a.beta2, steps));

  visit<float, double>("adamw", a.value.dtype(), [&]<class T>() {
    T *value = a.value.data<T>(), *moment1 = a.moment1.data<T>(), *moment2 = a.moment2.data<T>();
    const T* gradient = a.gradient.data<T>();
    const T scale = T(*a.scale.data<double>()), keep = T(1 - a.lr * a.weight_decay), eps = T(a.eps);
    const T b1 = T(a.beta1), c1 = T(1 - a.beta1), b2 = T(a.beta2), c2 = T(1 - a.beta2);
    const T rate = T(step_size), root = T(spread);
    parallel_for(a.value.numel(), 1 << 15, [&](int64_t begin, int64_t end) {
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

const Implement u{adamw, DeviceKind::cpu, update};

}  // namespace
}  // namespace taper::kernels
