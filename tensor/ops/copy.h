// copy: moves elements and computes nothing, so that every copy shows in the graph and the profile
//
//   copy_columns   to[r, to_column + j] = from[r, from_column + j]    j < width
//   transpose      to[m, j, i] = from[m, i, j]
//
// split and concat on the last dimension are copies of columns, forward and backward; a transpose is
// its own backward.
//
//   from [rows, n], to [rows, n']: any shape, rows = all dimensions but the last; any dtype, the same
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct CopyColumns {
  Tensor from = {}, to = {};
  int64_t from_column = 0, to_column = 0, width = 0;
  Device& device() const { return from.device(); }
};
struct Transpose {
  Tensor from = {}, to = {};  // [...,R,C] and [...,C,R]
  Device& device() const { return from.device(); }
};

inline constinit Kernel<CopyColumns> copy_columns{"copy.columns"};
inline constinit Kernel<Transpose> transpose{"copy.transpose"};

}  // namespace taper::kernels
