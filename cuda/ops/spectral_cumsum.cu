// spectral_cumsum on CUDA: one block; the scalar functions side by side, the sums by one thread in the order of the rates.
//   grid     1 block of 256
//   traffic  some kilobytes: N is at most the model's width
//   limits   f32 f64, any N; sums in f64
//   ceiling  the latency of N f64 additions, one after the other: 768 of them take about 5 us
#include "tensor/ops/spectral_cumsum.h"

#include "cuda/launch.cuh"
#include "tensor/vector_math.h"

namespace taper::kernels {
namespace {

constexpr int threads = 256;

template <class T>
__global__ void spectral_cumsum_forward_kernel(const T* g_theta, const T* g_delta,  // [], [N-1]
                                               T* g_p,                              // [N]
                                               double* g_gap,                       // [N-1] softplus(delta)
                                               int64_t N) {
  for (int64_t j = threadIdx.x; j < N - 1; j += threads) g_gap[j] = math::softplus(double(g_delta[j]));
  __syncthreads();
  if (threadIdx.x != 0) return;
  double sum = double(*g_theta);
  g_p[0] = T(sum);
  for (int64_t j = 0; j < N - 1; ++j) g_p[j + 1] = T(sum += g_gap[j]);
}

template <class T>
__global__ void spectral_cumsum_backward_kernel(const T* g_delta, const T* g_d_p,  // [N-1], [N]
                                                T* g_d_theta, T* g_d_delta,        // [], [N-1]
                                                double* g_suffix,                  // [N]
                                                int64_t N) {
  if (threadIdx.x == 0) {
    double sum = 0;
    for (int64_t k = N - 1; k >= 0; --k) g_suffix[k] = sum += double(g_d_p[k]);
    *g_d_theta = T(sum);
  }
  __syncthreads();
  for (int64_t j = threadIdx.x; j < N - 1; j += threads) g_d_delta[j] = T(math::sigmoid(double(g_delta[j])) * g_suffix[j + 1]);
}

void forward(const SpectralCumsumForward& a) {
  visit<float, double>("spectral_cumsum", a.p.dtype(), [&]<class T>() {
    const int64_t N = a.p.numel();
    const Tensor gap(a.device(), {N}, Dtype::f64);
    spectral_cumsum_forward_kernel<T><<<1, threads, 0, cuda::stream_of(a.device())>>>(a.theta.data<T>(), a.delta.data<T>(), a.p.data<T>(),
                                                                                    gap.data<double>(), N);
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const SpectralCumsumBackward& a) {
  visit<float, double>("spectral_cumsum", a.d_p.dtype(), [&]<class T>() {
    const int64_t N = a.d_p.numel();
    const Tensor suffix(a.device(), {N}, Dtype::f64);
    spectral_cumsum_backward_kernel<T><<<1, threads, 0, cuda::stream_of(a.device())>>>(
        a.delta.data<T>(), a.d_p.data<T>(), a.d_theta.data<T>(), a.d_delta.data<T>(), suffix.data<double>(), N);
    cuda::cuda_check(cudaGetLastError());
  });
}

const Implement f{spectral_cumsum_forward, DeviceKind::cuda, forward};
const Implement b{spectral_cumsum_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
