// log_decay on the CPU.
#include "tensor/ops/log_decay.h"

#include <algorithm>
#include <cmath>
#include <numeric>
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

// K of log_a [B,T,H,K]; of [B,T,H] it is 1.
int64_t channels(const Tensor& log_a) { return log_a.rank() == 4 ? log_a.size(3) : 1; }

void forward(const LogDecayForward& a) {
  visit<float, double>("log_decay", a.p.dtype(), [&]<class T>() {
    const std::vector<T> rate = negative_rates<T>(a.p);
    const int64_t H = a.p.numel(), K = channels(a.log_a);
    const T *dt = a.dt ? a.dt.data<T>() : nullptr, *s = a.s ? a.s.data<T>() : nullptr;
    T* log_a = a.log_a.data<T>();
    const int64_t rows = a.log_a.size(0) * a.log_a.size(1);
    parallel_for(rows, std::max<int64_t>(1, 1024 / std::max<int64_t>(1, K)), [&](int64_t begin, int64_t end) {
      if (K == 1) {  // a row of heads is one loop
        for (int64_t i = begin; i < end; ++i)
          for (int64_t h = 0; h < H; ++h)
            log_a[i * H + h] = rate[size_t(h)] * (dt ? dt[i * H + h] : T(1)) * (s ? s[i * H + h] : T(1));
      } else {
        for (int64_t j = begin * H; j < end * H; ++j) {
          const T r = rate[size_t(j % H)], taper = s ? s[j] : T(1);
          for (int64_t n = j * K; n < (j + 1) * K; ++n) log_a[n] = r * dt[n] * taper;
        }
      }
    });
  });
}

void backward(const LogDecayBackward& a) {
  visit<float, double>("log_decay", a.p.dtype(), [&]<class T>() {
    const std::vector<T> rate = negative_rates<T>(a.p);
    const int64_t H = a.p.numel(), K = channels(a.log_a), rows = a.log_a.size(0) * a.log_a.size(1);
    const T *dt = a.dt ? a.dt.data<T>() : nullptr, *s = a.s ? a.s.data<T>() : nullptr;
    const T *log_a = a.log_a.data<T>(), *d_log_a = a.d_log_a.data<T>();
    T *d_dt = a.d_dt ? a.d_dt.data<T>() : nullptr, *d_s = a.d_s ? a.d_s.data<T>() : nullptr;
    const std::vector<double> d_p = sum_columns(rows, H * K, [&](int64_t begin, int64_t end, double* sum) {
      if (K == 1) {
        for (int64_t i = begin; i < end; ++i)
          for (int64_t h = 0; h < H; ++h) {
            const int64_t k = i * H + h;
            sum[h] += double(log_a[k]) * double(d_log_a[k]);
            if (d_dt) d_dt[k] = rate[size_t(h)] * (s ? s[k] : T(1)) * d_log_a[k];
            if (d_s) d_s[k] = rate[size_t(h)] * (dt ? dt[k] : T(1)) * d_log_a[k];
          }
      } else {
        for (int64_t j = begin * H; j < end * H; ++j) {
          const int64_t h = j % H;
          const T *l = log_a + j * K, *d = d_log_a + j * K, *step = dt + j * K, r = rate[size_t(h)];
          for (int64_t n = 0; n < K; ++n) sum[h * K + n] += double(l[n]) * double(d[n]);
          const T factor = r * (s ? s[j] : T(1));
          for (int64_t n = 0; n < K; ++n) d_dt[j * K + n] = factor * d[n];
          if (d_s) d_s[j] = T(double(r) * lane_sum<double>(K, [&](int64_t n) { return double(step[n]) * double(d[n]); }));
        }
      }
    });
    for (int64_t h = 0; h < H; ++h)
      a.d_p.data<T>()[h] = T(std::accumulate(d_p.begin() + h * K, d_p.begin() + (h + 1) * K, 0.0));
  });
}

const Implement f{log_decay_forward, DeviceKind::cpu, forward};
const Implement b{log_decay_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
