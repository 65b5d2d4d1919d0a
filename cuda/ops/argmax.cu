// argmax on CUDA: a warp per row, of few rows 32; each lane keeps the best of its columns, then the lanes compare.
//   grid     rows/8 blocks of 256 threads; up to 512 rows, as where tokens are chosen one by one: a block of 1024 each, since
//            a lone warp would wait for memory 500 times in a row of 128256
//   traffic  x read once: 16384 x 8192 in f32 0.54 GB, 0.18 ms
//   limits   f32 f64 bf16, any V
//   ceiling  HBM; a comparison an element
#include "tensor/ops/argmax.h"

#include "cuda/launch.cuh"

namespace taper::kernels {
namespace {

constexpr int64_t few_rows = 512;

// Whether (value, index) goes before (most, best): larger, or as large and further left; a NaN goes before nothing but a NaN.
template <class A>
__device__ bool before(A value, int32_t index, A most, int32_t best) {
  const bool nan = value != value, other = most != most;
  if (nan || other) return nan == other ? index < best : other;
  return value > most || (value == most && index < best);
}

// The best of a warp's lanes, to lane 0.
template <class A>
__device__ void best_of_warp(A& most, int32_t& best) {
  for (int far = 16; far > 0; far /= 2) {
    const A value = __shfl_down_sync(0xffffffffu, most, far);
    const int32_t index = __shfl_down_sync(0xffffffffu, best, far);
    if (before(value, index, most, best)) most = value, best = index;
  }
}

template <class T, int warps>  // of a row
__global__ __launch_bounds__(warps == 1 ? 256 : 32 * warps) void argmax_kernel(const T* g_x,  // [rows,V]
                                                                               int32_t* g_y,  // [rows]
                                                                               int64_t rows, int64_t V, int32_t among) {
  using A = Acc<T>;
  constexpr int threads = 32 * warps;
  const int thread = threadIdx.x % threads, lane = threadIdx.x % 32, warp = thread / 32;
  const int64_t row = int64_t(blockIdx.x) * (blockDim.x / threads) + threadIdx.x / threads;
  if (row >= rows) return;
  const T* g_row = g_x + row * V;
  int32_t best = thread < among ? thread : 0;
  A most(g_row[best]);
#pragma unroll 8
  for (int64_t v = thread + threads; v < among; v += threads) {
    const A value(g_row[v]);
    if (before(value, int32_t(v), most, best)) most = value, best = int32_t(v);
  }
  best_of_warp(most, best);
  if constexpr (warps > 1) {
    static_assert(warps == 32, "one warp compares them");
    __shared__ A s_most[warps];
    __shared__ int32_t s_best[warps];
    if (lane == 0) s_most[warp] = most, s_best[warp] = best;
    __syncthreads();
    if (warp > 0) return;
    most = s_most[lane], best = s_best[lane];
    best_of_warp(most, best);
  }
  if (thread == 0) g_y[row] = best;
}

void forward(const Argmax& a) {
  const int64_t rows = a.y.numel(), V = a.x.size(-1);
  if (rows == 0) return;
  visit<float, double, bf16>("argmax", a.x.dtype(), [&]<class T>() {
    const auto launch = [&]<int warps>(int64_t rows_of_block, int threads) {
      argmax_kernel<T, warps><<<cuda::blocks_for(rows, rows_of_block), threads, 0, cuda::stream_of(a.device())>>>(
          a.x.data<T>(), a.y.data<int32_t>(), rows, V, int32_t(a.looked_at()));
      cuda::cuda_check(cudaGetLastError());
    };
    if (rows <= few_rows) launch.template operator()<32>(1, 1024);
    else launch.template operator()<1>(8, 256);
  });
}

const Implement f{argmax, DeviceKind::cuda, forward};

}  // namespace
}  // namespace taper::kernels
