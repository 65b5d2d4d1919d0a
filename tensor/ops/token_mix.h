// token_mix: what RWKV feeds its projections: each token moved towards the one before it, by up to six weights at once
//
//   forward    y_m[b,t] = x[b,t] + (before(b,t) - x[b,t]) * weight_m,   before and tail as in token_shift
//   backward   d_x[b,t]   = sum_m d_y_m[b,t] (1 - weight_m) + sum_m d_y_m[b,t+1] weight_m if no document begins at t+1,
//                           + d_tail[b] at t = T-1
//              d_last[b]  = sum_m d_y_m[b,0] weight_m
//              d_weight_m = sum over b, t of d_y_m (before - x), in one order
//
//   x y_m [B,T,D]   last tail [B,D]   weight_m [D], f32 where x is bf16   f32 f64 bf16, computed in f32 (f64 for f64)
//   Absent gradients are not computed, absent d_y_m and d_tail are 0. Equals add(x, multiply(token_shift(x), weight_m)).
//   Source: specification 1.2.
#pragma once
#include <array>

#include "tensor/kernel.h"
#include "tensor/packing.h"

namespace taper::kernels {

constexpr int token_mix_most = 6;
using MixTensors = std::array<Tensor, token_mix_most>;  // the first of them are present

struct TokenMixForward {
  Tensor x = {}, last = {};
  MixTensors weight = {}, y = {};
  Tensor tail = {};
  Packing packing = {};
  Device& device() const { return x.device(); }
};
struct TokenMixBackward {
  Tensor x = {}, last = {};
  MixTensors weight = {}, d_y = {};
  Tensor d_tail = {};
  Tensor d_x = {}, d_last = {};
  MixTensors d_weight = {};
  Packing packing = {};
  Device& device() const { return x.device(); }
};

inline constinit Kernel<TokenMixForward> token_mix_forward{"token_mix.forward"};
inline constinit Kernel<TokenMixBackward> token_mix_backward{"token_mix.backward"};

}  // namespace taper::kernels
