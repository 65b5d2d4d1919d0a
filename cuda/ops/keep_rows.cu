// keep_rows on CUDA: one thread per element, which asks for its row.
//   grid     numel/256 blocks of 256 threads
//   traffic  x read where it is kept, y written: a state of [8,24,128,64] in f32 12.6 MB, 4 us
//   limits   f32 f64 bf16 i64, any shape
//   ceiling  HBM; a division an element, beside one load and one store
#include "tensor/ops/keep_rows.h"

#include "cuda/launch.cuh"

namespace taper::kernels {
namespace {

template <class T>
__global__ void keep_rows_kernel(const T* g_x, const int32_t* g_keep, T* g_y, int64_t numel, int64_t row) {
  const int64_t i = cuda::thread_index();
  if (i < numel) g_y[i] = g_keep[i / row] ? g_x[i] : T();
}

void forward(const KeepRows& a) {
  const int64_t numel = a.x.numel();
  if (numel == 0) return;
  visit<float, double, bf16, int64_t>("keep_rows", a.x.dtype(), [&]<class T>() {
    keep_rows_kernel<<<cuda::blocks_for(numel, 256), 256, 0, cuda::stream_of(a.device())>>>(
        a.x.data<T>(), a.keep.data<int32_t>(), a.y.data<T>(), numel, numel / a.keep.numel());
    cuda::cuda_check(cudaGetLastError());
  });
}

const Implement f{keep_rows, DeviceKind::cuda, forward};

}  // namespace
}  // namespace taper::kernels
