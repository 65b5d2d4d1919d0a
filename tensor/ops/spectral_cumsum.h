// spectral_cumsum: p_0 = theta, p_k = theta + sum_{j=1..k} softplus(delta_j): rates that stay ordered.
//
//   backward   d_theta   = sum_k d_p_k
//              d_delta_j = sigmoid(delta_j) * sum_{k>=j} d_p_k        (a suffix sum)
//
//   theta []   delta [N-1]   p [N]   f32 f64; sums in f64. Index 0 is the slowest decay.
//   Source: specification 4.1, 4.2.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct SpectralCumsumForward {
  Tensor theta = {}, delta = {}, p = {};
  Device& device() const { return p.device(); }
};
struct SpectralCumsumBackward {
  Tensor delta = {}, d_p = {}, d_theta = {}, d_delta = {};
  Device& device() const { return d_p.device(); }
};

inline constinit Kernel<SpectralCumsumForward> spectral_cumsum_forward{"spectral_cumsum.forward"};
inline constinit Kernel<SpectralCumsumBackward> spectral_cumsum_backward{"spectral_cumsum.backward"};

}  // namespace taper::kernels
