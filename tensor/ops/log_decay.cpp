// log_decay on the CPU.
#include "tensor/ops/log_decay.h"

#include <cmath>
#include <vector>

#include "tensor/parallel.h"
#include "tensor/sums.h"

namespace taper::kernels {
namespace {

template <class T>
std::vector<T> negative_rates(const Tensor& p) {
  std::vector<T> rates(size_t(p.numel()));
  for (size_t h = 0; h < rates.size(); ++h) rates[h] = -std::exp(p.data<T>()[h]);
  return rates;
}

void forward(const LogDecayForward& a) {
  visit<float, double>("log_decay", a.p.dtype(), [&]<class T>() {
    const std::vector<T> rate = negative_rates<T>(a.p);
    const int64_t H = a.p.numel();
    const T *dt = a.dt ? a.dt.data<T>() : nullptr, *s = a.s ? a.s.data<T>() : nullptr;
    T* log_a = a.log_a.data<T>();
    parallel_for(a.log_a.numel() / H, 1024, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t h = 0; h < H; ++h)
          log_a[i * H + h] = rate[size_t(h)] * (dt ? dt[i * H + h] : T(1)) * (s ? s[i * H + h] : T(1));
    });
  });
}

void backward(const LogDecayBackward& a) {
  visit<float, double>("log_decay", a.p.dtype(), [&]<class T>() {
    const std::vector<T> rate = negative_rates<T>(a.p);
    const int64_t H = a.p.numel(), rows = a.log_a.numel() / H;
    const T *dt = a.dt ? a.dt.data<T>() : nullptr, *s = a.s ? a.s.data<T>() : nullptr;
    const T *log_a = a.log_a.data<T>(), *d_log_a = a.d_log_a.data<T>();
    T *d_dt = a.d_dt ? a.d_dt.data<T>() : nullptr, *d_s = a.d_s ? a.d_s.data<T>() : nullptr;
    const std::vector<double> d_p = sum_columns(rows, H, [&](int64_t begin, int64_t end, double* sum) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t h = 0; h < H; ++h) {
          const int64_t k = i * H + h;
          sum[h] += double(log_a[k]) * double(d_log_a[k]);
          if (d_dt) d_dt[k] = rate[size_t(h)] * (s ? s[k] : T(1)) * d_log_a[k];
          if (d_s) d_s[k] = rate[size_t(h)] * (dt ? dt[k] : T(1)) * d_log_a[k];
        }
    });
    for (int64_t h = 0; h < H; ++h) a.d_p.data<T>()[h] = T(d_p[size_t(h)]);
  });
}

const Implement f{log_decay_forward, DeviceKind::cpu, forward};
const Implement b{log_decay_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
