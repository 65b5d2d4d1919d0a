// spectral_cumsum on the CPU.
#include "tensor/ops/spectral_cumsum.h"

#include "tensor/vector_math.h"

namespace taper::kernels {
namespace {

void forward(const SpectralCumsumForward& a) {
  visit<float, double>("spectral_cumsum", a.p.dtype(), [&]<class T>() {
    const T* delta = a.delta.data<T>();
    T* p = a.p.data<T>();
    double sum = double(*a.theta.data<T>());
    p[0] = T(sum);
    for (int64_t j = 0; j < a.delta.numel(); ++j) p[j + 1] = T(sum += math::softplus(double(delta[j])));
  });
}

void backward(const SpectralCumsumBackward& a) {
  visit<float, double>("spectral_cumsum", a.d_p.dtype(), [&]<class T>() {
    const T *delta = a.delta.data<T>(), *d_p = a.d_p.data<T>();
    T* d_delta = a.d_delta.data<T>();
    double sum = 0;
    for (int64_t j = a.delta.numel(); j > 0; --j)
      d_delta[j - 1] = T(math::sigmoid(double(delta[j - 1])) * (sum += double(d_p[j])));
    *a.d_theta.data<T>() = T(sum + double(d_p[0]));
  });
}

const Implement f{spectral_cumsum_forward, DeviceKind::cpu, forward};
const Implement b{spectral_cumsum_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
