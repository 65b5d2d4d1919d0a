// log_decay on CUDA: a thread per element, or, where d_s sums over channels, a warp per head of a token.
//   grid     forward numel/256 blocks of 256; backward the same, or B*T*H/8 blocks of 8 warps; then sums over tokens
//   traffic  each input read once, each output written once, log_a and d_log_a once more for d_p.
//            [8,2048,24]: 2 MB a tensor, launch bound; [8,2048,4,96]: 25 MB a tensor, 25 us forward
//   limits   f32 f64, any shape; sums in f64, in one order
//   ceiling  HBM where there are channels, else launches
#include "tensor/ops/log_decay.h"

#include "cuda/column_sums.cuh"
#include "cuda/launch.cuh"
#include "cuda/rows.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256;

int64_t channels(const Tensor& log_a) { return log_a.rank() == 4 ? log_a.size(3) : 1; }

template <class T>
__global__ void log_decay_forward_kernel(const T* g_p,   // [H]
                                         const T* g_dt,  // [B,T,H,K], null: 1
                                         const T* g_s,   // [B,T,H], null: 1
                                         T* g_log_a,     // [B,T,H,K]
                                         int64_t numel, int64_t H, int64_t K) {
  const int64_t i = cuda::thread_index();
  if (i >= numel) return;
  const int64_t j = K == 1 ? i : i / K;
  g_log_a[i] = -exp(g_p[j % H]) * (g_dt ? g_dt[i] : T(1)) * (g_s ? g_s[j] : T(1));
}

template <class T>
__global__ void log_decay_backward_kernel(const T* g_p, const T* g_dt, const T* g_s,  // as above, K = 1
                                          const T* g_d_log_a, T* g_d_dt, T* g_d_s,    // [B,T,H]; d_dt, d_s may be null
                                          int64_t numel, int64_t H) {
  const int64_t i = cuda::thread_index();
  if (i >= numel) return;
  const T rate = -exp(g_p[i % H]);
  if (g_d_dt) g_d_dt[i] = rate * (g_s ? g_s[i] : T(1)) * g_d_log_a[i];
  if (g_d_s) g_d_s[i] = rate * (g_dt ? g_dt[i] : T(1)) * g_d_log_a[i];
}

template <class T>
__global__ void log_decay_backward_channels_kernel(const T* g_p, const T* g_dt, const T* g_s, const T* g_d_log_a,
                                                   T* g_d_dt, T* g_d_s, int64_t heads, int64_t H, int64_t K) {
  const int64_t j = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;  // a head of a token
  if (j >= heads) return;
  const T rate = -exp(g_p[j % H]), factor = rate * (g_s ? g_s[j] : T(1));
  double r_sum = 0;
  for (int64_t n = j * K + threadIdx.x; n < (j + 1) * K; n += 32) {
    const T d = g_d_log_a[n];
    r_sum += double(g_dt[n]) * double(d);
    if (g_d_dt) g_d_dt[n] = factor * d;
  }
  if (!g_d_s) return;
  r_sum = cuda::warp_sum(r_sum);
  if (threadIdx.x == 0) g_d_s[j] = T(double(rate) * r_sum);
}

template <class T>
struct DecayTimesGradient {
  const T *g_log_a, *g_d_log_a;
  int64_t columns;
  __device__ double operator()(int64_t row, int64_t column) const {
    return double(g_log_a[row * columns + column]) * double(g_d_log_a[row * columns + column]);
  }
};

template <class T>
__global__ void log_decay_rate_kernel(const double* g_sum, T* g_d_p, int64_t H, int64_t K) {  // [H,K], [H]
  const int64_t h = cuda::thread_index();
  if (h >= H) return;
  double sum = 0;
  for (int64_t n = 0; n < K; ++n) sum += g_sum[h * K + n];
  g_d_p[h] = T(sum);
}

template <class T>
T* pointer(const Tensor& t) {
  return t ? t.data<T>() : nullptr;
}

void forward(const LogDecayForward& a) {
  visit<float, double>("log_decay", a.p.dtype(), [&]<class T>() {
    const int64_t numel = a.log_a.numel();
    if (numel == 0) return;
    log_decay_forward_kernel<T><<<cuda::blocks_for(numel, threads), threads, 0, cuda::stream_of(a.device())>>>(
        a.p.data<T>(), pointer<T>(a.dt), pointer<T>(a.s), a.log_a.data<T>(), numel, a.p.numel(), channels(a.log_a));
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const LogDecayBackward& a) {
  visit<float, double>("log_decay", a.p.dtype(), [&]<class T>() {
    const int64_t H = a.p.numel(), K = channels(a.log_a), rows = a.log_a.size(0) * a.log_a.size(1), heads = rows * H;
    const cudaStream_t stream = cuda::stream_of(a.device());
    if (H == 0) return;
    if (heads > 0 && K == 1)
      log_decay_backward_kernel<T><<<cuda::blocks_for(heads, threads), threads, 0, stream>>>(
          a.p.data<T>(), pointer<T>(a.dt), pointer<T>(a.s), a.d_log_a.data<T>(), pointer<T>(a.d_dt), pointer<T>(a.d_s), heads, H);
    else if (heads > 0)
      log_decay_backward_channels_kernel<T><<<cuda::blocks_for(heads, 8), dim3(32, 8), 0, stream>>>(
          a.p.data<T>(), a.dt.data<T>(), pointer<T>(a.s), a.d_log_a.data<T>(), pointer<T>(a.d_dt), pointer<T>(a.d_s), heads, H, K);
    cuda::cuda_check(cudaGetLastError());
    const Tensor sum(a.device(), {H, K}, Dtype::f64);
    cuda::column_sums<double>(a.device(), DecayTimesGradient<T>{a.log_a.data<T>(), a.d_log_a.data<T>(), H * K},
                              cuda::ToArray<double>{sum.data<double>()}, rows, H * K);
    log_decay_rate_kernel<T><<<cuda::blocks_for(H, threads), threads, 0, stream>>>(sum.data<double>(), a.d_p.data<T>(), H, K);
    cuda::cuda_check(cudaGetLastError());
  });
}

const Implement f{log_decay_forward, DeviceKind::cuda, forward};
const Implement b{log_decay_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
