// argmax on CUDA: a warp per row; each lane keeps the best of its columns, then the lanes compare.
//   grid     rows/8 blocks of 256 threads
//   traffic  x read once: 16384 x 8192 in f32 0.54 GB, 0.18 ms
//   limits   f32 f64 bf16, any V
//   ceiling  HBM; a comparison an element
#include "tensor/ops/argmax.h"

#include "cuda/launch.cuh"

namespace taper::kernels {
namespace {

// Whether (value, index) goes before (most, best): larger, or as large and further left; a NaN goes before nothing but a NaN.
template <class A>
__device__ bool before(A value, int32_t index, A most, int32_t best) {
  const bool nan = value != value, other = most != most;
  if (nan || other) return nan == other ? index < best : other;
  return value > most || (value == most && index < best);
}

template <class T>
__global__ __launch_bounds__(256) void argmax_kernel(const T* g_x,   // [rows,V]
                                                     int32_t* g_y,   // [rows]
                                                     int64_t rows, int32_t V) {
  using A = Acc<T>;
  const int lane = threadIdx.x % 32;
  const int64_t row = int64_t(blockIdx.x) * 8 + threadIdx.x / 32;
  if (row >= rows) return;
  const T* g_row = g_x + row * V;
  int32_t best = lane < V ? lane : 0;
  A most(g_row[best]);
#pragma unroll 8
  for (int64_t v = lane + 32; v < V; v += 32) {
    const A value(g_row[v]);
    if (before(value, int32_t(v), most, best)) most = value, best = int32_t(v);
  }
  for (int far = 16; far > 0; far /= 2) {
    const A value = __shfl_xor_sync(0xffffffffu, most, far);
    const int32_t index = __shfl_xor_sync(0xffffffffu, best, far);
    if (before(value, index, most, best)) most = value, best = index;
  }
  if (lane == 0) g_y[row] = best;
}

void forward(const Argmax& a) {
  const int64_t rows = a.y.numel();
  if (rows == 0) return;
  visit<float, double, bf16>("argmax", a.x.dtype(), [&]<class T>() {
    argmax_kernel<<<cuda::blocks_for(rows, 8), 256, 0, cuda::stream_of(a.device())>>>(a.x.data<T>(), a.y.data<int32_t>(), rows, int32_t(a.x.size(-1)));
    cuda::cuda_check(cudaGetLastError());
  });
}

const Implement f{argmax, DeviceKind::cuda, forward};

}  // namespace
}  // namespace taper::kernels
