// sigmoid_decay on CUDA: a thread owns some channels and walks tokens; the logarithm of a position is taken once a token.
//   grid     the logarithms B*T/256 blocks of 256; forward (D/(32 n), B*T/32) blocks of 256, 32 vectors by 8 tokens at a time;
//            backward sums over rows, up to 528 blocks, then the sum of their parts
//   traffic  forward reads u and writes log_w, backward reads log_w and d_log_w and writes d_u: u in bf16, the others f32.
//            16384 x 768: 75 MB forward, 126 MB backward: 25 and 42 us
//   limits   f32 f64, u also bf16; any shape; the two sums in f64; one channel at a time where D or a tensor does not hold
//            whole vectors
//   ceiling  HBM; beside u in bf16 the sigmoid is the hardware's, else the accurate one comes near it
#include "tensor/ops/sigmoid_decay.h"

#include "cuda/elementwise.cuh"
#include "cuda/sums.cuh"
#include "tensor/vector_math.h"

namespace taper::kernels {
namespace {

constexpr int threads = 256, rows_each = 4;

__global__ void log_position_kernel(double* g_log, PackingView packing, double reference, int64_t rows) {  // [B*T]
  const int64_t i = cuda::thread_index();
  if (i < rows) g_log[i] = log(double(packing.position(i / packing.T, i % packing.T)) / reference);
}

Tensor log_positions(Device& device, const Packing& packing, double reference, int64_t B, int64_t steps) {
  const Tensor log_n(device, {B * steps}, Dtype::f64);
  if (B * steps == 0) return log_n;
  log_position_kernel<<<cuda::blocks_for(B * steps, 256), 256, 0, cuda::stream_of(device)>>>(
      log_n.data<double>(), PackingView(packing, steps), reference, B * steps);
  cuda::cuda_check(cudaGetLastError());
  return log_n;
}

template <class T>
__device__ inline Acc<T> sigmoid(Acc<T> x) {
  if constexpr (std::is_same_v<T, bf16>) return __fdividef(1, 1 + __expf(-x));
  else return math::sigmoid(x);
}

template <class T, int n>
__global__ __launch_bounds__(threads) void sigmoid_decay_forward_kernel(const T* g_u,                               // [B*T,D]
                                                                        const Acc<T>* g_w0, const Acc<T>* g_alpha,  // [D], null: 0
                                                                        const double* g_log_n,                      // [B*T]
                                                                        Acc<T>* g_log_w,                            // [B*T,D]
                                                                        int64_t rows, int64_t D) {
  using A = Acc<T>;
  const int64_t vectors = D / n;
  const int across = vectors < 32 ? int(vectors) : 32, deep = threads / across;
  const int64_t vector = int64_t(blockIdx.x) * across + int(threadIdx.x) % across;
  if (vector >= vectors || int(threadIdx.x) / across >= deep) return;
  A r_w0[n], r_alpha[n];
#pragma unroll
  for (int k = 0; k < n; ++k) {
    r_w0[k] = g_w0 ? g_w0[vector * n + k] : A(0);
    r_alpha[k] = g_alpha ? g_alpha[vector * n + k] : A(0);
  }
  const int64_t first = int64_t(blockIdx.y) * rows_each * deep + int(threadIdx.x) / across;
  cuda::Vector<T, n> r_u[rows_each];
#pragma unroll
  for (int i = 0; i < rows_each; ++i)
    if (first + i * deep < rows) r_u[i] = cuda::load<n>(g_u + (first + i * deep) * D + vector * n);
#pragma unroll
  for (int i = 0; i < rows_each; ++i) {
    const int64_t row = first + i * deep;
    if (row >= rows) return;
    const A log_n = A(g_log_n[row]);
    A log_w[n];
#pragma unroll
    for (int k = 0; k < n; ++k)
      log_w[k] = A(-sigmoid_decay_bound) * sigmoid<T>(A(r_u[i].at[k]) + r_w0[k] - r_alpha[k] * log_n);
    cuda::store(g_log_w + row * D + vector * n, log_w);
  }
}

template <class T>
struct Rows {
  const Acc<T>*g_log_w, *g_d_log_w;  // [B*T,D]
  const double* g_log_n;             // [B*T]
  T* g_d_u;                          // [B*T,D]
  int64_t D;

