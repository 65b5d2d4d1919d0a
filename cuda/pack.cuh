// Numbers rounded into a vector: two at a time where the hardware rounds two.
#pragma once
#include <bit>

#include "cuda/mma.cuh"
#include "cuda/vector.cuh"

namespace taper::cuda {

template <class T, int n>
__device__ Vector<T, n> pack(const Acc<T> (&r)[n]) {
  if constexpr (std::is_same_v<T, bf16> && n % 2 == 0) {
    Vector<uint32_t, n / 2> pairs;
#pragma unroll
    for (int i = 0; i < n / 2; ++i) pairs.at[i] = pack_bf16(r[2 * i], r[2 * i + 1]);
    return std::bit_cast<Vector<T, n>>(pairs);
  } else {
    Vector<T, n> v;
#pragma unroll
    for (int i = 0; i < n; ++i) v.at[i] = T(r[i]);
    return v;
  }
}

}  // namespace taper::cuda
