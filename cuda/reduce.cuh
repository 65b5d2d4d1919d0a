// Sums within a block, in one fixed order: a tree over the thread numbers, no atomics.
#pragma once
#include <cuda_runtime.h>

namespace taper::cuda {

// The sum of every thread's x, given to thread 0; the others get 0. Each of the `threads` (a power of two) must call it.
template <int threads, class T>
__device__ T block_sum(T x) {
  static_assert((threads & (threads - 1)) == 0, "the tree halves: threads must be a power of two");
  __shared__ T s_sum[threads];  // [threads]
  __syncthreads();              // a sum before this one may still be read
  s_sum[threadIdx.x] = x;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) s_sum[threadIdx.x] = x += s_sum[threadIdx.x + half];
  }
  return threadIdx.x == 0 ? x : T(0);
}

}  // namespace taper::cuda
