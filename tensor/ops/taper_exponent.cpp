// taper_exponent on the CPU.
#include "tensor/ops/taper_exponent.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/vector_math.h"

namespace taper::kernels {
namespace {

// raw_k for the inner k; the ends are exactly 1 and 0.
template <class T>
std::vector<double> raw_exponents(const Tensor& delta, double train_length) {
  const int64_t N = delta.numel() + 1;
  std::vector<double> c(size_t(N), 0.0), raw(size_t(N), 0.0);
  for (int64_t k = 1; k < N; ++k) c[size_t(k)] = c[size_t(k - 1)] + math::softplus(double(delta.data<T>()[k - 1]));
  const double gaps = double(N - 1), total = c[size_t(N - 1)], scale = 1 / std::log(train_length);
  for (int64_t k = 1; k < N - 1; ++k) {
    const double place = double(k) / gaps;
    raw[size_t(k)] = 1 - place + (c[size_t(k)] - place * total) * scale;
  }
  if (N > 1) raw[0] = 1;
  return raw;
}

void forward(const TaperExponentForward& a) {
  visit<float, double>("taper_exponent", a.alpha.dtype(), [&]<class T>() {
    const std::vector<double> raw = raw_exponents<T>(a.delta, a.train_length);
    for (size_t k = 0; k < raw.size(); ++k) a.alpha.data<T>()[k] = T(std::clamp(raw[k], 0.0, 1.0));
  });
}

void backward(const TaperExponentBackward& a) {
  visit<float, double>("taper_exponent", a.d_alpha.dtype(), [&]<class T>() {
    const std::vector<double> raw = raw_exponents<T>(a.delta, a.train_length);
    const int64_t N = int64_t(raw.size());
    const T *delta = a.delta.data<T>(), *d_alpha = a.d_alpha.data<T>();
    std::vector<double> d_c(size_t(N), 0.0);
    double weighted = 0;  // sum_k k d_c_k / (N-1)
    for (int64_t k = 1; k < N - 1; ++k) {
      const bool open = 0 <= raw[size_t(k)] && raw[size_t(k)] <= 1;
      d_c[size_t(k)] = open ? double(d_alpha[k]) / std::log(a.train_length) : 0;
      weighted += double(k) / double(N - 1) * d_c[size_t(k)];
    }
    double suffix = 0;
    for (int64_t j = N - 1; j > 0; --j)
      a.d_delta.data<T>()[j - 1] = T(math::sigmoid(double(delta[j - 1])) * ((suffix += d_c[size_t(j)]) - weighted));
  });
}

const Implement f{taper_exponent_forward, DeviceKind::cpu, forward};
const Implement b{taper_exponent_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
