// adamw: one step of AdamW on one parameter, in place. No rule: it is not differentiated.
//
//   g       = scale * gradient                              scale, finite, steps: from step_guard
//   moment1 = beta1 * moment1 + (1 - beta1) * g
//   moment2 = beta2 * moment2 + (1 - beta2) * g^2
//   value   = (1 - lr * weight_decay) * value
//             - lr * (moment1 / (1 - beta1^t)) / (sqrt(moment2 / (1 - beta2^t)) + eps)       t = steps
//
//   value gradient moment1 moment2   same shape; f32 f64
//   scale [] f64   finite [] i32   steps [] i64 (this step included)
//   finite = 0 leaves value and moments as they are. Source: Loshchilov and Hutter 2019, algorithm 2,
//   with lr * weight_decay as in PyTorch; specification 6.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct AdamWUpdate {
  Tensor value = {}, gradient = {}, moment1 = {}, moment2 = {};
  Tensor scale = {}, finite = {}, steps = {};
  double lr = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  Device& device() const { return value.device(); }
};

inline constinit Kernel<AdamWUpdate> adamw{"adamw"};

}  // namespace taper::kernels
