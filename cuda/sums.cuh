// Sums over rows and over a whole tensor, in one order: blocks add some rows or elements each, then the blocks' sums are added
// up in f64 by their number. Both may write elements on the way, so that a backward reads its inputs once.
//
// How many blocks there are follows from the tensor's size, never from the device: the result is the same on all.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "tensor/tensor.h"

namespace taper::cuda {

constexpr int sum_threads = 256;

// ---- the blocks' sums ----

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

template <class T>
struct ToArray {
  T* g;
  __device__ void operator()(int64_t column, double sum) const { g[column] = T(Acc<T>(sum)); }
};
// The first D columns and the D after them; either array may be absent.
template <class T>
struct ToTwo {
  T *g_first, *g_second;
  int64_t D;
  __device__ void operator()(int64_t column, double sum) const {
    T* g = column < D ? g_first : g_second;
    if (g) g[column < D ? column : column - D] = T(Acc<T>(sum));
  }
};

// ---- over rows ----

// A tensor is [rows, vectors * n]; the struct Rows holds it and has
//   template <int n> __device__ void add(int64_t row, int64_t j, double (&sum)[sums][n]) const;
// which adds elements j .. j+n-1 of a row to the thread's sums, and may write.
// A block has 32 neighbouring vectors (or all, if fewer) and some rows, which its threads take in turn; the blocks are all at
// work at once on 132 multiprocessors, four on each.
constexpr int64_t column_blocks = 528;

template <int sums, int n, class Rows>
__global__ __launch_bounds__(sum_threads) void column_sums_kernel(Rows rows_of, double* g_part,  // [blocks,sums,vectors*n]
                                                                  int64_t rows, int64_t vectors, int64_t rows_each) {
  const int across = vectors < 32 ? int(vectors) : 32, deep = sum_threads / across;
  const int x = int(threadIdx.x) % across, y = int(threadIdx.x) / across;
  const int64_t vector = int64_t(blockIdx.x) * across + x;
  const int64_t end = min(rows, (int64_t(blockIdx.y) + 1) * rows_each);
  double r_sum[sums][n] = {};
  if (y < deep && vector < vectors)
    for (int64_t row = int64_t(blockIdx.y) * rows_each + y; row < end; row += deep)
      rows_of.template add<n>(row, vector * n, r_sum);

  __shared__ double s_sum[sum_threads][n];
#pragma unroll
  for (int s = 0; s < sums; ++s) {
    __syncthreads();
#pragma unroll
    for (int k = 0; k < n; ++k) s_sum[threadIdx.x][k] = r_sum[s][k];
    __syncthreads();
    for (int e = int(threadIdx.x); e < across * n; e += sum_threads) {
      const int64_t at = int64_t(blockIdx.x) * across * n + e;
      if (at >= vectors * n) continue;
      double sum = 0;
      for (int d = 0; d < deep; ++d) sum += s_sum[d * across + e / n][e % n];
      g_part[(int64_t(blockIdx.y) * sums + s) * vectors * n + at] = sum;
    }
  }
}

// The blocks' sums [blocks, sums * columns]. n divides columns, which is not 0.
template <int sums, int n, class Rows>
Tensor column_partials(Device& device, int64_t rows, int64_t columns, const Rows& rows_of) {
  const int64_t vectors = columns / n, across = std::min<int64_t>(vectors, 32), deep = sum_threads / across;
  const int64_t wide = (vectors + across - 1) / across;
  const int64_t blocks = std::min(std::max<int64_t>(1, column_blocks / wide), (rows + deep - 1) / deep);
  const int64_t rows_each = blocks > 0 ? (rows + blocks - 1) / blocks : 1;
  const int64_t high = std::max<int64_t>(1, (rows + rows_each - 1) / rows_each);
  const Tensor parts(device, {high, sums * columns}, Dtype::f64);
  const dim3 grid(blocks_for(wide, 1), unsigned(high));
  column_sums_kernel<sums, n><<<grid, sum_threads, 0, stream_of(device)>>>(rows_of, parts.data<double>(), rows, vectors, rows_each);
  cuda_check(cudaGetLastError());
  return parts;
}

// The plain way: to(column, sum over rows of term(row, column)).
template <class Term>
struct TermRows {
  Term term;
  template <int n>
  __device__ void add(int64_t row, int64_t j, double (&sum)[1][n]) const {
#pragma unroll
    for (int k = 0; k < n; ++k) sum[0][k] += double(term(row, j + k));
  }
};
template <class Term, class To>
void column_sums(Device& device, Term term, To to, int64_t rows, int64_t columns) {
  if (columns > 0) add_partials<double>(column_partials<1, 1>(device, rows, columns, TermRows<Term>{term}), to);
}

// ---- over all elements ----

// The struct Elements has
//   template <int n> __device__ double add(int64_t i) const;    the sum of elements i .. i+n-1; may write
constexpr int total_vectors = 16;  // a thread's

template <int n, class Elements>
__global__ __launch_bounds__(sum_threads) void total_kernel(Elements elements, double* g_part, int64_t numel) {  // [blocks]
  const int64_t begin = int64_t(blockIdx.x) * total_vectors * sum_threads * n;
  double r_sum = 0;
#pragma unroll 4
  for (int v = 0; v < total_vectors; ++v) {
    const int64_t i = begin + (int64_t(v) * sum_threads + threadIdx.x) * n;
    if (i + n <= numel) r_sum += elements.template add<n>(i);
    else for (int64_t k = i; k < numel; ++k) r_sum += elements.template add<1>(k);
  }
  const double sum = block_sum<sum_threads>(r_sum);
  if (threadIdx.x == 0) g_part[blockIdx.x] = sum;
}

// to [] = T(factor * the sum of g_part[0 .. parts-1])
template <class T>
__global__ __launch_bounds__(1024) void sum_total_kernel(const double* g_part, T* g_to, int64_t parts, double factor) {
  double r_sum = 0;
  for (int64_t p = threadIdx.x; p < parts; p += 1024) r_sum += g_part[p];
  const double sum = block_sum<1024>(r_sum);
  if (threadIdx.x == 0) *g_to = T(Acc<T>(factor * sum));
}

template <class T, int n, class Elements>
void sum_total(Device& device, int64_t numel, bool vectors, const Elements& elements, T* to, double factor = 1) {
  const int64_t each = int64_t(total_vectors) * sum_threads * (vectors ? n : 1), blocks = (numel + each - 1) / each;
  const Tensor parts(device, {blocks}, Dtype::f64);
  if (blocks > 0) {
    if (vectors) total_kernel<n><<<blocks_for(blocks, 1), sum_threads, 0, stream_of(device)>>>(elements, parts.data<double>(), numel);
    else total_kernel<1><<<blocks_for(blocks, 1), sum_threads, 0, stream_of(device)>>>(elements, parts.data<double>(), numel);
    cuda_check(cudaGetLastError());
  }
  sum_total_kernel<T><<<1, 1024, 0, stream_of(device)>>>(parts.data<double>(), to, blocks, factor);
  cuda_check(cudaGetLastError());
}

}  // namespace taper::cuda
