// argmax: y[i] = the index of the largest number of row i, of equals the first. No rule: an index has no gradient.
//
//   NaN is taken as below all others; a row of nothing else gives 0.
//
//   x [...,V], V in [1,2^31)   y [...] i32   f32 f64 bf16
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct Argmax {
  Tensor x = {}, y = {};
  Device& device() const { return x.device(); }
};

inline constinit Kernel<Argmax> argmax{"argmax"};

}  // namespace taper::kernels
