// taper_exponent on CUDA: one block; each thread sums a stretch of the rates, running sums over the threads place it.
//   grid     1 block of 256
//   traffic  some kilobytes: N is at most the model's width
//   limits   f32 f64, any N; sums in f64
//   ceiling  latency: some 4 us, the launch included
#include "tensor/ops/taper_exponent.h"

#include <cmath>

#include "cuda/exponents.cuh"
#include "cuda/launch.cuh"
#include "cuda/prefix.cuh"
#include "tensor/vector_math.h"

namespace taper::kernels {
namespace {

constexpr int threads = 256;

// Calls use(k, raw_k) for the thread's k, rising. Every thread of the block calls it.
template <class T, class Use>
__device__ void for_raw(const T* g_delta, double log_length, int64_t N, Use&& use) {
  const auto gap = [&](int64_t k) { return k == 0 ? 0 : math::softplus(double(g_delta[k - 1])); };
  const int t = int(threadIdx.x);
  const cuda::Stretch mine = cuda::stretch_of<threads>(N, t);
  double c = 0;
  for (int64_t k = mine.begin; k < mine.end; ++k) c += gap(k);
  const cuda::Running running = cuda::running_sum<threads>(c, t);
  c = running.before;
  for (int64_t k = mine.begin; k < mine.end; ++k) {
    c += gap(k);
    use(k, cuda::raw_exponent(c, running.total, log_length, k, N));
  }
}

template <class T>
__global__ __launch_bounds__(threads) void taper_exponent_forward_kernel(const T* g_delta, T* g_alpha,  // [N-1], [N]
                                                                         double log_length, int64_t N) {
  for_raw(g_delta, log_length, N, [&](int64_t k, double raw) { g_alpha[k] = T(cuda::clamped(raw)); });
}

template <class T>
__global__ __launch_bounds__(threads) void taper_exponent_backward_kernel(const T* g_delta, const T* g_d_alpha,  // [N-1], [N]
                                                                          T* g_d_delta,                          // [N-1]
                                                                          double* g_d_c,                         // [N]
                                                                          double log_length, int64_t N) {
  double r_sum = 0, r_weighted = 0;
  for_raw(g_delta, log_length, N, [&](int64_t k, double raw) {
    const double d_c = cuda::through_clamp(raw, double(g_d_alpha[k]), log_length, k, N);
    g_d_c[k] = d_c;
    r_sum += d_c;
    r_weighted += double(k) * d_c;
  });
  // Suffix sums: place 0 has the last rates. A thread reads what it wrote.
  const int place = threads - 1 - int(threadIdx.x);
  const double weighted = N > 1 ? cuda::running_sum<threads>(r_weighted, place).total / double(N - 1) : 0;
  r_sum = cuda::running_sum<threads>(r_sum, place).before;
  const cuda::Stretch mine = cuda::stretch_of<threads>(N, int(threadIdx.x));
  for (int64_t k = mine.end - 1; k >= mine.begin && k > 0; --k)
    g_d_delta[k - 1] = T(math::sigmoid(double(g_delta[k - 1])) * ((r_sum += g_d_c[k]) - weighted));
}

void forward(const TaperExponentForward& a) {
  visit<float, double>("taper_exponent", a.alpha.dtype(), [&]<class T>() {
    taper_exponent_forward_kernel<T><<<1, threads, 0, cuda::stream_of(a.device())>>>(a.delta.data<T>(), a.alpha.data<T>(),
                                                                                     std::log(a.train_length), a.alpha.numel());
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const TaperExponentBackward& a) {
  visit<float, double>("taper_exponent", a.d_alpha.dtype(), [&]<class T>() {
    const int64_t N = a.d_alpha.numel();
    const Tensor d_c(a.device(), {N}, Dtype::f64);
    taper_exponent_backward_kernel<T><<<1, threads, 0, cuda::stream_of(a.device())>>>(
        a.delta.data<T>(), a.d_alpha.data<T>(), a.d_delta.data<T>(), d_c.data<double>(), std::log(a.train_length), N);
    cuda::cuda_check(cudaGetLastError());
  });
}

const Implement f{taper_exponent_forward, DeviceKind::cuda, forward};
const Implement b{taper_exponent_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
