// reduce: y [] = factor * sum_i x[i]; sum has factor 1, mean has 1 / numel
//
//   backward   d_x[i] = factor * d_y
//
//   x, d_x any shape   y, d_y []   f32 f64 bf16; added in f64 on a fixed grid
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct ReduceForward {
  Tensor x = {}, y = {};
  double factor = 1;
  Device& device() const { return x.device(); }
};
struct ReduceBackward {
  Tensor d_y = {}, d_x = {};
  double factor = 1;
  Device& device() const { return d_y.device(); }
};

inline constinit Kernel<ReduceForward> reduce_forward{"reduce.forward"};
inline constinit Kernel<ReduceBackward> reduce_backward{"reduce.backward"};

}  // namespace taper::kernels
