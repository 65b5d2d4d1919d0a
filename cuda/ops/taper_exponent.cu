// taper_exponent on CUDA: one block; the scalar functions side by side, the sums by one thread in the order of the rates.
//   grid     1 block of 256
//   traffic  some kilobytes: N is at most the model's width
//   limits   f32 f64, any N; sums in f64
//   ceiling  the latency of N f64 additions, one after the other
#include "tensor/ops/taper_exponent.h"

#include <cmath>

#include "cuda/exponents.cuh"
#include "cuda/launch.cuh"
#include "tensor/vector_math.h"

namespace taper::kernels {
namespace {

constexpr int threads = 256;

// c_k into g_c [N]. Every thread of the block calls it, and sees all of c after.
template <class T>
__device__ void cumulate(const T* g_delta, double* g_c, int64_t N) {
  for (int64_t k = 1 + threadIdx.x; k < N; k += threads) g_c[k] = math::softplus(double(g_delta[k - 1]));
  __syncthreads();
  if (threadIdx.x == 0) {
    double sum = g_c[0] = 0;
    for (int64_t k = 1; k < N; ++k) g_c[k] = sum += g_c[k];
  }
  __syncthreads();
}

template <class T>
__global__ void taper_exponent_forward_kernel(const T* g_delta, T* g_alpha,  // [N-1], [N]
                                              double* g_c,                   // [N]
                                              double log_length, int64_t N) {
  cumulate(g_delta, g_c, N);
  for (int64_t k = threadIdx.x; k < N; k += threads) g_alpha[k] = T(cuda::clamped(cuda::raw_exponent(g_c[k], g_c[N - 1], log_length, k, N)));
}

template <class T>
__global__ void taper_exponent_backward_kernel(const T* g_delta, const T* g_d_alpha,  // [N-1], [N]
                                               T* g_d_delta,                          // [N-1]
                                               double* g_c, double* g_d_c,            // [N]
                                               double log_length, int64_t N) {
  cumulate(g_delta, g_c, N);
  const double total = g_c[N - 1];
  for (int64_t k = threadIdx.x; k < N; k += threads)
    g_d_c[k] = cuda::through_clamp(cuda::raw_exponent(g_c[k], total, log_length, k, N), double(g_d_alpha[k]), log_length, k, N);
  __syncthreads();
  if (threadIdx.x == 0) {
    double weighted = 0, suffix = 0;
    for (int64_t k = 1; k < N - 1; ++k) weighted += double(k) / double(N - 1) * g_d_c[k];
    for (int64_t k = N - 1; k > 0; --k) g_c[k] = (suffix += g_d_c[k]) - weighted;
  }
  __syncthreads();
  for (int64_t j = 1 + threadIdx.x; j < N; j += threads) g_d_delta[j - 1] = T(math::sigmoid(double(g_delta[j - 1])) * g_c[j]);
}

void forward(const TaperExponentForward& a) {
  visit<float, double>("taper_exponent", a.alpha.dtype(), [&]<class T>() {
    const int64_t N = a.alpha.numel();
    const Tensor c(a.device(), {N}, Dtype::f64);
    taper_exponent_forward_kernel<T><<<1, threads, 0, cuda::stream_of(a.device())>>>(a.delta.data<T>(), a.alpha.data<T>(), c.data<double>(),
                                                                                   std::log(a.train_length), N);
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const TaperExponentBackward& a) {
  visit<float, double>("taper_exponent", a.d_alpha.dtype(), [&]<class T>() {
    const int64_t N = a.d_alpha.numel();
    const Tensor c(a.device(), {N}, Dtype::f64), d_c(a.device(), {N}, Dtype::f64);
    taper_exponent_backward_kernel<T><<<1, threads, 0, cuda::stream_of(a.device())>>>(
        a.delta.data<T>(), a.d_alpha.data<T>(), a.d_delta.data<T>(), c.data<double>(), d_c.data<double>(), std::log(a.train_length), N);
    cuda::cuda_check(cudaGetLastError());
  });
}

const Implement f{taper_exponent_forward, DeviceKind::cuda, forward};
const Implement b{taper_exponent_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
