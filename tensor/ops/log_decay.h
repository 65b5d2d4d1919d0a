// log_decay: l[b,t,h,n] = -exp(p_h) * dt[b,t,h,n] * s[b,t,h], what a scan's state decays by: one number per head
// (no n) or, with a step size for each key channel, one per channel n. s is given, or made on the way from positions:
// s[b,t,h] = (n / reference)^(-alpha[h]), n = the position, 1-based (packing.h), as position_taper's.
//
//   backward   d_p_h = sum_{b,t,n} l * d_l      d_dt = -exp(p_h) s d_l      d_s = -exp(p_h) sum_n dt d_l
//              d_alpha_h = -sum_{b,t} log(n / reference) sum_n l * d_l
//
//   p, alpha [H]   dt [B,T,H] or [B,T,H,K]   s [B,T,H]   l has dt's shape, or [B,T,H]   f32 f64
//   dt may be absent: 1; of s and alpha one or both: 1. d_p, d_alpha, and d_s over n, are summed in f64.
//   s = 1 and alpha = 0 give the same bits as neither. Source: specification 1.1, 1.4, 4.1, 4.2.
#pragma once
#include "tensor/kernel.h"
#include "tensor/packing.h"

namespace taper::kernels {

struct LogDecayForward {
  Tensor p = {}, dt = {}, s = {}, alpha = {}, log_a = {};
  Packing packing = {};  // with alpha
  double reference = 1;
  Device& device() const { return p.device(); }
};
struct LogDecayBackward {
  Tensor p = {}, dt = {}, s = {}, alpha = {}, log_a = {}, d_log_a = {};
  Tensor d_p = {}, d_dt = {}, d_s = {}, d_alpha = {};  // d_dt, d_s, d_alpha absent where the input is
  Packing packing = {};
  double reference = 1;
  Device& device() const { return p.device(); }
};

inline constinit Kernel<LogDecayForward> log_decay_forward{"log_decay.forward"};
inline constinit Kernel<LogDecayBackward> log_decay_backward{"log_decay.backward"};

}  // namespace taper::kernels
