// l2_norm: y = x * r over the last dimension, r = 1 / sqrt(sum(x^2) + eps)
//
//   backward:  d_x = r * (d_y - y * (y . d_y)), exact for every eps
//
//   x, y [...,D]   f32 f64 bf16; r [rows] and all statistics in f32 (f64 for f64)
//   A row of zeros gives zeros. Source: specification 1.3 and 2.4 (queries and keys per head, eps 1e-6).
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct L2NormForward {
  Tensor x = {}, y = {}, r = {};
  double eps = 1e-6;
  Device& device() const { return x.device(); }
};
struct L2NormBackward {
  Tensor x = {}, r = {}, d_y = {}, d_x = {};
  Device& device() const { return x.device(); }
};

inline constinit Kernel<L2NormForward> l2_norm_forward{"l2_norm.forward"};
inline constinit Kernel<L2NormBackward> l2_norm_backward{"l2_norm.backward"};

}  // namespace taper::kernels
