// copy on CUDA: columns in the widest units that fit, a transpose through tiles in shared memory.
//   grid     columns: a thread per column of units and up to 4 rows, blocks of 256; transpose: a block of 256 per tile
//   traffic  each element read once, written once, a transpose in 64-byte pieces or larger: split of 16384 x 3352 in bf16
//            220 MB, 73 us
//   limits   any dtype and size. A unit has 16, 8, 4 or 2 bytes: the largest that divides offsets, widths and rows
//   ceiling  HBM
#include "tensor/ops/copy.h"

#include "cuda/launch.cuh"
#include "cuda/vector.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256, rows_each = 4;

template <class Unit>
__global__ __launch_bounds__(threads) void copy_columns_kernel(const Unit* g_from,  // [rows,from_row], from its first column on
                                                               Unit* g_to,          // [rows,to_row]
                                                               int64_t rows, int64_t width, int64_t from_row, int64_t to_row) {
  // Thread (r, j) moves column j of rows r, r + step, ...: neighbours in j are neighbours in memory.
  const int64_t step = (rows + rows_each - 1) / rows_each, i = cuda::thread_index();
  if (i >= step * width) return;
  const int64_t row = i / width, j = i - row * width;
  Unit r_unit[rows_each];
#pragma unroll
  for (int k = 0; k < rows_each; ++k)
    if (row + k * step < rows) r_unit[k] = g_from[(row + k * step) * from_row + j];
#pragma unroll
  for (int k = 0; k < rows_each; ++k)
    if (row + k * step < rows) g_to[(row + k * step) * to_row + j] = r_unit[k];
}

template <class Unit>
void copy_units(const CopyColumns& a, const char* from, char* to, int64_t rows, int64_t width, int64_t from_row, int64_t to_row) {
  constexpr int64_t size = sizeof(Unit);
  const int64_t units = width / size * ((rows + rows_each - 1) / rows_each);
  copy_columns_kernel<Unit><<<cuda::blocks_for(units, threads), threads, 0, cuda::stream_of(a.device())>>>(
      reinterpret_cast<const Unit*>(from), reinterpret_cast<Unit*>(to), rows, width / size, from_row / size, to_row / size);
  cuda::cuda_check(cudaGetLastError());
}

void columns(const CopyColumns& a) {
  const int64_t size = int64_t(size_of(a.from.dtype()));
  const int64_t from_row = size * a.from.size(-1), to_row = size * a.to.size(-1), width = size * a.width;
  if (width == 0 || a.from.numel() == 0) return;
  const int64_t rows = a.from.numel() / a.from.size(-1);
  const char* from = static_cast<const char*>(a.from.data<void>()) + size * a.from_column;
  char* to = static_cast<char*>(a.to.data<void>()) + size * a.to_column;
  // Every address is a sum of these: what divides them all divides it.
  const int64_t all = from_row | to_row | width | int64_t(reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to));
  if (all % 16 == 0) copy_units<cuda::Vector<uint32_t, 4>>(a, from, to, rows, width, from_row, to_row);
  else if (all % 8 == 0) copy_units<cuda::Vector<uint32_t, 2>>(a, from, to, rows, width, from_row, to_row);
  else if (all % 4 == 0) copy_units<uint32_t>(a, from, to, rows, width, from_row, to_row);
  else copy_units<uint16_t>(a, from, to, rows, width, from_row, to_row);
}

// A tile is 32 x 32 elements, of 2 bytes 64 x 64: its rows are read along C, its columns written along R.
template <class T>
__global__ __launch_bounds__(threads) void transpose_kernel(const T* g_from,  // [matrices,R,C]
                                                            T* g_to,          // [matrices,C,R]
                                                            int64_t R, int64_t C, int64_t tiles_down, int64_t tiles_across) {
  constexpr int tile = sizeof(T) == 2 ? 64 : 32;
  __shared__ T s_tile[tile][tile + 1];  // + 1: a column lies in different banks
  const int64_t down = blockIdx.x / tiles_across % tiles_down, across = blockIdx.x % tiles_across;
  const int64_t matrix = blockIdx.x / tiles_across / tiles_down, i0 = down * tile, j0 = across * tile;
  const T* g_x = g_from + matrix * R * C;
  T* g_y = g_to + matrix * R * C;
#pragma unroll
  for (int e = int(threadIdx.x); e < tile * tile; e += threads) {
    const int i = e / tile, j = e % tile;
    if (i0 + i < R && j0 + j < C) s_tile[i][j] = g_x[(i0 + i) * C + j0 + j];
  }
  __syncthreads();
#pragma unroll
  for (int e = int(threadIdx.x); e < tile * tile; e += threads) {
    const int i = e % tile, j = e / tile;
    if (i0 + i < R && j0 + j < C) g_y[(j0 + j) * R + i0 + i] = s_tile[i][j];
  }
}

template <class T>
void transpose_as(const Transpose& a) {
  if (a.from.numel() == 0) return;
  constexpr int64_t tile = sizeof(T) == 2 ? 64 : 32;
  const int64_t R = a.from.size(-2), C = a.from.size(-1), down = (R + tile - 1) / tile, across = (C + tile - 1) / tile;
  const auto* from = static_cast<const T*>(a.from.data<void>());
  transpose_kernel<T><<<cuda::blocks_for(a.from.numel() / (R * C) * down * across, 1), threads, 0, cuda::stream_of(a.device())>>>(
      from, static_cast<T*>(a.to.data<void>()), R, C, down, across);
  cuda::cuda_check(cudaGetLastError());
}

void transposed(const Transpose& a) {
  switch (size_of(a.from.dtype())) {
    case 2: return transpose_as<uint16_t>(a);
    case 4: return transpose_as<uint32_t>(a);
    default: return transpose_as<uint64_t>(a);
  }
}

const Implement c{copy_columns, DeviceKind::cuda, columns};
const Implement t{transpose, DeviceKind::cuda, transposed};

}  // namespace
}  // namespace taper::kernels
