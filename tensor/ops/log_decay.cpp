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

// s of a token's heads: given, made from its position, or ones.
template <class T>
class Tapers {
 public:
  template <class Args>
  explicit Tapers(const Args& a)
      : s_(a.s ? a.s.template data<T>() : nullptr), alpha_(a.alpha ? a.alpha.template data<T>() : nullptr), reference_(a.reference),
        packing_(a.packing, a.log_a.size(1)), H_(a.p.numel()) {}

  const T* row(int64_t i, std::vector<T>& made) const {  // of token i
    if (s_) return s_ + i * H_;
    made.assign(size_t(H_), T(1));
    const T log_n = alpha_ ? log_of(i) : T(0);
    for (int64_t h = 0; alpha_ && h < H_; ++h) made[size_t(h)] = std::exp(-alpha_[h] * log_n);
    return made.data();
  }
  // In T, as position_taper takes it; its gradient takes it in f64.
  T log_of(int64_t i) const { return std::log(T(ratio(i))); }
  double wide_log_of(int64_t i) const { return std::log(ratio(i)); }

 private:
  double ratio(int64_t i) const { return double(packing_.position(i / packing_.T, i % packing_.T)) / reference_; }
  const T *s_, *alpha_;
  double reference_;
  PackingView packing_;
  int64_t H_;
};

// K of log_a [B,T,H,K]; of [B,T,H] it is 1.
int64_t channels(const Tensor& log_a) { return log_a.rank() == 4 ? log_a.size(3) : 1; }

void forward(const LogDecayForward& a) {
  visit<float, double>("log_decay", a.p.dtype(), [&]<class T>() {
    const std::vector<T> rate = negative_rates<T>(a.p);
    const int64_t H = a.p.numel(), K = channels(a.log_a);
    const T* dt = a.dt ? a.dt.data<T>() : nullptr;
    const Tapers<T> tapers(a);
    T* log_a = a.log_a.data<T>();
    const int64_t rows = a.log_a.size(0) * a.log_a.size(1);
    parallel_for(rows, std::max<int64_t>(1, 1024 / std::max<int64_t>(1, K)), [&](int64_t begin, int64_t end) {
      std::vector<T> made;
      for (int64_t i = begin; i < end; ++i) {
        const T* s = tapers.row(i, made);
        if (K == 1) {  // a row of heads is one loop
          for (int64_t h = 0; h < H; ++h) log_a[i * H + h] = rate[size_t(h)] * (dt ? dt[i * H + h] : T(1)) * s[h];
          continue;
        }
        for (int64_t h = 0; h < H; ++h)
          for (int64_t n = (i * H + h) * K; n < (i * H + h + 1) * K; ++n) log_a[n] = rate[size_t(h)] * dt[n] * s[h];
      }
    });
  });
}

void backward(const LogDecayBackward& a) {
  visit<float, double>("log_decay", a.p.dtype(), [&]<class T>() {
    const std::vector<T> rate = negative_rates<T>(a.p);
    const int64_t H = a.p.numel(), K = channels(a.log_a), rows = a.log_a.size(0) * a.log_a.size(1);
    const T* dt = a.dt ? a.dt.data<T>() : nullptr;
    const Tapers<T> tapers(a);
    const T *log_a = a.log_a.data<T>(), *d_log_a = a.d_log_a.data<T>();
    T *d_dt = a.d_dt ? a.d_dt.data<T>() : nullptr, *d_s = a.d_s ? a.d_s.data<T>() : nullptr;
    // Columns: H * K of d_p, then H of d_alpha.
    const std::vector<double> sums = sum_columns(rows, H * K + H, [&](int64_t begin, int64_t end, double* sum) {
      std::vector<T> made;
      for (int64_t i = begin; i < end; ++i) {
        const T* s = tapers.row(i, made);
        const double log_n = a.d_alpha ? tapers.wide_log_of(i) : 0;
        for (int64_t h = 0; h < H; ++h) {
          const int64_t j = i * H + h;
          const T *l = log_a + j * K, *d = d_log_a + j * K, r = rate[size_t(h)], factor = r * s[h];
          for (int64_t n = 0; n < K; ++n) sum[h * K + n] += double(l[n]) * double(d[n]);
          for (int64_t n = 0; d_dt && n < K; ++n) d_dt[j * K + n] = factor * d[n];
          if (d_s) d_s[j] = T(double(r) * lane_sum<double>(K, [&](int64_t n) { return double(dt ? dt[j * K + n] : T(1)) * double(d[n]); }));
          if (a.d_alpha) sum[H * K + h] -= log_n * lane_sum<double>(K, [&](int64_t n) { return double(l[n]) * double(d[n]); });
        }
      }
    });
    for (int64_t h = 0; h < H; ++h) {
      a.d_p.data<T>()[h] = T(std::accumulate(sums.begin() + h * K, sums.begin() + (h + 1) * K, 0.0));
      if (a.d_alpha) a.d_alpha.data<T>()[h] = T(sums[size_t(H * K + h)]);
    }
  });
}

const Implement f{log_decay_forward, DeviceKind::cpu, forward};
const Implement b{log_decay_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
