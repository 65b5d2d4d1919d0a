// dropout: each element is kept with probability 1 - p and scaled up, so that its expectation stays
//
//   y_i = x_i / (1 - p) where random.uniform(i) >= p, else 0
//   backward   d_x = the same kernel on d_y: the mask is a pure function of (random, i) and is computed again
//
//   key [2] i64  the generator, as Random::key gives it: in memory, so that a recorded step can draw anew (graph.h)
//   x, y [...]   same shape, i counts through it in memory order; f32 f64 bf16, computed in f32 (f64 for f64)
//   p in [0,1); p = 0 gives x in every bit. A dropped infinity or NaN is 0. Source: specification 5.1, embedding dropout.
#pragma once
#include "tensor/kernel.h"
#include "tensor/random.h"

namespace taper::kernels {

struct Dropout {
  Tensor x = {}, key = {}, y = {};
  double p = 0;
  Device& device() const { return x.device(); }
};

inline constinit Kernel<Dropout> dropout{"dropout"};

}  // namespace taper::kernels
