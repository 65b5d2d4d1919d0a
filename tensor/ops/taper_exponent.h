// taper_exponent: the exponents alpha of the position taper, from the gaps of the spectrum alone.
//
//   c_k     = sum_{j=1..k} softplus(delta_j)                     k = 0..N-1
//   raw_k   = (N-1-k)/(N-1) + (c_k - k c_{N-1}/(N-1)) / log T_train
//   alpha_k = raw_k clamped to [0,1];  alpha_0 = 1, alpha_{N-1} = 0;  N = 1: alpha = 0
//
//   backward   d_c_k = d_alpha_k / log T_train where 0 <= raw_k <= 1, else 0, for the inner k
//              d_delta_j = sigmoid(delta_j) * (sum_{k>=j} d_c_k - sum_k k d_c_k / (N-1))
//
//   delta [N-1]   alpha [N]   f32 f64; sums in f64. Source: specification 4.1, 4.2.
// theta is no input: it shifts every rate alike and cannot change alpha. At the two ends raw is
// constant, so they carry no gradient.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct TaperExponentForward {
  Tensor delta = {}, alpha = {};
  double train_length = 0;
  Device& device() const { return alpha.device(); }
};
struct TaperExponentBackward {
  Tensor delta = {}, d_alpha = {}, d_delta = {};
  double train_length = 0;
  Device& device() const { return d_alpha.device(); }
};

inline constinit Kernel<TaperExponentForward> taper_exponent_forward{"taper_exponent.forward"};
inline constinit Kernel<TaperExponentBackward> taper_exponent_backward{"taper_exponent.backward"};

}  // namespace taper::kernels
