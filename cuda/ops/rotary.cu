// rotary on CUDA: a block for each token; a thread makes the angle of a pair once and turns that pair in every head.
//   grid     B*T blocks of 64 or 128 threads
//   traffic  x read once, y written once: [8,2048,3,256] in bf16: 50 MB, 17 us
//   limits   f32 f64 bf16; any even K; angles in f64
//   ceiling  f64 arithmetic: B*T*K/2 sines and cosines, 2.1e6 for that shape, some 100 operations each: 15 us
#include "tensor/ops/rotary.h"

#include "cuda/launch.cuh"

namespace taper::kernels {
namespace {

template <class T>
__global__ void rotary_kernel(const T* g_x, T* g_y,     // [B,T,H,K]
                              const double* g_rate,     // [K/2]
                              PackingView packing, int64_t H, int64_t K, bool back) {
  using A = Acc<T>;
  const int64_t i = blockIdx.x, half = K / 2;
  const double position = double(packing.position(i / packing.T, i % packing.T) - 1);
  for (int64_t n = threadIdx.x; n < half; n += blockDim.x) {
    double sine, cosine;
    sincos(position * g_rate[n], &sine, &cosine);
    const A c = A(cosine), s = A(back ? -sine : sine);
    for (int64_t h = 0; h < H; ++h) {
      const int64_t at = (i * H + h) * K + n;
      const A low = A(g_x[at]), high = A(g_x[at + half]);
      g_y[at] = T(low * c - high * s);
      g_y[at + half] = T(low * s + high * c);
    }
  }
}

__global__ void rotary_rate_kernel(double* g_rate, double base, int64_t K) {  // [K/2]
  const int64_t n = cuda::thread_index();
  if (n < K / 2) g_rate[n] = pow(base, -2.0 * double(n) / double(K));
}

void turn(const Rotary& a) {
  visit<float, double, bf16>("rotary", a.x.dtype(), [&]<class T>() {
    const int64_t B = a.x.size(0), steps = a.x.size(1), H = a.x.size(2), K = a.x.size(3);
    if (a.x.numel() == 0) return;
    const cudaStream_t stream = cuda::stream_of(a.device());
    const Tensor rate(a.device(), {K / 2}, Dtype::f64);
    rotary_rate_kernel<<<cuda::blocks_for(K / 2, 128), 128, 0, stream>>>(rate.data<double>(), a.base, K);
    cuda::cuda_check(cudaGetLastError());
    rotary_kernel<T><<<cuda::blocks_for(B * steps, 1), K > 128 ? 128 : 64, 0, stream>>>(
        a.x.data<T>(), a.y.data<T>(), rate.data<double>(), PackingView(a.packing, steps), H, K, a.back);
    cuda::cuda_check(cudaGetLastError());
  });
}

const Implement t{rotary_turn, DeviceKind::cuda, turn};

}  // namespace
}  // namespace taper::kernels
