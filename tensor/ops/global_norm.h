// global_norm: the norm of all gradients together, and the guard that judges a step by it. No rule.
//
//   global_norm   norm  = sqrt(sum over all tensors of sum g^2)        summed in f64, in one order
//   step_guard    ok    = norm and loss are finite, and bad_steps < max_bad_steps
//                 scale = clip > 0 ? min(1, clip / (norm + 1e-6)) : 1     (PyTorch's clip_grad_norm_)
//                 ok:      finite = 1, steps += 1, bad_steps = 0
//                 not ok:  finite = 0, bad_steps += 1
//
//   tensors  any shapes; f32 f64      loss  [] f32 f64, may be absent
//   norm scale  [] f64                finite  [] i32          steps bad_steps  [] i64
//   Everything stays on the device: adamw reads scale, finite and steps, the host looks when it logs.
//   Once bad_steps has reached max_bad_steps (> 0) no later step counts as good, so what happens to the
//   weights does not depend on when the host looks. A loss or norm of NaN or infinity is not finite.
#pragma once
#include <vector>

#include "tensor/kernel.h"

namespace taper::kernels {

struct GlobalNorm {
  std::vector<Tensor> tensors = {};
  Tensor norm = {};
  Device& device() const { return norm.device(); }
};
struct StepGuard {
  Tensor norm = {}, loss = {};
  Tensor scale = {}, finite = {}, steps = {}, bad_steps = {};
  double clip = 0;
  int64_t max_bad_steps = 0;
  Device& device() const { return norm.device(); }
};

inline constinit Kernel<GlobalNorm> global_norm{"global_norm"};
inline constinit Kernel<StepGuard> step_guard{"step_guard"};

}  // namespace taper::kernels
