// Sums over rows in two stages, in one order: blocks add some rows each, then the blocks' sums are added up in f64.
//
// How many blocks there are follows from the number of rows, never from the device: the result is the same on all.
#pragma once
#include <algorithm>

#include "cuda/launch.cuh"
#include "tensor/tensor.h"

namespace taper::cuda {

// Blocks for `steps` steps, block i taking i, i + blocks, ...: as many as an H100 holds at once, if a multiprocessor
// holds `resident`, and at most 128 steps for a block, so that sums in f32 stay short.
inline int64_t partial_sums(int64_t steps, int resident) {
  return std::max({std::min<int64_t>(steps, 132 * resident), (steps + 127) / 128, int64_t(1)});
}

template <class A, class To>
__global__ void __launch_bounds__(1024) add_partials_kernel(const A* g_partial,  // [partials,columns]
                                                            To to, int64_t partials, int64_t columns) {
  __shared__ double s_sum[32][33];  // [warp][column]
  const int64_t column = int64_t(blockIdx.x) * 32 + threadIdx.x;
  double r_sum = 0;
  if (column < columns)
#pragma unroll 4
    for (int64_t i = threadIdx.y; i < partials; i += 32) r_sum += double(g_partial[i * columns + column]);
  s_sum[threadIdx.y][threadIdx.x] = r_sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= columns) return;
  for (int w = 1; w < 32; ++w) r_sum += s_sum[w][threadIdx.x];
  to(column, r_sum);
}

// Calls to(column, sum) for each column of partial [partials,columns].
template <class A, class To>
void add_partials(const Tensor& partial, To to) {
  const int64_t columns = partial.size(1);
  if (columns == 0) return;
  add_partials_kernel<A><<<blocks_for(columns, 32), dim3(32, 32), 0, stream_of(partial.device())>>>(
      partial.data<A>(), to, partial.size(0), columns);
  cuda_check(cudaGetLastError());
}

template <class A>
struct ToArray {
  A* g;
  __device__ void operator()(int64_t column, double sum) const { g[column] = A(sum); }
};

// 32 columns a block; 8 threads a column, each taking every eighth of the block's rows; then the eight in order.
template <class A, class Term>
__global__ void __launch_bounds__(256) column_partials_kernel(Term term, A* g_partial, int64_t rows, int64_t columns) {
  __shared__ A s_sum[8][32];
  const int64_t column = int64_t(blockIdx.x) * 32 + threadIdx.x;
  A sum = 0;
  if (column < columns)
#pragma unroll 4
    for (int64_t row = blockIdx.y * 8 + threadIdx.y; row < rows; row += gridDim.y * 8) sum += term(row, column);
  s_sum[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= columns) return;
  for (int i = 1; i < 8; ++i) sum += s_sum[i][threadIdx.x];
  g_partial[blockIdx.y * columns + column] = sum;
}

// The plain way: to(column, sum over rows of term(row, column)).
template <class A, class Term, class To>
void column_sums(Device& device, Term term, To to, int64_t rows, int64_t columns) {
  if (columns == 0) return;
  const int64_t partials = std::clamp<int64_t>((rows + 127) / 128, 1, 65535);
  const Tensor partial(device, {partials, columns}, dtype_of<A>());
  column_partials_kernel<A><<<dim3(blocks_for(columns, 32), unsigned(partials)), dim3(32, 8), 0, stream_of(device)>>>(
      term, partial.data<A>(), rows, columns);
  cuda_check(cudaGetLastError());
  add_partials<A>(partial, to);
}

}  // namespace taper::cuda
