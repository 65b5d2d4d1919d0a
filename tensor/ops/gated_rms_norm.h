// gated_rms_norm: rms_norm with a silu gate, over the last dimension, in one of two orders
//
//   gate_then_norm   u = x * silu(z);  y = u * r(u) * w               (Mamba-2)
//   norm_then_gate   y = x * r(x) * w * silu(z)                       (per-head norms)
//   with r(u) = 1 / sqrt(mean(u^2) + eps). Equals rms_norm(multiply(x, silu(z)), w), and
//   multiply(rms_norm(x, w), silu(z)).
//
//   backward   as rms_norm in u (or x), with d silu(z) = sigmoid(z) (1 + z (1 - sigmoid(z)));
//              silu(z) and u are computed anew: an exp is cheaper than the memory
//
//   x, gate z, y [...,D]   f32 f64 bf16; weight [D], r [rows] and all statistics f32 where x is bf16, else as x
//   An absent gradient is not computed. Source: specification 1, Gated RMSNorm.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct GatedRmsNormForward {
  Tensor x = {}, gate = {}, weight = {}, y = {}, r = {};
  double eps = 1e-5;
  bool gate_first = true;
  Device& device() const { return x.device(); }
};
struct GatedRmsNormBackward {
  Tensor x = {}, gate = {}, weight = {}, r = {}, d_y = {}, d_x = {}, d_gate = {}, d_weight = {};
  bool gate_first = true;
  Device& device() const { return x.device(); }
};

inline constinit Kernel<GatedRmsNormForward> gated_rms_norm_forward{"gated_rms_norm.forward"};
inline constinit Kernel<GatedRmsNormBackward> gated_rms_norm_backward{"gated_rms_norm.backward"};

}  // namespace taper::kernels
