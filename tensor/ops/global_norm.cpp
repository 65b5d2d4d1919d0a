// global_norm and step_guard on the CPU.
#include "tensor/ops/global_norm.h"

#include <algorithm>
#include <cmath>

#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

// Eight sums side by side: one chain of additions would be bound by their latency.
template <class T>
double sum_of_squares(const T* g, int64_t n) {
  double lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int k = 0; k < 8; ++k) lanes[k] += double(g[i + k]) * double(g[i + k]);
  for (int k = 0; i < n; ++i, ++k) lanes[k] += double(g[i]) * double(g[i]);
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

void norm(const GlobalNorm& a) {
  double sum = 0;
  for (const Tensor& t : a.tensors)
    visit<float, double>("global_norm", t.dtype(), [&]<class T>() {
      const T* g = t.data<T>();
      sum += parallel_sum<double>(t.numel(), 1 << 15, [&](int64_t begin, int64_t end) {
        return sum_of_squares(g + begin, end - begin);
      });
    });
  *a.norm.data<double>() = std::sqrt(sum);
}

void guard(const StepGuard& a) {
  const double norm = *a.norm.data<double>();
  bool ok = std::isfinite(norm);
  if (a.loss)
    visit<float, double>("step_guard", a.loss.dtype(),
                         [&]<class T>() { ok = ok && std::isfinite(*a.loss.data<T>()); });
  int64_t& bad_steps = *a.bad_steps.data<int64_t>();
  ok = ok && (a.max_bad_steps <= 0 || bad_steps < a.max_bad_steps);
  *a.scale.data<double>() = a.clip > 0 ? std::min(1.0, a.clip / (norm + 1e-6)) : 1.0;
  *a.finite.data<int32_t>() = ok;
  *a.steps.data<int64_t>() += ok;
  bad_steps = ok ? 0 : bad_steps + 1;
}

const Implement n{global_norm, DeviceKind::cpu, norm};
const Implement g{step_guard, DeviceKind::cpu, guard};

}  // namespace
}  // namespace taper::kernels
