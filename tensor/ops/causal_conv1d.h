// causal_conv1d: a depthwise convolution over time that sees the present and the W-1 inputs before it
//
//   forward    pre[b,t,d] = bias[d] + sum_j weight[d,0,j] * in[b, t-W+1+j, d],  y = silu(pre) or pre
//              in[b,s] = x[b,s] for s >= 0, history[b, W-1+s] for s < 0 (absent: 0);
//              a tap before the start of t's document counts as 0 (packing.h), and history is seen only
//              where start = 0. Tap W-1 meets the current input.
//              tail[b,i] = in[b, T-W+1+i], as position T-1 sees it: the history of the next segment
//   backward   d_pre     = d_y * silu'(pre), or d_y
//              d_in[b,s] = sum_j weight[d,0,j] * d_pre[b, s+W-1-j] over the t that see s, + d_tail
//              d_weight  = sum over b, t of d_pre * in;   d_bias = sum over b, t of d_pre
//
//   x, y [B,T,D]   history, tail [B,W-1,D]   f32 f64 bf16; weight [D,1,W], bias [D] or absent, f32 where x is bf16, else as
//   x; computed in f32 (f64 for f64). An absent gradient is not computed; an absent d_y or d_tail is 0.
//   pre is computed anew in backward: W multiplications cost less than keeping [B,T,D].
//   Source: specification 1, causal depthwise short convolution.
#pragma once
#include "tensor/kernel.h"
#include "tensor/packing.h"

namespace taper::kernels {

struct CausalConv1dForward {
  Tensor x = {}, weight = {}, bias = {}, history = {}, y = {}, tail = {};
  Packing packing = {};
  bool with_silu = true;
  Device& device() const { return x.device(); }
};
struct CausalConv1dBackward {
  Tensor x = {}, weight = {}, bias = {}, history = {}, d_y = {}, d_tail = {};
  Tensor d_x = {}, d_weight = {}, d_bias = {}, d_history = {};
  Packing packing = {};
  bool with_silu = true;
  Device& device() const { return x.device(); }
};

inline constinit Kernel<CausalConv1dForward> causal_conv1d_forward{"causal_conv1d.forward"};
inline constinit Kernel<CausalConv1dBackward> causal_conv1d_backward{"causal_conv1d.backward"};

}  // namespace taper::kernels
