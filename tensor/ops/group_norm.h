// group_norm: mean 0 and variance 1 in each of G equal parts of the last dimension, then weight and bias
//
//   y = x^ w + b    x^ = (x - mean) r    r = 1 / sqrt(mean((x - mean)^2) + eps), means over the D/G channels of a group
//
//   backward, with g = d_y * w:
//     d_x      = r * (g - mean(g) - x^ * mean(g x^))
//     d_weight = sum over rows of d_y * x^, d_bias = sum over rows of d_y; both in f64, in one order
//
//   x, y [...,D]   f32 f64 bf16; weight, bias [D], mean, r [rows,G] and all statistics f32 where x is bf16, else as x
//   The mean comes first and the squares are of x - mean: sum x^2 - n mean^2 would cancel where |mean| is large.
//   An absent d_x, d_weight or d_bias is not computed. G = 1 is layer_norm. Source: specification 1.2 item 8, LayerNorm.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct GroupNormForward {
  Tensor x = {}, weight = {}, bias = {}, y = {}, mean = {}, r = {};
  double eps = 1e-5;
  Device& device() const { return x.device(); }
};
struct GroupNormBackward {
  Tensor x = {}, weight = {}, mean = {}, r = {}, d_y = {}, d_x = {}, d_weight = {}, d_bias = {};
  Device& device() const { return x.device(); }
};

inline constinit Kernel<GroupNormForward> group_norm_forward{"group_norm.forward"};
inline constinit Kernel<GroupNormBackward> group_norm_backward{"group_norm.backward"};

}  // namespace taper::kernels
