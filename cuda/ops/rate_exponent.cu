// rate_exponent on CUDA: one block, and two sums over it.
//   grid     1 block of 256
//   traffic  some kilobytes: N is at most the model's width
//   limits   f32 f64, any N; sums in f64
//   ceiling  the launch
#include "tensor/ops/rate_exponent.h"

#include <cmath>

#include "cuda/exponents.cuh"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256;

template <class T>
__device__ double raw(const T* g_p, double log_length, int64_t k, int64_t N) {
  const double first = double(g_p[0]);
  return cuda::raw_exponent(double(g_p[k]) - first, double(g_p[N - 1]) - first, log_length, k, N);
}

template <class T>
__global__ void rate_exponent_forward_kernel(const T* g_p, T* g_alpha, double log_length, int64_t N) {  // [N], [N]
  for (int64_t k = threadIdx.x; k < N; k += threads) g_alpha[k] = T(cuda::clamped(raw(g_p, log_length, k, N)));
}

template <class T>
__global__ __launch_bounds__(threads) void rate_exponent_backward_kernel(const T* g_p, const T* g_d_alpha, T* g_d_p,  // [N] each
                                                                         double log_length, int64_t N) {
  double first = 0, last = 0;  // of this thread's k; then of all, in the order of a tree over the threads
  for (int64_t k = 1 + threadIdx.x; k < N - 1; k += threads) {
    const double d = cuda::through_clamp(raw(g_p, log_length, k, N), double(g_d_alpha[k]), log_length, k, N);
    g_d_p[k] = T(d);
    first -= d * double(N - 1 - k);
    last -= d * double(k);
  }
  first = cuda::block_sum<threads>(first);
  last = cuda::block_sum<threads>(last);
  if (threadIdx.x != 0) return;
  g_d_p[0] = T(N > 1 ? first / double(N - 1) : 0);
  if (N > 1) g_d_p[N - 1] = T(last / double(N - 1));
}

void forward(const RateExponentForward& a) {
  visit<float, double>("rate_exponent", a.p.dtype(), [&]<class T>() {
    rate_exponent_forward_kernel<T><<<1, threads, 0, cuda::stream_of(a.device())>>>(a.p.data<T>(), a.alpha.data<T>(), std::log(a.train_length),
                                                                                  a.p.numel());
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const RateExponentBackward& a) {
  visit<float, double>("rate_exponent", a.p.dtype(), [&]<class T>() {
    rate_exponent_backward_kernel<T><<<1, threads, 0, cuda::stream_of(a.device())>>>(
        a.p.data<T>(), a.d_alpha.data<T>(), a.d_p.data<T>(), std::log(a.train_length), a.p.numel());
    cuda::cuda_check(cudaGetLastError());
  });
}

const Implement f{rate_exponent_forward, DeviceKind::cuda, forward};
const Implement b{rate_exponent_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
