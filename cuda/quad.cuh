// Lanes 4 i .. 4 i + 3, which hold neighbouring columns of a row of a product's fragment (cuda/mma.cuh).
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace taper::cuda {

// Element i of lane q of a quad goes to element q of lane i.
__device__ inline void transpose_quad(uint32_t (&x)[4]) {
  const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
  auto swap = [](uint32_t& low, uint32_t& high, bool bit, int mask) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, bit ? low : high, mask);
    (bit ? low : high) = other;
  };
  swap(x[0], x[1], odd, 1);
  swap(x[2], x[3], odd, 1);
  swap(x[0], x[2], upper, 2);
  swap(x[1], x[3], upper, 2);
}

}  // namespace taper::cuda
