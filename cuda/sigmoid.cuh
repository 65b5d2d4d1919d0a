// The sigmoid of a gate: where the result is rounded to bf16, the hardware's exponential is exact enough.
#pragma once
#include "tensor/dtype.h"
#include "tensor/vector_math.h"

namespace taper::cuda {

// T: what the gate is stored as. The .ftz forms are one instruction each; with denormals each would take five.
template <class T>
__device__ Acc<T> sigmoid(Acc<T> x) {
  if constexpr (std::is_same_v<T, bf16>) {
    float e, s;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x * -0x1.715476p0f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(s) : "f"(1 + e));
    return s;
  } else {
    return math::sigmoid(x);
  }
}

}  // namespace taper::cuda
