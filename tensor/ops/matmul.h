// matmul: c = op(a) op(b), op(x) = x or its transpose
//
//   backward   without transposes   d_a = d_c b^T,   d_b = a^T d_c
//              with them the same products with sides swapped; never a transposed copy
//
//   op(a) [M,K]   op(b) [K,N]   c [M,N]   f32 f64
//   The kernel takes each tensor as a matrix of rows of its last dimension: in the rule, a is [...,K] and
//   c [...,N], and the leading dimensions are the M rows.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct Matmul {
  Tensor a = {}, b = {}, c = {};
  bool transpose_a = false, transpose_b = false;
  Device& device() const { return a.device(); }
};

inline constinit Kernel<Matmul> matmul{"matmul"};

}  // namespace taper::kernels
