// accumulate: sum += d, the fan-in of backward and of micro-batches. No rule: it is not differentiated.
//
//   sum, d   same shape; f32 f64 bf16
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct Accumulate {
  Tensor sum = {}, d = {};
  Device& device() const { return sum.device(); }
};

inline constinit Kernel<Accumulate> accumulate{"accumulate"};

}  // namespace taper::kernels
