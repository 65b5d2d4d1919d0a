// rate_exponent: the exponents alpha of the position taper, from any log rates p (RWKV-7: p = log sigmoid(w0)).
//
//   c_k     = p_k - p_0                                          k = 0..N-1
//   raw_k   = (N-1-k)/(N-1) + (c_k - k c_{N-1}/(N-1)) / log T_train
//   alpha_k = raw_k clamped to [0,1];  alpha_0 = 1, alpha_{N-1} = 0;  N = 1: alpha = 0
//
//   backward   with d_k = d_alpha_k / log T_train where 0 <= raw_k <= 1, else 0, for the inner k:
//              d_p_k = d_k      d_p_0 = -sum_k d_k (N-1-k)/(N-1)      d_p_{N-1} = -sum_k d_k k/(N-1)
//
//   p, alpha [N]   f32 f64; sums in f64. Source: specification 4.1, 4.2 (RWKV).
// Where p is a spectral_cumsum, taper_exponent says the same of its gaps. A shift of every rate changes
// nothing: d_p sums to 0. At the two ends raw is constant, so they carry no gradient.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct RateExponentForward {
  Tensor p = {}, alpha = {};
  double train_length = 0;
  Device& device() const { return p.device(); }
};
struct RateExponentBackward {
  Tensor p = {}, d_alpha = {}, d_p = {};
  double train_length = 0;
  Device& device() const { return p.device(); }
};

inline constinit Kernel<RateExponentForward> rate_exponent_forward{"rate_exponent.forward"};
inline constinit Kernel<RateExponentBackward> rate_exponent_backward{"rate_exponent.backward"};

}  // namespace taper::kernels
