// rate_exponent on the CPU.
#include "tensor/ops/rate_exponent.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace taper::kernels {
namespace {

// raw_k for the inner k; the ends are exactly 1 and 0.
template <class T>
std::vector<double> raw_exponents(const Tensor& rates, double train_length) {
  const int64_t N = rates.numel();
  const T* p = rates.data<T>();
  std::vector<double> raw(size_t(N), 0.0);
  const double total = double(p[N - 1]) - double(p[0]);
  for (int64_t k = 1; k < N - 1; ++k) {
    const double place = double(k) / double(N - 1), c = double(p[k]) - double(p[0]);
    raw[size_t(k)] = 1 - place + (c - place * total) / std::log(train_length);
  }
  if (N > 1) raw[0] = 1;
  return raw;
}

void forward(const RateExponentForward& a) {
  visit<float, double>("rate_exponent", a.p.dtype(), [&]<class T>() {
    const std::vector<double> raw = raw_exponents<T>(a.p, a.train_length);
    for (size_t k = 0; k < raw.size(); ++k) a.alpha.data<T>()[k] = T(std::clamp(raw[k], 0.0, 1.0));
  });
}

void backward(const RateExponentBackward& a) {
  visit<float, double>("rate_exponent", a.p.dtype(), [&]<class T>() {
    const std::vector<double> raw = raw_exponents<T>(a.p, a.train_length);
    const int64_t N = int64_t(raw.size());
    const T* d_alpha = a.d_alpha.data<T>();
    T* d_p = a.d_p.data<T>();
    double first = 0, last = 0;
    for (int64_t k = 1; k < N - 1; ++k) {
      const bool open = 0 <= raw[size_t(k)] && raw[size_t(k)] <= 1;
      const double d = open ? double(d_alpha[k]) / std::log(a.train_length) : 0;
      d_p[k] = T(d);
      first -= d * double(N - 1 - k) / double(N - 1);
      last -= d * double(k) / double(N - 1);
    }
    d_p[0] = T(first);
    if (N > 1) d_p[N - 1] = T(last);
  });
}

const Implement f{rate_exponent_forward, DeviceKind::cpu, forward};
const Implement b{rate_exponent_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
