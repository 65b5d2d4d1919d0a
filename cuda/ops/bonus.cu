// bonus on CUDA: a head of a token in registers, some threads each; the weight's gradient through sums of blocks.
//   grid     forward a block per 256 / (H lanes) tokens; backward 264 or 528 blocks over all tokens; or a warp a head
//   traffic  forward reads y r k v, writes out; backward reads r k v d_out, writes d_r d_k d_v, and 2 % of r
//   limits   f32 f64 bf16; fast where K = V is whole 16-byte vectors, at most 512 in all heads; any shape otherwise
//   ceiling  HBM bandwidth: [8,2048,12,64] in bf16 takes 42 us forward, 59 us backward at 3 TB/s
#include "tensor/ops/bonus.h"

#include "cuda/sums.cuh"
#include "cuda/rows.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256;
constexpr int most = 2;                                   // vectors of a thread
constexpr int resident(int n) { return n == 1 ? 4 : 2; }  // blocks of a multiprocessor, backward

// The loops over a part of a head, and their sums.
template <class T, int n>
struct Parts {
  using A = Acc<T>;
  static constexpr int width = 16 / sizeof(T);
  cuda::RowPart<T, n, width> a, b;

  __device__ Parts(const T* g_a, const T* g_b, int vectors, bool present) {
    a.load(g_a, vectors, present);
    b.load(g_b, vectors, present);
  }
  __device__ void get(int i, A (&r_a)[width], A (&r_b)[width]) const {
    a.get(i, r_a);
    b.get(i, r_b);
  }
  __device__ A dot() const {
    A sum = 0;
#pragma unroll
    for (int i = 0; i < n; ++i) {
      A a_i[width], b_i[width];
      get(i, a_i, b_i);
#pragma unroll
      for (int k = 0; k < width; ++k) sum += a_i[k] * b_i[k];
    }
    return sum;
  }
  __device__ A dot(const cuda::RowPart<A, n, width>& w) const {
    A sum = 0;
#pragma unroll
    for (int i = 0; i < n; ++i) {
      A a_i[width], b_i[width];
      get(i, a_i, b_i);
#pragma unroll
      for (int k = 0; k < width; ++k) sum += a_i[k] * b_i[k] * w.at[i].at[k];
    }
    return sum;
  }
};

template <class T>
struct Forward {
  const T *g_y, *g_r, *g_k, *g_v;  // [B,T,H,V or K]
  const Acc<T>* g_weight;          // [H,K]
  T* g_out;                        // [B,T,H,V]
  int64_t tokens, H, K, V;
};

template <class T, int n>
__global__ void __launch_bounds__(cuda::row_threads) bonus_forward_kernel(const Forward<T> a, int vectors) {
  using A = Acc<T>;
  constexpr int width = 16 / sizeof(T);
  __shared__ A s_warp[cuda::row_warps];
  const int64_t token = int64_t(blockIdx.x) * blockDim.z + threadIdx.z, at = (token * a.H + threadIdx.y) * a.K;
  const bool present = token < a.tokens;
  const Parts<T, n> rk(a.g_r + at, a.g_k + at, vectors, present), yv(a.g_y + at, a.g_v + at, vectors, present);
  cuda::RowPart<A, n, width> w;
  w.load(a.g_weight + threadIdx.y * a.K, vectors, present);
  const A c = cuda::row_sum(rk.dot(w), s_warp);
#pragma unroll
  for (int i = 0; i < n; ++i) {
    A y[width], v[width], out[width];
    yv.get(i, y, v);
#pragma unroll
    for (int k = 0; k < width; ++k) out[k] = y[k] + c * v[k];
    cuda::store_row_vector(a.g_out + at, i, out, vectors, present);
  }
}

template <class T>
struct Backward {
  const T *g_r, *g_k, *g_v, *g_d_out;  // [B,T,H,K or V]
  const Acc<T>* g_weight;              // [H,K]
  T *g_d_r, *g_d_k, *g_d_v;            // or null
  int64_t tokens, H, K, V;
};

