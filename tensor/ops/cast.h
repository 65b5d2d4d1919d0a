// cast: y = x in another dtype, rounded to nearest even
//
//   backward   d_x = d_y in the dtype of x (the same kernel). d_y may come in the dtype of x, as a weight's gradient does from
//              a product in bf16: then it is d_x
//
//   x, y   same shape; each f32 f64 bf16
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct Cast {
  Tensor x = {}, y = {};
  Device& device() const { return x.device(); }
};

inline constinit Kernel<Cast> cast{"cast"};

}  // namespace taper::kernels
