// position_taper on CUDA: one thread per element forward, sums over rows in two stages backward.
//   grid     forward B*T*H/256 blocks of 256; backward (H/32, B*T/128) blocks of 32 x 8
//   traffic  forward writes B*T*H; backward reads s and d_s once: [8,2048,24] in f32 is 2 MB a tensor, launch bound
//   limits   f32 f64; any B T H; sums in f64, in one order
//   ceiling  HBM bandwidth forward; the f64 logarithm backward
#include "tensor/ops/position_taper.h"

#include "cuda/sums.cuh"
#include "cuda/launch.cuh"

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
struct LogTimesGradient {  // what element (row, h) gives to d_alpha_h
  const T *g_s, *g_d_s;  // [B,T,H]
  PackingView packing;
  double reference;
  int64_t H;
  __device__ double operator()(int64_t row, int64_t h) const {
    const double log_n = log(double(packing.position(row / packing.T, row % packing.T)) / reference);
    return -log_n * double(g_s[row * H + h]) * double(g_d_s[row * H + h]);
  }
};

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
    cuda::column_sums(a.device(),
                      LogTimesGradient<T>{a.s.data<T>(), a.d_s.data<T>(), PackingView(a.packing, a.s.size(1)), a.reference, H},
                      cuda::ToArray<T>{a.d_alpha.data<T>()}, rows, H);
  });
}

const Implement f{position_taper_forward, DeviceKind::cuda, forward};
const Implement b{position_taper_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
