// position_taper on CUDA: one thread per element forward, one block per head backward.
//   grid     forward B*T*H/256 blocks of 256; backward H blocks of 256
//   traffic  forward writes B*T*H; backward reads s and d_s once, in 32-byte sectors that heads share in L2
//   limits   f32 f64; any B T H; sums in f64, in one order
//   ceiling  HBM bandwidth forward; the f64 logarithm backward
#include "tensor/ops/position_taper.h"

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256;

template <class T>
__global__ void position_taper_forward_kernel(const T* g_alpha,     // [H]
                                              T* g_s,               // [B,T,H]
                                              PackingView packing,  // [B,T]
                                              double reference, int64_t numel, int64_t H) {
  const int64_t i = cuda::thread_index();
  if (i >= numel) return;
  const int64_t row = i / H, b = row / packing.T, t = row % packing.T;
  g_s[i] = exp(-g_alpha[i % H] * log(T(double(packing.position(b, t)) / reference)));
}

template <class T>
__global__ void position_taper_backward_kernel(const T* g_s,         // [B,T,H]
                                               const T* g_d_s,       // [B,T,H]
                                               T* g_d_alpha,         // [H]
                                               PackingView packing,  // [B,T]
                                               double reference, int64_t rows, int64_t H) {
  const int64_t h = blockIdx.x;
  double r_sum = 0;
  for (int64_t row = threadIdx.x; row < rows; row += threads) {
    const double log_n = log(double(packing.position(row / packing.T, row % packing.T)) / reference);
    r_sum -= log_n * double(g_s[row * H + h]) * double(g_d_s[row * H + h]);
  }
  const double sum = cuda::block_sum<threads>(r_sum);
  if (threadIdx.x == 0) g_d_alpha[h] = T(sum);
}

void forward(const PositionTaperForward& a) {
  visit<float, double>("position_taper", a.s.dtype(), [&]<class T>() {
    const int64_t numel = a.s.numel();
    if (numel == 0) return;
    position_taper_forward_kernel<T><<<cuda::blocks_for(numel, threads), threads, 0, cuda::stream_of(a.device())>>>(
        a.alpha.data<T>(), a.s.data<T>(), PackingView(a.packing, a.s.size(1)), a.reference, numel, a.s.size(2));
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const PositionTaperBackward& a) {
  visit<float, double>("position_taper", a.s.dtype(), [&]<class T>() {
    const int64_t rows = a.s.size(0) * a.s.size(1), H = a.s.size(2);
    if (H == 0) return;
    position_taper_backward_kernel<T><<<cuda::blocks_for(H, 1), threads, 0, cuda::stream_of(a.device())>>>(
        a.s.data<T>(), a.d_s.data<T>(), a.d_alpha.data<T>(), PackingView(a.packing, a.s.size(1)), a.reference, rows, H);
    cuda::cuda_check(cudaGetLastError());
  });
}

const Implement f{position_taper_forward, DeviceKind::cuda, forward};
const Implement b{position_taper_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
