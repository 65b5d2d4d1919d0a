// binary: y = f(a, b) for the functions of scalar_math.h; b has a's shape, or a's trailing dimensions,
// or is a scalar []. With n = numel(b):
//
//   forward    y[i]   = f(a[i], b[i mod n])
//   backward   d_a[i] = slope_a * d_y[i]
//              d_b[j] = sum of slope_b * d_y[i] over the i with i mod n = j, in f64, in one order
//
//   a, y [...,tail]   b [tail] or []   one dtype: f32 f64 bf16 (computed in f32); b of bf16 a may be f32, and d_b with it
//   An absent d_a or d_b is not computed.
#pragma once
#include "tensor/kernel.h"
#include "tensor/ops/scalar_math.h"
#include "tensor/ops/unary.h"

namespace taper::kernels {

template <class F>
struct BinaryForward {
  Tensor a = {}, b = {}, y = {};
  Device& device() const { return a.device(); }
};
template <class F>
struct BinaryBackward {
  Tensor a = {}, b = {}, d_y = {}, d_a = {}, d_b = {};
  Device& device() const { return a.device(); }
};

template <class F>
inline constinit Kernel<BinaryForward<F>> binary_forward{forward_name<F>.data()};
template <class F>
inline constinit Kernel<BinaryBackward<F>> binary_backward{backward_name<F>.data()};

}  // namespace taper::kernels
