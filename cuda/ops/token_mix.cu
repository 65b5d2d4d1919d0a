// token_mix on CUDA: a thread owns neighbouring channels and walks a run of tokens, so each element is read once.
//   grid     (B * T/32 runs, D/vector/threads) blocks of 128 threads forward, 64 backward; the weights' gradients: D/32 blocks over the runs' partials
//   traffic  forward reads x and writes M tensors, backward reads x and M tensors and writes d_x, and one row in 32 twice;
//            16384 x 768 in bf16, M = 6: 176 MB forward, 206 MB backward: 59 and 69 us
//   limits   f32 f64 bf16; any shape, 8- or 16-byte accesses where D allows; partial sums of 32 rows in f32 (f64), then f64
//   ceiling  HBM
#include "tensor/ops/token_mix.h"

#include "cuda/launch.cuh"
#include "cuda/vector.cuh"

namespace taper::kernels {
namespace {

constexpr int forward_threads = 128, threads = 64;
constexpr int64_t run = 32;  // tokens of a thread

// Neighbouring channels of a thread, backward. Of 2-byte numbers only 4: with 8 the sums of six weights leave too few
// registers for other warps, and nobody is there while one waits for memory.
template <class T>
constexpr int vector = sizeof(T) == 2 ? 4 : 16 / int(sizeof(T));

template <class T>
struct Pointers {  // of the M tensors; null: absent
  T* at[token_mix_most] = {};
};
template <class T>
Pointers<T> pointers(const MixTensors& tensors) {
  Pointers<T> p;
  for (int m = 0; m < token_mix_most; ++m)
    if (tensors[size_t(m)]) p.at[m] = tensors[size_t(m)].data<T>();
  return p;
}

template <class T, int n>
__device__ void load(Acc<T> (&r)[n], const T* g) {
  const auto v = *reinterpret_cast<const cuda::Vector<T, n>*>(g);
#pragma unroll
  for (int k = 0; k < n; ++k) r[k] = Acc<T>(v.at[k]);
}
template <class T, int n>
__device__ void store(T* g, const Acc<T> (&r)[n]) {
  cuda::Vector<T, n> v;
#pragma unroll
  for (int k = 0; k < n; ++k) v.at[k] = T(r[k]);
  *reinterpret_cast<cuda::Vector<T, n>*>(g) = v;
}

// The token before row t of sequence b, into r: zeros where there is none.
template <class T, int n>
__device__ void load_before(Acc<T> (&r)[n], const T* g_x, const T* g_last, const PackingView& packing, int64_t b, int64_t t, int64_t D,
                            int64_t d) {
  const T* g = packing.resets(b, t) ? nullptr : t > 0 ? g_x + (b * packing.T + t - 1) * D + d : g_last ? g_last + b * D + d : nullptr;
  if (g) {
    load<T, n>(r, g);
  } else {
#pragma unroll
    for (int k = 0; k < n; ++k) r[k] = 0;
  }
}

template <class T, int n>
__global__ __launch_bounds__(forward_threads) void token_mix_forward_kernel(const T* g_x,                      // [B,T,D]
                                                                    const T* g_last,                   // [B,D] or null
                                                                    Pointers<const Acc<T>> g_weight,   // [D] each
                                                                    Pointers<T> g_y,                   // [B,T,D] each
                                                                    T* g_tail,                         // [B,D]
                                                                    PackingView packing, int64_t D, int64_t runs) {
  using A = Acc<T>;
  const int64_t d = (int64_t(blockIdx.y) * forward_threads + threadIdx.x) * n;
  if (d >= D) return;
  const int64_t b = blockIdx.x / runs, begin = blockIdx.x % runs * run, end = min(packing.T, begin + run);
  A r_weight[token_mix_most][n];
#pragma unroll
  for (int m = 0; m < token_mix_most; ++m)
#pragma unroll
    for (int k = 0; k < n; ++k) r_weight[m][k] = g_weight.at[m] ? g_weight.at[m][d + k] : A(0);
  A r_before[n], r_now[n], r_y[n];
  load_before<T, n>(r_before, g_x, g_last, packing, b, begin, D, d);
  for (int64_t t = begin; t < end; ++t) {
    const int64_t at = (b * packing.T + t) * D + d;
    load<T, n>(r_now, g_x + at);
    if (t > begin && packing.resets(b, t)) {
#pragma unroll
      for (int k = 0; k < n; ++k) r_before[k] = 0;
    }
#pragma unroll
    for (int m = 0; m < token_mix_most; ++m) {
      if (!g_y.at[m]) break;
#pragma unroll
      for (int k = 0; k < n; ++k) r_y[k] = r_now[k] + (r_before[k] - r_now[k]) * r_weight[m][k];
      store<T, n>(g_y.at[m] + at, r_y);
    }
    if (t + 1 == packing.T) store<T, n>(g_tail + b * D + d, r_now);
#pragma unroll
    for (int k = 0; k < n; ++k) r_before[k] = r_now[k];
  }
}

template <class T, int n>
__global__ __launch_bounds__(threads) void token_mix_backward_kernel(const T* g_x, const T* g_last,    // [B,T,D], [B,D] or null
                                                                     Pointers<const Acc<T>> g_weight,  // [D] each
                                                                     Pointers<const T> g_d_y,          // [B,T,D] each, or null
                                                                     const T* g_d_tail,                // [B,D] or null
                                                                     T* g_d_x, T* g_d_last,            // or null
                                                                     Acc<T>* g_partial,                // [B*runs,M,D]
                                                                     PackingView packing, int64_t D, int64_t runs) {
  using A = Acc<T>;
  const int64_t d = (int64_t(blockIdx.y) * threads + threadIdx.x) * n;
  if (d >= D) return;
  const int64_t b = blockIdx.x / runs, begin = blockIdx.x % runs * run, end = min(packing.T, begin + run);
  A r_weight[token_mix_most][n], r_d_weight[token_mix_most][n] = {};
#pragma unroll
  for (int m = 0; m < token_mix_most; ++m)
#pragma unroll
    for (int k = 0; k < n; ++k) r_weight[m][k] = g_weight.at[m] ? g_weight.at[m][d + k] : A(0);

  A r_before[n], r_now[n], r_d[n], r_stays[n] = {}, r_back[n];  // what a row's d_y give to itself, and to the row before it
  load_before<T, n>(r_before, g_x, g_last, packing, b, begin, D, d);
  for (int64_t t = begin; t <= end; ++t) {  // the row at `end` only gives back
    if (t == packing.T) break;
    const int64_t at = (b * packing.T + t) * D + d;
    const bool own = t < end, resets = packing.resets(b, t);
    load<T, n>(r_now, g_x + at);
    if (t > begin && resets) {
#pragma unroll
      for (int k = 0; k < n; ++k) r_before[k] = 0;
    }
    A r_own[n] = {};
#pragma unroll
    for (int k = 0; k < n; ++k) r_back[k] = 0;
#pragma unroll
    for (int m = 0; m < token_mix_most; ++m) {
      if (!g_d_y.at[m]) continue;
      load<T, n>(r_d, g_d_y.at[m] + at);
#pragma unroll
      for (int k = 0; k < n; ++k) {
        r_own[k] += r_d[k] * (1 - r_weight[m][k]);
        r_back[k] += r_d[k] * r_weight[m][k];
        if (own) r_d_weight[m][k] += r_d[k] * (r_before[k] - r_now[k]);
      }
    }
    if (t > begin && g_d_x) {
#pragma unroll
      for (int k = 0; k < n; ++k) r_stays[k] += resets ? A(0) : r_back[k];
      store<T, n>(g_d_x + at - D, r_stays);
    }
    if (t == 0 && g_d_last) store<T, n>(g_d_last + b * D + d, r_back);
#pragma unroll
    for (int k = 0; k < n; ++k) r_stays[k] = r_own[k], r_before[k] = r_now[k];
  }
  if (end == packing.T && g_d_x) {
    if (g_d_tail) {
      load<T, n>(r_d, g_d_tail + b * D + d);
#pragma unroll
      for (int k = 0; k < n; ++k) r_stays[k] += r_d[k];
    }
    store<T, n>(g_d_x + (b * packing.T + end - 1) * D + d, r_stays);
  }
#pragma unroll
  for (int m = 0; m < token_mix_most; ++m)
#pragma unroll
    for (int k = 0; k < n; ++k) g_partial[(int64_t(blockIdx.x) * token_mix_most + m) * D + d + k] = r_d_weight[m][k];
}

// 32 columns a block, 8 threads each taking every eighth partial, then the eight in order.
template <class A>
__global__ void token_mix_weight_kernel(const A* g_partial,        // [pieces,M,D]
                                        Pointers<A> g_d_weight,    // [D] each, or null
                                        int64_t pieces, int64_t D) {
  const int64_t d = int64_t(blockIdx.x) * 32 + threadIdx.x;
  const int m = blockIdx.y;
  __shared__ double s_sum[8][32];
  double r_sum = 0;
  if (d < D)
    for (int64_t i = threadIdx.y; i < pieces; i += 8) r_sum += double(g_partial[(i * token_mix_most + m) * D + d]);
  s_sum[threadIdx.y][threadIdx.x] = r_sum;
  __syncthreads();
  if (threadIdx.y != 0 || d >= D || !g_d_weight.at[m]) return;
  for (int i = 1; i < 8; ++i) r_sum += s_sum[i][threadIdx.x];
  g_d_weight.at[m][d] = A(r_sum);
}

template <class T>
bool vectors_fit(int n, int64_t D, const std::initializer_list<const Tensor*> tensors, const MixTensors& more) {
  bool fit = true;
  const auto look = [&](const Tensor& t) { fit = fit && (!t || cuda::vector_fits<T>(n, D, {t.data<T>()})); };
  for (const Tensor* t : tensors) look(*t);
  for (const Tensor& t : more) look(t);
  return fit;
}

void forward(const TokenMixForward& a) {
  visit<float, double, bf16>("token_mix", a.x.dtype(), [&]<class T>() {
    const int64_t B = a.x.size(0), D = a.x.size(2), runs = (a.x.size(1) + run - 1) / run;
    if (B * D == 0) return;
    const auto launch = [&]<int n>(std::integral_constant<int, n>) {
      const dim3 grid(cuda::blocks_for(B * runs, 1), cuda::blocks_for((D + n - 1) / n, forward_threads));
      token_mix_forward_kernel<T, n><<<grid, forward_threads, 0, cuda::stream_of(a.device())>>>(
          a.x.data<T>(), a.last ? a.last.data<T>() : nullptr, pointers<const Acc<T>>(a.weight), pointers<T>(a.y), a.tail.data<T>(),
          PackingView(a.packing, a.x.size(1)), D, runs);
      cuda::cuda_check(cudaGetLastError());
    };
    if (vectors_fit<T>(16 / int(sizeof(T)), D, {&a.x, &a.last, &a.tail}, a.y)) launch(std::integral_constant<int, 16 / int(sizeof(T))>());
    else launch(std::integral_constant<int, 1>());
  });
}

void backward(const TokenMixBackward& a) {
  visit<float, double, bf16>("token_mix", a.x.dtype(), [&]<class T>() {
    const int64_t B = a.x.size(0), D = a.x.size(2), runs = (a.x.size(1) + run - 1) / run;
    if (B * D == 0) return;
    const Tensor partial(a.device(), {B * runs, token_mix_most, D}, dtype_of<Acc<T>>());
    const auto launch = [&]<int n>(std::integral_constant<int, n>) {
      const dim3 grid(cuda::blocks_for(B * runs, 1), cuda::blocks_for((D + n - 1) / n, threads));
      token_mix_backward_kernel<T, n><<<grid, threads, 0, cuda::stream_of(a.device())>>>(
          a.x.data<T>(), a.last ? a.last.data<T>() : nullptr, pointers<const Acc<T>>(a.weight), pointers<const T>(a.d_y),
          a.d_tail ? a.d_tail.data<T>() : nullptr, a.d_x ? a.d_x.data<T>() : nullptr, a.d_last ? a.d_last.data<T>() : nullptr,
          partial.data<Acc<T>>(), PackingView(a.packing, a.x.size(1)), D, runs);
      cuda::cuda_check(cudaGetLastError());
    };
    if (vectors_fit<T>(vector<T>, D, {&a.x, &a.last, &a.d_tail, &a.d_x, &a.d_last}, a.d_y)) launch(std::integral_constant<int, vector<T>>());
    else launch(std::integral_constant<int, 1>());
    token_mix_weight_kernel<Acc<T>>
        <<<dim3(cuda::blocks_for(D, 32), token_mix_most), dim3(32, 8), 0, cuda::stream_of(a.device())>>>(
            partial.data<Acc<T>>(), pointers<Acc<T>>(a.d_weight), B * runs, D);
    cuda::cuda_check(cudaGetLastError());
  });
}

const Implement f{token_mix_forward, DeviceKind::cuda, forward};
const Implement b{token_mix_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
