// sigmoid_decay on CUDA: a thread owns a channel and walks a run of tokens; the logarithm of a position is taken once a token.
//   grid     (B*T/32, D/128) blocks of 128 threads; before them B*T/256 for the logarithms, after them the column sums
//   traffic  forward reads u and writes log_w, backward reads log_w and d_log_w and writes d_u: u in bf16, the others f32.
//            16384 x 768: 75 MB forward, 126 MB backward: 25 and 42 us
//   limits   f32 f64, u also bf16; any shape; sums over 32 tokens in f32 (f64), then f64
//   ceiling  HBM
#include "tensor/ops/sigmoid_decay.h"

#include "cuda/column_sums.cuh"
#include "cuda/launch.cuh"
#include "tensor/vector_math.h"

namespace taper::kernels {
namespace {

constexpr int threads = 128;
constexpr int64_t run = 32;  // tokens of a thread

__global__ void log_position_kernel(double* g_log, PackingView packing, double reference, int64_t rows) {  // [B*T]
  const int64_t i = cuda::thread_index();
  if (i < rows) g_log[i] = log(double(packing.position(i / packing.T, i % packing.T)) / reference);
}

Tensor log_positions(Device& device, const Packing& packing, double reference, int64_t B, int64_t steps) {
  const Tensor log_n(device, {B * steps}, Dtype::f64);
  log_position_kernel<<<cuda::blocks_for(B * steps, 256), 256, 0, cuda::stream_of(device)>>>(log_n.data<double>(),
                                                                                           PackingView(packing, steps), reference, B * steps);
  cuda::cuda_check(cudaGetLastError());
  return log_n;
}

template <class T>
__global__ void sigmoid_decay_forward_kernel(const T* g_u,                                 // [B,T,D]
                                             const Acc<T>* g_w0, const Acc<T>* g_alpha,    // [D], null: 0
                                             const double* g_log_n,                        // [B*T]
                                             Acc<T>* g_log_w,                              // [B,T,D]
                                             int64_t rows, int64_t D) {
  using A = Acc<T>;
  const int64_t d = int64_t(blockIdx.y) * threads + threadIdx.x;
  if (d >= D) return;
  const A w0 = g_w0 ? g_w0[d] : A(0), alpha = g_alpha ? g_alpha[d] : A(0);
  const int64_t begin = blockIdx.x * run, end = min(rows, begin + run);
#pragma unroll 4
  for (int64_t i = begin; i < end; ++i)
    g_log_w[i * D + d] = A(-sigmoid_decay_bound) * math::sigmoid(A(g_u[i * D + d]) + w0 - alpha * A(g_log_n[i]));
}

template <class T>
__global__ void sigmoid_decay_backward_kernel(const Acc<T>* g_log_w, const Acc<T>* g_d_log_w,  // [B,T,D]
                                              const double* g_log_n,                           // [B*T]
                                              T* g_d_u,                                        // [B,T,D]
                                              Acc<T>* g_partial,                               // [runs,2,D]: of d_w0, of d_alpha
                                              int64_t rows, int64_t D) {
  using A = Acc<T>;
  const int64_t d = int64_t(blockIdx.y) * threads + threadIdx.x;
  if (d >= D) return;
  A r_w0 = 0, r_alpha = 0;
  const int64_t begin = blockIdx.x * run, end = min(rows, begin + run);
#pragma unroll 4
  for (int64_t i = begin; i < end; ++i) {
    const A log_w = g_log_w[i * D + d], d_u = g_d_log_w[i * D + d] * log_w * (1 - log_w / A(-sigmoid_decay_bound));
    g_d_u[i * D + d] = T(d_u);
    r_w0 += d_u;
    r_alpha -= A(g_log_n[i]) * d_u;
  }
  g_partial[blockIdx.x * 2 * D + d] = r_w0;
  g_partial[blockIdx.x * 2 * D + D + d] = r_alpha;
}

template <class A>
struct ToTwo {
  A *g_d_w0, *g_d_alpha;  // null: not wanted
  int64_t D;
  __device__ void operator()(int64_t column, double sum) const {
    A* g = column < D ? g_d_w0 : g_d_alpha;
    if (g) g[column < D ? column : column - D] = A(sum);
  }
};

dim3 grid_of(int64_t rows, int64_t D) { return {cuda::blocks_for((rows + run - 1) / run, 1), cuda::blocks_for(D, threads)}; }

void forward(const SigmoidDecayForward& a) {
  visit<float, double, bf16>("sigmoid_decay", a.u.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t B = a.u.size(0), steps = a.u.size(1), D = a.u.size(2);
    if (a.u.numel() == 0) return;
    const Tensor log_n = log_positions(a.device(), a.packing, a.reference, B, steps);
    sigmoid_decay_forward_kernel<T><<<grid_of(B * steps, D), threads, 0, cuda::stream_of(a.device())>>>(
        a.u.data<T>(), a.w0 ? a.w0.data<A>() : nullptr, a.alpha ? a.alpha.data<A>() : nullptr, log_n.data<double>(), a.log_w.data<A>(),
        B * steps, D);
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const SigmoidDecayBackward& a) {
  visit<float, double, bf16>("sigmoid_decay", a.d_u.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t B = a.log_w.size(0), steps = a.log_w.size(1), D = a.log_w.size(2), rows = B * steps;
    if (a.log_w.numel() == 0) return;
    const Tensor log_n = log_positions(a.device(), a.packing, a.reference, B, steps);
    const Tensor partial(a.device(), {(rows + run - 1) / run, 2 * D}, dtype_of<A>());
    sigmoid_decay_backward_kernel<T><<<grid_of(rows, D), threads, 0, cuda::stream_of(a.device())>>>(
        a.log_w.data<A>(), a.d_log_w.data<A>(), log_n.data<double>(), a.d_u.data<T>(), partial.data<A>(), rows, D);
    cuda::cuda_check(cudaGetLastError());
    cuda::add_partials<A>(partial, ToTwo<A>{a.d_w0 ? a.d_w0.data<A>() : nullptr, a.d_alpha ? a.d_alpha.data<A>() : nullptr, D});
  });
}

const Implement f{sigmoid_decay_forward, DeviceKind::cuda, forward};
const Implement b{sigmoid_decay_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
