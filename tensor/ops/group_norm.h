// group_norm: mean 0 and variance 1 in each of G equal parts of the last dimension, then weight and bias
//
//   y = s^ w + b    s = x + added    s^ = (s - mean) r    r = 1 / sqrt(mean((s - mean)^2) + eps)
//   means over the D/G channels of a group
//
//   s goes out too, as in rms_norm. Without added, s = x. Equals s = add(x, added), y = group_norm(s).
//
//   backward, with g = d_y * w:
//     d_x = d_added = r * (g - mean(g) - s^ * mean(g s^)) + d_s
//     d_weight      = sum over rows of d_y * s^, d_bias = sum over rows of d_y; both in f64, in one order
//
//   x, s, d_s, d_x [...,D]                            f32 f64 bf16: the stream's dtype
//   added, y, d_y, d_added [...,D]                    the same, or bf16 beside a stream of f32
//   weight, bias [D], mean, r [rows,G], statistics    f32 where x is bf16, else as x
//   s is rounded to its dtype before its mean is taken. Where both dtypes are one, d_added is d_x and not written again.
//   The mean comes first and the squares are of s - mean: sum s^2 - n mean^2 would cancel where |mean| is large.
//   An absent d_s is 0; an absent d_x, d_added, d_weight or d_bias is not computed. G = 1 is layer_norm.
//   Source: specification 1.2 item 8, LayerNorm.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct GroupNormForward {
  Tensor x = {}, added = {}, weight = {}, bias = {}, sum = {}, y = {}, mean = {}, r = {};  // added and sum: both or neither
  double eps = 1e-5;
  Device& device() const { return x.device(); }
};
struct GroupNormBackward {
  Tensor sum = {}, weight = {}, mean = {}, r = {}, d_y = {}, d_sum = {}, d_x = {}, d_added = {}, d_weight = {}, d_bias = {};
  Device& device() const { return sum.device(); }
};

inline constinit Kernel<GroupNormForward> group_norm_forward{"group_norm.forward"};
inline constinit Kernel<GroupNormBackward> group_norm_backward{"group_norm.backward"};

}  // namespace taper::kernels
