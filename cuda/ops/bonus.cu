// bonus on CUDA: a warp for each head of a token; the gradient of the weight in runs of tokens, added up in order.
//   grid     forward B*T*H/8 blocks of 8 warps; backward (B*T/32 runs * H)/8 blocks, a warp walking its head through 32 tokens
//   traffic  forward reads y r k v, writes out; backward reads r k v d_out, writes d_r d_k d_v: each once.
//            [8,2048,12,64] in bf16: 126 MB forward, 176 MB backward: 42 and 59 us
//   limits   f32 f64 bf16; any K and V; sums over 32 tokens in f32 (f64), then f64
//   ceiling  HBM
#include "tensor/ops/bonus.h"

#include "cuda/column_sums.cuh"
#include "cuda/launch.cuh"
#include "cuda/rows.cuh"

namespace taper::kernels {
namespace {

constexpr int warps = 8;       // of a block
constexpr int64_t run = 32;    // tokens of a warp, backward
constexpr int most_channels = 8;  // of a lane: K up to 256 keep their sums in registers

template <class T>
__device__ Acc<T> weighted_dot(const T* g_r, const T* g_k, const Acc<T>* g_weight, int64_t K) {
  Acc<T> sum = 0;
  for (int64_t j = threadIdx.x; j < K; j += 32) sum += Acc<T>(g_r[j]) * Acc<T>(g_k[j]) * g_weight[j];
  return cuda::warp_sum(sum);
}

template <class T>
__global__ void bonus_forward_kernel(const T* g_y, const T* g_r, const T* g_k, const T* g_v,  // [B,T,H,V or K]
                                     const Acc<T>* g_weight,                                  // [H,K]
                                     T* g_out,                                                // [B,T,H,V]
                                     int64_t heads, int64_t H, int64_t K, int64_t V) {
  const int64_t i = int64_t(blockIdx.x) * warps + threadIdx.y;  // a head of a token
  if (i >= heads) return;
  const Acc<T> c = weighted_dot(g_r + i * K, g_k + i * K, g_weight + i % H * K, K);
  for (int64_t j = i * V + threadIdx.x; j < (i + 1) * V; j += 32) g_out[j] = T(Acc<T>(g_y[j]) + c * Acc<T>(g_v[j]));
}

template <class T>
__global__ void bonus_backward_kernel(const T* g_r, const T* g_k, const T* g_v, const T* g_d_out,  // [B,T,H,K or V]
                                      const Acc<T>* g_weight,                                      // [H,K]
                                      T* g_d_r, T* g_d_k, T* g_d_v,                                // null: not wanted
                                      Acc<T>* g_partial,                                           // [runs,H,K], null: not wanted
                                      int64_t tokens, int64_t H, int64_t K, int64_t V) {
  using A = Acc<T>;
  const int64_t at = int64_t(blockIdx.x) * warps + threadIdx.y, h = at % H, begin = at / H * run, end = min(tokens, begin + run);
  if (begin >= tokens) return;
  const A* g_w = g_weight + h * K;
  for (int64_t first = 0; first < K || first == 0; first += 32 * most_channels) {
    A r_sum[most_channels] = {};
    for (int64_t t = begin; t < end; ++t) {
      const int64_t i = t * H + h;
      A g = 0;
      for (int64_t j = i * V + threadIdx.x; j < (i + 1) * V; j += 32) g += A(g_d_out[j]) * A(g_v[j]);
      g = cuda::warp_sum(g);
#pragma unroll
      for (int c = 0; c < most_channels; ++c) {
        const int64_t j = first + c * 32 + threadIdx.x;
        if (j >= K) break;
        const A r = A(g_r[i * K + j]), k = A(g_k[i * K + j]);
        if (g_d_r) g_d_r[i * K + j] = T(g * k * g_w[j]);
        if (g_d_k) g_d_k[i * K + j] = T(g * r * g_w[j]);
        r_sum[c] += g * r * k;
      }
      if (!g_d_v || first > 0) continue;
      const A c = weighted_dot(g_r + i * K, g_k + i * K, g_w, K);
      for (int64_t j = i * V + threadIdx.x; j < (i + 1) * V; j += 32) g_d_v[j] = T(c * A(g_d_out[j]));
    }
    if (!g_partial) continue;
#pragma unroll
    for (int c = 0; c < most_channels; ++c)
      if (const int64_t j = first + c * 32 + threadIdx.x; j < K) g_partial[at * K + j] = r_sum[c];
  }
}

template <class T>
T* pointer(const Tensor& t) {
  return t ? t.data<T>() : nullptr;
}

void forward(const BonusForward& a) {
  visit<float, double, bf16>("bonus", a.y.dtype(), [&]<class T>() {
    const int64_t H = a.v.size(2), V = a.v.size(3), K = a.r.size(3), heads = a.v.size(0) * a.v.size(1) * H;
    if (heads == 0) return;
    bonus_forward_kernel<T><<<cuda::blocks_for(heads, warps), dim3(32, warps), 0, cuda::stream_of(a.device())>>>(
        a.y.data<T>(), a.r.data<T>(), a.k.data<T>(), a.v.data<T>(), a.weight.data<Acc<T>>(), a.out.data<T>(), heads, H, K, V);
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const BonusBackward& a) {
  visit<float, double, bf16>("bonus", a.d_out.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t H = a.v.size(2), V = a.v.size(3), K = a.r.size(3), tokens = a.v.size(0) * a.v.size(1), runs = (tokens + run - 1) / run;
    if (tokens * H == 0) return;
    const Tensor partial = a.d_weight ? Tensor(a.device(), {runs, H * K}, dtype_of<A>()) : Tensor{};
    bonus_backward_kernel<T><<<cuda::blocks_for(runs * H, warps), dim3(32, warps), 0, cuda::stream_of(a.device())>>>(
        a.r.data<T>(), a.k.data<T>(), a.v.data<T>(), a.d_out.data<T>(), a.weight.data<A>(), pointer<T>(a.d_r), pointer<T>(a.d_k),
        pointer<T>(a.d_v), pointer<A>(partial), tokens, H, K, V);
    cuda::cuda_check(cudaGetLastError());
    if (partial) cuda::add_partials<A>(partial, cuda::ToArray<A>{a.d_weight.data<A>()});
  });
}

const Implement f{bonus_forward, DeviceKind::cuda, forward};
const Implement b{bonus_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
