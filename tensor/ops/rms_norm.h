// rms_norm: y = x * r * w over the last dimension, r = 1 / sqrt(mean(x^2) + eps)
//
//   backward, with g = d_y * w:
//     d_x      = r * (g - x * r^2 * mean(g x))
//     d_weight = sum over rows of d_y * x * r, in f64, in one order
//
//   x, y [...,D]   f32 f64 bf16; weight [D], r [rows] and all statistics f32 where x is bf16, else as x
//   An absent d_x or d_weight is not computed. Source: specification 1, RMSNorm.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct RmsNormForward {
  Tensor x = {}, weight = {}, y = {}, r = {};
  double eps = 1e-5;
  Device& device() const { return x.device(); }
};
struct RmsNormBackward {
  Tensor x = {}, weight = {}, r = {}, d_y = {}, d_x = {}, d_weight = {};
  Device& device() const { return x.device(); }
};

inline constinit Kernel<RmsNormForward> rms_norm_forward{"rms_norm.forward"};
inline constinit Kernel<RmsNormBackward> rms_norm_backward{"rms_norm.backward"};

}  // namespace taper::kernels
