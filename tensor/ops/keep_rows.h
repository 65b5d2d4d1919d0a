// keep_rows: rows that go on stay, the others begin anew: what a state is where documents begin
//
//   forward    y[b,...] = keep[b] ? x[b,...] : 0
//   backward   d_x = the same kernel on d_y
//
//   x, y [B,...]   same shape; f32 f64 bf16 i64   keep [B] i32. A row that ends is 0 whatever it held, infinity and NaN included.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct KeepRows {
  Tensor x = {}, keep = {}, y = {};
  Device& device() const { return x.device(); }
};

inline constinit Kernel<KeepRows> keep_rows{"keep_rows"};

}  // namespace taper::kernels
