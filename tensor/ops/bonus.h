// bonus: out = y + c v per token and head, c = sum_n r_n k_n weight_n: what RWKV's current token adds past its state
//
//   backward, with g = <d_out, v> over the head's V channels:
//     d_y = d_out    d_v = c * d_out    d_r = g * k * weight    d_k = g * r * weight
//     d_weight = sum over tokens of g * r * k, in f64, in one order
//
//   y v out [B,T,H,V]   r k [B,T,H,K]   f32 f64 bf16; weight [H,K], c and g f32 where y is bf16, else as y
//   An absent d_r, d_k, d_v or d_weight is not computed; d_y is d_out itself. Source: specification 1.2 item 9.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct BonusForward {
  Tensor y = {}, r = {}, k = {}, v = {}, weight = {}, out = {};
  Device& device() const { return y.device(); }
};
struct BonusBackward {
  Tensor r = {}, k = {}, v = {}, weight = {}, d_out = {}, d_r = {}, d_k = {}, d_v = {}, d_weight = {};
  Device& device() const { return d_out.device(); }
};

inline constinit Kernel<BonusForward> bonus_forward{"bonus.forward"};
inline constinit Kernel<BonusBackward> bonus_backward{"bonus.backward"};

}  // namespace taper::kernels
