// argmax: y[i] = the index of the largest number of row i, of equals the first. No rule: an index has no gradient.
//
//   Of a row the first `among` numbers are looked at: a head's vocabulary is rounded up, and its last ids are nobody's. 0: all.
//   NaN is taken as below all others; a row of nothing else gives 0.
//
//   x [...,V], V in [1,2^31)   y [...] i32   f32 f64 bf16
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct Argmax {
  Tensor x = {}, y = {};
  int64_t among = 0;
  int64_t looked_at() const { return among > 0 && among < x.size(-1) ? among : x.size(-1); }
  Device& device() const { return x.device(); }
};

inline constinit Kernel<Argmax> argmax{"argmax"};

}  // namespace taper::kernels
