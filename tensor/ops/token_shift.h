// token_shift: the way from each token to the one before it (RWKV).
//
//   forward    y[b,t] = before(b,t) - x[b,t],   before(b,t) = x[b,t-1], last[b] at t = 0 (absent: 0),
//              0 where a document begins (packing.h)
//              tail[b] = x[b,T-1]: `last` of the next segment
//   backward   d_x[b,t] = -d_y[b,t] + d_y[b,t+1] if no document begins at t+1, + d_tail[b] at t = T-1
//              d_last[b] = d_y[b,0]
//
//   x y [B,T,D]   last tail [B,D]   f32 f64 bf16, computed in f32 (f64 for f64). An absent gradient is not computed;
//   an absent d_y or d_tail is 0. Source: specification 1.2.
#pragma once
#include "tensor/kernel.h"
#include "tensor/packing.h"

namespace taper::kernels {

struct TokenShiftForward {
  Tensor x = {}, last = {}, y = {}, tail = {};
  Packing packing = {};
  Device& device() const { return x.device(); }
};
struct TokenShiftBackward {
  Tensor x = {};  // for its shape
  Tensor d_y = {}, d_tail = {}, d_x = {}, d_last = {};
  Packing packing = {};
  Device& device() const { return x.device(); }
};

inline constinit Kernel<TokenShiftForward> token_shift_forward{"token_shift.forward"};
inline constinit Kernel<TokenShiftBackward> token_shift_backward{"token_shift.backward"};

}  // namespace taper::kernels
