// spectral_cumsum on CUDA: one block; each thread sums a stretch of the rates, running sums over the threads place it.
//   grid     1 block of 256
//   traffic  some kilobytes: N is at most the model's width
//   limits   f32 f64, any N; sums in f64
//   ceiling  latency: some 3 us for 768 rates, the launch included
#include "tensor/ops/spectral_cumsum.h"

#include "cuda/launch.cuh"
#include "cuda/prefix.cuh"
#include "tensor/vector_math.h"

namespace taper::kernels {
namespace {

constexpr int threads = 256;

template <class T>
__global__ __launch_bounds__(threads) void spectral_cumsum_forward_kernel(const T* g_theta, const T* g_delta,  // [], [N-1]
                                                                          T* g_p,                              // [N]
                                                                          int64_t N) {
  const auto gap = [&](int64_t k) { return k == 0 ? double(*g_theta) : math::softplus(double(g_delta[k - 1])); };
  const int t = int(threadIdx.x);
  const cuda::Stretch mine = cuda::stretch_of<threads>(N, t);
  double r_sum = 0;
  for (int64_t k = mine.begin; k < mine.end; ++k) r_sum += gap(k);
  r_sum = cuda::running_sum<threads>(r_sum, t).before;
  for (int64_t k = mine.begin; k < mine.end; ++k) g_p[k] = T(r_sum += gap(k));
}

template <class T>
__global__ __launch_bounds__(threads) void spectral_cumsum_backward_kernel(const T* g_delta, const T* g_d_p,  // [N-1], [N]
                                                                           T* g_d_theta, T* g_d_delta,        // [], [N-1]
                                                                           int64_t N) {
  // Suffix sums: place 0 has the last rates.
  const int place = threads - 1 - int(threadIdx.x);
  const cuda::Stretch mine = cuda::stretch_of<threads>(N, place);
  double r_sum = 0;
  for (int64_t i = mine.begin; i < mine.end; ++i) r_sum += double(g_d_p[N - 1 - i]);
  r_sum = cuda::running_sum<threads>(r_sum, place).before;
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const int64_t k = N - 1 - i;
    r_sum += double(g_d_p[k]);
    if (k > 0) g_d_delta[k - 1] = T(math::sigmoid(double(g_delta[k - 1])) * r_sum);
    else *g_d_theta = T(r_sum);
  }
}

void forward(const SpectralCumsumForward& a) {
  visit<float, double>("spectral_cumsum", a.p.dtype(), [&]<class T>() {
    spectral_cumsum_forward_kernel<T><<<1, threads, 0, cuda::stream_of(a.device())>>>(a.theta.data<T>(), a.delta.data<T>(),
                                                                                      a.p.data<T>(), a.p.numel());
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const SpectralCumsumBackward& a) {
  visit<float, double>("spectral_cumsum", a.d_p.dtype(), [&]<class T>() {
    spectral_cumsum_backward_kernel<T><<<1, threads, 0, cuda::stream_of(a.device())>>>(
        a.delta.data<T>(), a.d_p.data<T>(), a.d_theta.data<T>(), a.d_delta.data<T>(), a.d_p.numel());
    cuda::cuda_check(cudaGetLastError());
  });
}

const Implement f{spectral_cumsum_forward, DeviceKind::cuda, forward};
const Implement b{spectral_cumsum_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
