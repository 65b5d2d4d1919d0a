// sigmoid_decay: RWKV-7's log-decay per channel, log_w = -c sigmoid(u + w0 - alpha log(n / reference)), c = e^(-1/2)
//
//   n = the position, 1-based (packing.h); so -c < log_w < 0
//   backward   d_u = d_log_w log_w (1 - sigma), sigma = -log_w / c
//              d_w0_j = sum_{b,t} d_u      d_alpha_j = -sum_{b,t} log(n / reference) d_u
//
//   u, log_w [B,T,D]   w0, alpha [D], each may be absent: 0   f32 f64; u may be bf16 beside f32 others, as is d_u then
//   The two sums in f64, in one order.
//   A w0 or alpha of zeros gives the same bits as none. Source: specification 1.2, 4.1, 4.2 (RWKV).
// Backward needs log_w alone, which the scan keeps anyway, and not u. Near sigma = 1 it is right to the
// last digit of 1, not of 1 - sigma, as the plain sigmoid is.
#pragma once
#include "tensor/kernel.h"
#include "tensor/packing.h"

namespace taper::kernels {

struct SigmoidDecayForward {
  Tensor u = {}, w0 = {}, alpha = {}, log_w = {};
  Packing packing = {};
  double reference = 1;
  Device& device() const { return u.device(); }
};
struct SigmoidDecayBackward {
  Tensor log_w = {}, d_log_w = {};
  Tensor d_u = {}, d_w0 = {}, d_alpha = {};  // d_w0, d_alpha absent where the input is
  Packing packing = {};
  double reference = 1;
  Device& device() const { return log_w.device(); }
};

inline constinit Kernel<SigmoidDecayForward> sigmoid_decay_forward{"sigmoid_decay.forward"};
inline constinit Kernel<SigmoidDecayBackward> sigmoid_decay_backward{"sigmoid_decay.backward"};

constexpr double sigmoid_decay_bound = 0.60653065971263342360;  // c = e^(-1/2), the bound of |log_w|

}  // namespace taper::kernels
