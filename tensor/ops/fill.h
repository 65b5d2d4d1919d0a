// fill: y_i = value. How full() makes a tensor without the host sending it. No rule: a constant has no gradient.
//
//   y  any shape; f32 f64 bf16; value is rounded to the dtype once (bf16: by way of f32)
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct Fill {
  Tensor y = {};
  double value = 0;
  Device& device() const { return y.device(); }
};

inline constinit Kernel<Fill> fill{"fill"};

}  // namespace taper::kernels
