// Sums over a whole tensor and over its rows, in f64 and in one order: each block writes its part into a slot of its own, a
// second kernel adds the slots by their number. Both may write elements on the way, so that a backward reads its inputs once.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "tensor/tensor.h"

namespace taper::cuda {

constexpr int sum_threads = 256;

// to[j] = T(factor * sum of g_part[p,j] over p), p by rising number within each of 8 lanes, then the lanes in a tree.
constexpr int slot_columns = 32, slot_lanes = 8;

template <class T>
__global__ __launch_bounds__(slot_columns* slot_lanes) void sum_slots_kernel(const double* g_part,  // [slots,stride]
                                                                             T* g_to,               // [columns]
                                                                             int64_t slots, int64_t stride, int64_t columns,
                                                                             double factor) {
  const int column = int(threadIdx.x) % slot_columns, lane = int(threadIdx.x) / slot_columns;
  const int64_t j = int64_t(blockIdx.x) * slot_columns + column;
  double r_sum = 0;
  if (j < columns)
    for (int64_t p = lane; p < slots; p += slot_lanes) r_sum += g_part[p * stride + j];
  __shared__ double s_sum[slot_lanes][slot_columns];
  s_sum[lane][column] = r_sum;
  for (int half = slot_lanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) s_sum[lane][column] += s_sum[lane + half][column];
  }
  if (lane == 0 && j < columns) g_to[j] = T(Acc<T>(factor * s_sum[0][column]));
}

// parts [slots,stride]; `to` takes the sums of columns first .. first + to.numel() - 1.
template <class T>
void sum_slots(const Tensor& parts, int64_t first, const Tensor& to, double factor = 1) {
  if (to.numel() == 0) return;
  sum_slots_kernel<T><<<blocks_for(to.numel(), slot_columns), slot_columns * slot_lanes, 0, stream_of(to.device())>>>(
      parts.data<double>() + first, to.data<T>(), parts.size(0), parts.size(1), to.numel(), factor);
  cuda_check(cudaGetLastError());
}

// Sums over rows. A tensor is [rows, vectors * n]; the struct Rows holds it and has
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

// The slots [blocks, sums * columns]. n divides columns, which is not 0.
template <int sums, int n, class Rows>
Tensor column_slots(Device& device, int64_t rows, int64_t columns, const Rows& rows_of) {
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

// A sum over all elements: the struct Elements has
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

// to [] = T(factor * the sum of g_part[0 .. slots-1])
template <class T>
__global__ __launch_bounds__(1024) void sum_total_kernel(const double* g_part, T* g_to, int64_t slots, double factor) {
  double r_sum = 0;
  for (int64_t p = threadIdx.x; p < slots; p += 1024) r_sum += g_part[p];
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
