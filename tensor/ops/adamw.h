// adamw: one step of AdamW on all parameters, in place. No rule: it is not differentiated.
//
//   g       = scale * gradient                              scale, finite, steps: from step_guard
//   moment1 = beta1 * moment1 + (1 - beta1) * g
//   moment2 = beta2 * moment2 + (1 - beta2) * g^2
//   value   = (1 - lr * weight_decay) * value
//             - lr * (moment1 / (1 - beta1^t)) / (sqrt(moment2 / (1 - beta2^t)) + eps)       t = steps
//
//   lr      = rate * lr_scale                               rate in memory: it changes from step to step
//
//   value gradient moment1 moment2   of a tensor: same shape; f32 f64. lr_scale and weight_decay are each tensor's own
//   rate, scale [] f64   finite [] i32   steps [] i64 (this step included)
//   finite = 0 leaves value and moments as they are. Source: Loshchilov and Hutter 2019, algorithm 2,
//   with lr * weight_decay as in PyTorch; specification 6.
#pragma once
#include <string>
#include <vector>

#include "tensor/kernel.h"

namespace taper::kernels {

struct AdamWTensor {
  Tensor value = {}, gradient = {}, moment1 = {}, moment2 = {};
  double lr_scale = 1, weight_decay = 0;
};
struct AdamWUpdate {
  std::vector<AdamWTensor> tensors = {};
  Tensor rate = {}, scale = {}, finite = {}, steps = {};
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  Device& device() const { return steps.device(); }
};

inline void check_adamw(const AdamWUpdate& a) {
  const auto text = [](const Tensor& t) { return std::string(name(t.dtype())) + " " + t.shape().text(); };
  for (const AdamWTensor& t : a.tensors)
    for (const Tensor* other : {&t.gradient, &t.moment1, &t.moment2})
      if (other->shape() != t.value.shape() || other->dtype() != t.value.dtype())
        raise("adamw: gradient and moments must be " + text(t.value) + " like the value; got " + text(*other));
}

inline constinit Kernel<AdamWUpdate> adamw{"adamw"};

}  // namespace taper::kernels
