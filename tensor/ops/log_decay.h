// log_decay: l[b,t,h,n] = -exp(p_h) * dt[b,t,h,n] * s[b,t,h], what a scan's state decays by: one number per head
// (no n) or, with a step size for each key channel, one per channel n.
//
//   backward   d_p_h = sum_{b,t,n} l * d_l      d_dt = -exp(p_h) s d_l      d_s = -exp(p_h) sum_n dt d_l
//
//   p [H]   dt [B,T,H] or [B,T,H,K]   s [B,T,H]   l has dt's shape, or s's   f32 f64
//   One of dt and s may be absent: 1. d_p, and d_s over n, are summed in f64.
//   With s = 1 the result has the same bits as without s. Source: specification 1.1, 1.4, 4.2.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct LogDecayForward {
  Tensor p = {}, dt = {}, s = {}, log_a = {};
  Device& device() const { return p.device(); }
};
struct LogDecayBackward {
  Tensor p = {}, dt = {}, s = {}, log_a = {}, d_log_a = {};
  Tensor d_p = {}, d_dt = {}, d_s = {};  // d_dt, d_s absent where the input is
  Device& device() const { return p.device(); }
};

inline constinit Kernel<LogDecayForward> log_decay_forward{"log_decay.forward"};
inline constinit Kernel<LogDecayBackward> log_decay_backward{"log_decay.backward"};

}  // namespace taper::kernels
