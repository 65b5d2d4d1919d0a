// What the scans' plain kernels share: a product of matrices whose elements are made as they are read.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/vector.cuh"

namespace taper::cuda {

// One tile of a product: 64 x 64 by 256 threads, 16 of the depth at a time through shared memory. Thread (ty, tx) =
// (thread / 16, thread % 16) holds rows 4 ty .. 4 ty + 3 and columns 4 tx .. 4 tx + 3.
inline constexpr int product_tile = 64, product_threads = 256, product_step = 16;

template <class A>
struct ProductBuffers {
  alignas(32) A a[product_step][product_tile + 4];  // [k][row]; the 4 keep a row's vectors aligned and off one bank
  alignas(32) A b[product_step][product_tile + 4];  // [k][column]
};

__host__ __device__ inline int64_t product_tiles(int64_t n) {
  return n <= product_tile ? 1 : (n + product_tile - 1) / product_tile;
}

// r += a(row, k) b(k, column) summed over k < depth, in order of k. Rows and columns count from the tile's corner; a
// and b are asked inside `rows` and `columns` only. along_k: neighbours in k are neighbours in memory, so threads read
// along k.
template <bool a_along_k, bool b_along_k, class A, class LoadA, class LoadB>
__device__ void multiply_tile(A (&r)[4][4], ProductBuffers<A>& s, int64_t rows, int64_t columns, int64_t depth, LoadA a,
                              LoadB b) {
  const int thread = int(threadIdx.x), tx = thread % 16, ty = thread / 16;
  for (int64_t k0 = 0; k0 < depth; k0 += product_step) {
    __syncthreads();  // the step before is still being read
    for (int e = thread; e < product_step * product_tile; e += product_threads) {
      const int ka = a_along_k ? e % product_step : e / product_tile,
                row = a_along_k ? e / product_step : e % product_tile;
      s.a[ka][row] = row < rows && k0 + ka < depth ? a(row, k0 + ka) : A(0);
      const int kb = b_along_k ? e % product_step : e / product_tile,
                column = b_along_k ? e / product_step : e % product_tile;
      s.b[kb][column] = column < columns && k0 + kb < depth ? b(k0 + kb, column) : A(0);
    }
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < product_step; ++k) {
      const auto va = *reinterpret_cast<const Vector<A, 4>*>(&s.a[k][4 * ty]);
      const auto vb = *reinterpret_cast<const Vector<A, 4>*>(&s.b[k][4 * tx]);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) r[i][j] += va.at[i] * vb.at[j];
    }
  }
}

// Calls f(row, column, i, j) for each of the thread's elements [i][j] inside rows x columns. i and j are constants once
// the loops are unrolled: what they index stays in registers.
template <class F>
__device__ void for_tile(int64_t rows, int64_t columns, F f) {
  const int tx = int(threadIdx.x) % 16, ty = int(threadIdx.x) / 16;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (4 * ty + i < rows && 4 * tx + j < columns) f(int64_t(4 * ty + i), int64_t(4 * tx + j), i, j);
}

}  // namespace taper::cuda