template <class T, int n>
__global__ void __launch_bounds__(cuda::row_threads, resident(n))
    bonus_backward_kernel(const Backward<T> a,
                          Acc<T>* g_partial,  // [blocks,H,K] or null
                          int vectors) {
  using A = Acc<T>;
  constexpr int width = 16 / sizeof(T);
  __shared__ A s_warp[4][cuda::row_warps], s_sum[cuda::row_threads * n * width];
  cuda::RowPart<A, n, width> w;
  w.load(a.g_weight + threadIdx.y * a.K, vectors, true);
  A r_sum[n][width] = {};
  int turn = 0;
  for (int64_t first = int64_t(blockIdx.x) * blockDim.z; first < a.tokens; first += int64_t(gridDim.x) * blockDim.z) {
    const int64_t token = first + threadIdx.z, at = (token * a.H + threadIdx.y) * a.K;
    const bool present = token < a.tokens;
    const Parts<T, n> rk(a.g_r + at, a.g_k + at, vectors, present), vd(a.g_v + at, a.g_d_out + at, vectors, present);
    turn ^= 2;
    const A c = cuda::row_sum(rk.dot(w), s_warp[turn]), g = cuda::row_sum(vd.dot(), s_warp[turn + 1]);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      A r[width], key[width], v[width], d_out[width], d_r[width], d_k[width], d_v[width];
      rk.get(i, r, key);
      vd.get(i, v, d_out);
#pragma unroll
      for (int k = 0; k < width; ++k) {
        d_r[k] = g * key[k] * w.at[i].at[k];
        d_k[k] = g * r[k] * w.at[i].at[k];
        d_v[k] = c * d_out[k];
        r_sum[i][k] += g * r[k] * key[k];
      }
      cuda::store_row_vector(a.g_d_r + at, i, d_r, vectors, present && a.g_d_r);
      cuda::store_row_vector(a.g_d_k + at, i, d_k, vectors, present && a.g_d_k);
      cuda::store_row_vector(a.g_d_v + at, i, d_v, vectors, present && a.g_d_v);
    }
  }
  if (g_partial) cuda::store_column_sums(r_sum, s_sum, g_partial + blockIdx.x * a.H * a.K, vectors);
}

// Any K and V: a warp per head of a token.
template <class T>
__device__ Acc<T> bracket(const T* g_r, const T* g_k, const Acc<T>* g_weight, int64_t K) {
  Acc<T> sum = 0;
  for (int64_t j = threadIdx.x % 32; j < K; j += 32) sum += Acc<T>(g_r[j]) * Acc<T>(g_k[j]) * g_weight[j];
  return cuda::warp_sum(sum);
}

template <class T>
__global__ void bonus_forward_plain_kernel(const Forward<T> a) {
  using A = Acc<T>;
  const int64_t i = cuda::thread_index() / 32, lane = threadIdx.x % 32;
  if (i >= a.tokens * a.H) return;
  const A c = bracket(a.g_r + i * a.K, a.g_k + i * a.K, a.g_weight + i % a.H * a.K, a.K);
  for (int64_t j = i * a.V + lane; j < (i + 1) * a.V; j += 32) a.g_out[j] = T(A(a.g_y[j]) + c * A(a.g_v[j]));
}

template <class T>
__global__ void bonus_backward_plain_kernel(const Backward<T> a, Acc<T>* g_g) {  // [B,T,H]: <d_out, v>
  using A = Acc<T>;
  const int64_t i = cuda::thread_index() / 32, lane = threadIdx.x % 32;
  if (i >= a.tokens * a.H) return;
  const T *r = a.g_r + i * a.K, *k = a.g_k + i * a.K, *v = a.g_v + i * a.V, *d_out = a.g_d_out + i * a.V;
  const A* w = a.g_weight + i % a.H * a.K;
  A g = 0;
  for (int64_t j = lane; j < a.V; j += 32) g += A(d_out[j]) * A(v[j]);
  g = cuda::warp_sum(g);
  if (lane == 0) g_g[i] = g;
  for (int64_t j = lane; j < a.K; j += 32) {
    if (a.g_d_r) a.g_d_r[i * a.K + j] = T(g * A(k[j]) * w[j]);
    if (a.g_d_k) a.g_d_k[i * a.K + j] = T(g * A(r[j]) * w[j]);
  }
  if (!a.g_d_v) return;
  const A c = bracket(r, k, w, a.K);
  for (int64_t j = lane; j < a.V; j += 32) a.g_d_v[i * a.V + j] = T(c * A(d_out[j]));
}

template <class T>
struct WeightTerm {    // of [H,K]
  const T *g_r, *g_k;  // [B,T,H,K]
  const Acc<T>* g_g;   // [B,T,H]
  int64_t H, K;
  __device__ Acc<T> operator()(int64_t token, int64_t column) const {
    const int64_t at = token * H * K + column;
    return g_g[token * H + column / K] * Acc<T>(g_r[at]) * Acc<T>(g_k[at]);
  }
};

