// Elementwise maps: each element is read, computed and written once, in vectors where memory allows and one by one where not.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/mma.cuh"
#include "cuda/vector.cuh"
#include "tensor/tensor.h"

namespace taper::cuda {

template <int n, class T>
__device__ inline Vector<T, n> load(const T* p) {
  return *reinterpret_cast<const Vector<T, n>*>(p);
}

// Rounds n numbers to T and stores them with one access.
template <class T, int n>
__device__ inline void store(T* p, const Acc<T> (&x)[n]) {
  if constexpr (std::is_same_v<T, bf16> && n % 2 == 0) {
    Vector<uint32_t, n / 2> packed;
#pragma unroll
    for (int k = 0; k < n / 2; ++k) packed.at[k] = pack_bf16(x[2 * k], x[2 * k + 1]);
    *reinterpret_cast<Vector<uint32_t, n / 2>*>(p) = packed;
  } else {
    Vector<T, n> v;
#pragma unroll
    for (int k = 0; k < n; ++k) v.at[k] = T(x[k]);
    *reinterpret_cast<Vector<T, n>*>(p) = v;
  }
}

// How many elements of the smallest type of Ts fill 16 bytes: what a thread of a map holds of each tensor.
template <class... Ts>
inline constexpr int vector_width = 16 / int(std::min({sizeof(Ts)...}));

// True if n elements from p on may move together (a wider vector moves in several accesses of 16 bytes). Null: yes.
template <class T>
bool aligned(int n, const T* p) {
  return reinterpret_cast<uintptr_t>(p) % (sizeof(T) * size_t(n)) == 0;
}

// A map is a struct of what it reads and writes, with
//   template <int n> __device__ auto read(int64_t i) const;                   elements i .. i+n-1 into registers
//   template <int n, class R> __device__ void write(int64_t i, R r) const;    computes and stores them
// Each thread has two vectors, both read before one is written: loads in flight hide each other's latency.
constexpr int map_threads = 256;

template <int n, class Map>
__global__ __launch_bounds__(map_threads) void map_kernel(Map map, int64_t numel) {
  const int64_t i = (int64_t(blockIdx.x) * 2 * map_threads + threadIdx.x) * n, j = i + map_threads * n;
  if (j + n <= numel) {
    const auto first = map.template read<n>(i), second = map.template read<n>(j);
    map.template write<n>(i, first);
    map.template write<n>(j, second);
    return;
  }
  for (int64_t from = i; from <= j; from += j - i) {
    if (from + n <= numel) map.template write<n>(from, map.template read<n>(from));
    else for (int64_t k = from; k < numel; ++k) map.template write<1>(k, map.template read<1>(k));  // the tail
  }
}

// Runs the map over numel elements, n together if `vectors`.
template <int n, class Map>
void run_map(Device& device, int64_t numel, bool vectors, const Map& map) {
  if (numel == 0) return;
  if (vectors) map_kernel<n><<<blocks_for(numel, 2 * map_threads * n), map_threads, 0, stream_of(device)>>>(map, numel);
  else map_kernel<1><<<blocks_for(numel, 2 * map_threads), map_threads, 0, stream_of(device)>>>(map, numel);
  cuda_check(cudaGetLastError());
}

}  // namespace taper::cuda
