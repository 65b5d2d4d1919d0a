// rms_norm: y = s * r * w over the last dimension, s = x + added, r = 1 / sqrt(mean(s^2) + eps)
//
//   s goes out too: the norm at the head of a layer adds what the layer before it made to the residual stream x, and hands
//   the sum on. Without added, s = x. Equals s = add(x, added), y = rms_norm(s), in one pass over each tensor.
//
//   backward, with g = d_y * w:
//     d_x = d_added = r * (g - s * r^2 * mean(g s)) + d_s
//     d_weight      = sum over rows of d_y * s * r, in f64, in one order
//
//   x, s, d_s, d_x [...,D]             f32 f64 bf16: the stream's dtype
//   added, y, d_y, d_added [...,D]     the same, or bf16 beside a stream of f32
//   weight [D], r [rows], statistics   f32 where x is bf16, else as x
//   s is rounded to its dtype before its squares are taken. Where both dtypes are one, d_added is d_x and not written again.
//   An absent d_s is 0; an absent d_x, d_added or d_weight is not computed. Source: specification 1, RMSNorm.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct RmsNormForward {
  Tensor x = {}, added = {}, weight = {}, sum = {}, y = {}, r = {};  // added and sum: both or neither
  double eps = 1e-5;
  Device& device() const { return x.device(); }
};
struct RmsNormBackward {
  Tensor sum = {}, weight = {}, r = {}, d_y = {}, d_sum = {}, d_x = {}, d_added = {}, d_weight = {};
  Device& device() const { return sum.device(); }
};

inline constinit Kernel<RmsNormForward> rms_norm_forward{"rms_norm.forward"};
inline constinit Kernel<RmsNormBackward> rms_norm_backward{"rms_norm.backward"};

}  // namespace taper::kernels