// Some threads for each head, if pointers and sizes allow.
template <class T>
cuda::RowPlan plan(int64_t H, int64_t K, int64_t V, const Acc<T>* weight, std::initializer_list<const T*> pointers) {
  constexpr int width = 16 / sizeof(T);
  const bool fits =
      K > 0 && K == V && cuda::vector_fits<T>(width, K, pointers) && cuda::vector_fits<Acc<T>>(width, K, {weight});
  return fits ? cuda::plan_rows<T>(K, H, most) : cuda::RowPlan{};
}

template <class T>
T* pointer(const Tensor& t) {
  return t ? t.data<T>() : nullptr;
}

void forward(const BonusForward& a) {
  visit<float, double, bf16>("bonus", a.y.dtype(), [&]<class T>() {
    const Forward<T> all{.g_y = a.y.data<T>(),
                         .g_r = a.r.data<T>(),
                         .g_k = a.k.data<T>(),
                         .g_v = a.v.data<T>(),
                         .g_weight = a.weight.data<Acc<T>>(),
                         .g_out = a.out.data<T>(),
                         .tokens = a.v.size(0) * a.v.size(1),
                         .H = a.v.size(2),
                         .K = a.r.size(3),
                         .V = a.v.size(3)};
    const int64_t heads = all.tokens * all.H;
    if (heads == 0) return;
    const cudaStream_t stream = cuda::stream_of(a.device());
    if (const cuda::RowPlan p =
            plan<T>(all.H, all.K, all.V, all.g_weight, {all.g_y, all.g_r, all.g_k, all.g_v, all.g_out}))
      cuda::visit_row_vectors<most>(p.n, [&]<int n>() {
        bonus_forward_kernel<T, n><<<p.blocks(all.tokens), p.block, 0, stream>>>(all, p.vectors);
      });
    else bonus_forward_plain_kernel<T><<<cuda::blocks_for(heads * 32, threads), threads, 0, stream>>>(all);
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const BonusBackward& a) {
  visit<float, double, bf16>("bonus", a.d_out.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const Backward<T> all{.g_r = a.r.data<T>(),
                          .g_k = a.k.data<T>(),
                          .g_v = a.v.data<T>(),
                          .g_d_out = a.d_out.data<T>(),
                          .g_weight = a.weight.data<A>(),
                          .g_d_r = pointer<T>(a.d_r),
                          .g_d_k = pointer<T>(a.d_k),
                          .g_d_v = pointer<T>(a.d_v),
                          .tokens = a.v.size(0) * a.v.size(1),
                          .H = a.v.size(2),
                          .K = a.r.size(3),
                          .V = a.v.size(3)};
    const int64_t heads = all.tokens * all.H, columns = all.H * all.K;
    const cudaStream_t stream = cuda::stream_of(a.device());
    const cuda::ToArray<A> to{pointer<A>(a.d_weight)};
    if (const cuda::RowPlan p = plan<T>(all.H, all.K, all.V, all.g_weight,
                                        {all.g_r, all.g_k, all.g_v, all.g_d_out, all.g_d_r, all.g_d_k, all.g_d_v})) {
      const int64_t blocks = cuda::partial_sums(p.blocks(all.tokens), resident(p.n));
      const Tensor partial = a.d_weight ? Tensor(a.device(), {blocks, columns}, dtype_of<A>()) : Tensor();
      cuda::visit_row_vectors<most>(p.n, [&]<int n>() {
        bonus_backward_kernel<T, n><<<unsigned(blocks), p.block, 0, stream>>>(all, pointer<A>(partial), p.vectors);
      });
      cuda::cuda_check(cudaGetLastError());
      if (a.d_weight) cuda::add_partials<A>(partial, to);
      return;
    }
    const Tensor g(a.device(), {all.tokens, all.H}, dtype_of<A>());
    if (heads > 0) {
      bonus_backward_plain_kernel<T><<<cuda::blocks_for(heads * 32, threads), threads, 0, stream>>>(all, g.data<A>());
      cuda::cuda_check(cudaGetLastError());
    }
    if (a.d_weight)
      cuda::column_sums(a.device(), WeightTerm<T>{all.g_r, all.g_k, g.data<A>(), all.H, all.K}, to, all.tokens, columns);
  });
}

const Implement f{bonus_forward, DeviceKind::cuda, forward};
const Implement b{bonus_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
