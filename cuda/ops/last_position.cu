// last_position on CUDA: one thread per row.
//   grid     B/256 blocks of 256
//   traffic  20 bytes a row
//   limits   any B and T >= 1
//   ceiling  the launch
#include "tensor/ops/last_position.h"

#include "cuda/launch.cuh"

namespace taper::kernels {
namespace {

__global__ void last_position_kernel(PackingView packing, int64_t* g_y, int64_t B) {
  const int64_t b = cuda::thread_index();
  if (b < B) g_y[b] = packing.position(b, packing.T - 1);
}

void forward(const LastPosition& a) {
  const int64_t B = a.y.numel();
  if (B == 0) return;
  last_position_kernel<<<cuda::blocks_for(B, 256), 256, 0, cuda::stream_of(a.device())>>>(PackingView(a.packing, a.T),
                                                                                         a.y.data<int64_t>(), B);
  cuda::cuda_check(cudaGetLastError());
}

const Implement f{last_position, DeviceKind::cuda, forward};

}  // namespace
}  // namespace taper::kernels