  template <int n>
  __device__ void add(int64_t row, int64_t j, double (&sum)[2][n]) const {  // of d_w0, of d_alpha
    using A = Acc<T>;
    const auto log_w = cuda::load<n>(g_log_w + row * D + j), d = cuda::load<n>(g_d_log_w + row * D + j);
    const double log_n = g_log_n[row];
    A d_u[n];
#pragma unroll
    for (int k = 0; k < n; ++k) {
      d_u[k] = d.at[k] * log_w.at[k] * (1 - log_w.at[k] / A(-sigmoid_decay_bound));
      sum[0][k] += double(d_u[k]);
      sum[1][k] -= log_n * double(d_u[k]);
    }
    cuda::store(g_d_u + row * D + j, d_u);
  }
};

void forward(const SigmoidDecayForward& a) {
  visit<float, double, bf16>("sigmoid_decay", a.u.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t B = a.u.size(0), steps = a.u.size(1), D = a.u.size(2), rows = B * steps;
    if (a.u.numel() == 0) return;
    const Tensor log_n = log_positions(a.device(), a.packing, a.reference, B, steps);
    const auto launch = [&]<int n>() {
      const int64_t across = std::min<int64_t>(D / n, 32), deep = threads / across;
      // Tokens along y: at most 65535 blocks of them in one launch.
      const int64_t most = int64_t(65535) * rows_each * deep;
      for (int64_t begin = 0; begin < rows; begin += most) {
        const int64_t now = std::min(most, rows - begin);
        const dim3 grid(cuda::blocks_for((D / n + across - 1) / across, 1), cuda::blocks_for(now, rows_each * int(deep)));
        sigmoid_decay_forward_kernel<T, n><<<grid, threads, 0, cuda::stream_of(a.device())>>>(
            a.u.data<T>() + begin * D, cuda::data_or_null<A>(a.w0), cuda::data_or_null<A>(a.alpha), log_n.data<double>() + begin,
            a.log_w.data<A>() + begin * D, now, D);
        cuda::cuda_check(cudaGetLastError());
      }
    };
    constexpr int n = cuda::vector_width<T>;
    if (cuda::vector_fits<T>(n, D, {a.u.data<T>()}) && cuda::aligned(n, a.log_w.data<A>())) launch.template operator()<n>();
    else launch.template operator()<1>();
  });
}

void backward(const SigmoidDecayBackward& a) {
  visit<float, double, bf16>("sigmoid_decay", a.d_u.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t B = a.log_w.size(0), steps = a.log_w.size(1), D = a.log_w.size(2);
    if (D == 0) return;
    const Tensor log_n = log_positions(a.device(), a.packing, a.reference, B, steps);
    const Rows<T> rows{a.log_w.data<A>(), a.d_log_w.data<A>(), log_n.data<double>(), a.d_u.data<T>(), D};
    constexpr int n = cuda::vector_width<A>;
    const bool vectors = cuda::vector_fits<A>(n, D, {rows.g_log_w, rows.g_d_log_w}) && cuda::aligned(n, rows.g_d_u);
    const Tensor partials = vectors ? cuda::column_partials<2, n>(a.device(), B * steps, D, rows) : cuda::column_partials<2, 1>(a.device(), B * steps, D, rows);
    cuda::add_partials<double>(partials, cuda::ToTwo<A>{cuda::data_or_null<A>(a.d_w0), cuda::data_or_null<A>(a.d_alpha), D});
  });
}

const Implement f{sigmoid_decay_forward, DeviceKind::cuda, forward};
const Implement b{sigmoid_decay_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
