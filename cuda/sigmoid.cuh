// The sigmoid of a gate: where the result is rounded to bf16, the fast exponential is exact enough.
#pragma once
#include "tensor/dtype.h"
#include "tensor/vector_math.h"

namespace taper::cuda {

// T: what the gate is stored as.
template <class T>
__device__ Acc<T> sigmoid(Acc<T> x) {
  if constexpr (std::is_same_v<T, bf16>) return __fdividef(1.0f, 1.0f + __expf(-x));
  else return math::sigmoid(x);
}

}  // namespace taper::cuda
