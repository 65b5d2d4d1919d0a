// dplr_scan, the plain way: any shape and dtype. One block walks a head through pieces of 16 tokens, as the CPU does.
//
// Matrices that threads read along their short side have odd row lengths, so that 32 rows lie in 32 banks.
#pragma once
#include <cuda_runtime.h>

#include <nv/target>

#include "cuda/hopper.cuh"
#include "tensor/ops/dplr_scan.h"
#include "tensor/vector_math.h"

namespace taper::kernels::dplr_plain {

constexpr int threads = 256, warps = threads / 32;
constexpr int piece = 16, side = 2 * piece;  // tokens at a time; their keys, or queries, of both kinds
constexpr int column = piece + 1, pair_column = side + 1;

template <class T>
struct View {
  const T *g_r, *g_k, *g_v, *g_a, *g_b;  // [B,T,H,K], v [B,T,H,V]
  const Acc<T>*g_log_w, *g_initial;      // [B,T,H,K], [B,H,K,V] or null
  PackingView packing;
  int64_t steps, H;
  int K, V;

  explicit View(const DplrScanInputs& in)
      : g_r(in.r.data<T>()), g_k(in.k.data<T>()), g_v(in.v.data<T>()), g_a(in.a.data<T>()), g_b(in.b.data<T>()),
        g_log_w(in.log_w.data<Acc<T>>()), g_initial(in.initial ? in.initial.data<Acc<T>>() : nullptr),
        packing(in.packing, in.r.size(1)), steps(in.r.size(1)), H(in.r.size(2)), K(int(in.r.size(3))),
        V(int(in.v.size(3))) {}

  __device__ int64_t head(int64_t n, int64_t t, int64_t h) const { return (n * steps + t) * H + h; }
};

// One piece of one head and the state around it. Of the queries, column i is a_i and column piece+i is r_i; of the keys,
// k_j and b_j; of the rows, v_j and m_j. What lies behind the end is 0.
template <class A>
struct Piece {
  int K, V, R;              // R: the length of a row of V
  A *decay, *r, *a;         // [K][column] exp(log_w), 0 where a document begins; a: 0 there
  A *queries, *keys;        // [K][pair_column] as the state before the piece sees them; as its end sees them
  A *pairs;                 // [side][side] queries against keys
  A *whole;                 // [K] what is left of the state
  A *rows;                  // [side][R]
  A *S;                     // [K][R]
  A *parts;                 // [warps][side][side]; then y, [piece][R], or d_pairs, d_queries and d_keys
  A *Z, *d_rows, *kept;     // the backward: [K][R] d S after the piece; [3 piece][R] d of v, m, y; [K]

  // The number of A, and the pieces themselves where memory is given.
  __host__ __device__ static int64_t lay(int K, int V, bool backward, A* memory, Piece* p) {
    const int64_t R = V | 1, gradients = int64_t(side) * side + 2 * int64_t(side) * K;
    const int64_t parts = int64_t(warps) * side * side, later = backward ? gradients : piece * R;
    Piece c{};
    c.K = K, c.V = V, c.R = int(R);
    int64_t used = 0;
    const auto take = [&](A*& to, int64_t n) {
      to = memory + used;
      used += n;
    };
    take(c.decay, K * column), take(c.r, K * column), take(c.a, K * column);
    take(c.queries, K * pair_column), take(c.keys, K * pair_column);
    take(c.pairs, side * side), take(c.whole, K), take(c.rows, side * R), take(c.S, K * R);
    take(c.parts, later > parts ? later : parts);
    if (backward) take(c.Z, K * R), take(c.d_rows, 3 * piece * R), take(c.kept, K);
    if (p) *p = c;
    return used;
  }
  __device__ A* d_pairs() const { return parts; }                                  // [side][side]
  __device__ A* d_queries() const { return parts + side * side; }                  // [side][K]
  __device__ A* d_keys() const { return parts + side * side + int64_t(side) * K; }  // [side][K]
};

// out(i, j, sum of left(i, k) right(k, j) over k) for all i < M, j < N: a thread takes `tall` rows of one column.
template <class A, int tall, class Left, class Right, class Out>
__device__ void product(int M, int N, int depth, Left left, Right right, Out out) {
  const int lane = int(threadIdx.x) % 32, across = (N + 31) / 32, down = (M + tall - 1) / tall;
  for (int tile = int(threadIdx.x) / 32; tile < across * down; tile += warps) {
    const int j = tile % across * 32 + lane, i = tile / across * tall;
    if (j >= N) continue;
    A r_sum[tall] = {};
    for (int k = 0; k < depth; ++k) {
      const A x = right(k, j);
#pragma unroll
      for (int u = 0; u < tall; ++u) r_sum[u] += left(i + u < M ? i + u : M - 1, k) * x;
    }
#pragma unroll
    for (int u = 0; u < tall; ++u)
      if (i + u < M) out(i + u, j, r_sum[u]);
  }
}

// Token `begin` and the L - 1 after it: everything of Piece but m, S and what the backward adds. Ends with a barrier.
template <class T, class A = Acc<T>>
__device__ void load(const View<T>& v, const Piece<A>& c, int64_t n, int64_t h, int64_t begin, int L) {
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, K = c.K;
  for (int i = warp; i < piece; i += warps) {
    const bool here = i < L, resets = here && v.packing.resets(n, begin + i);
    const int64_t at = here ? v.head(n, begin + i, h) : 0;
    for (int q = lane; q < K; q += 32) {
      const int64_t from = at * K + q;
      c.decay[q * column + i] = !here ? A(1) : resets ? A(0) : math::exp(v.g_log_w[from]);
      c.r[q * column + i] = here ? A(v.g_r[from]) : A(0);
      c.a[q * column + i] = here && !resets ? A(v.g_a[from]) : A(0);
      c.keys[q * pair_column + i] = here ? A(v.g_k[from]) : A(0);
      c.keys[q * pair_column + piece + i] = here ? A(v.g_b[from]) : A(0);
    }
    for (int p = lane; p < c.V; p += 32) c.rows[i * c.R + p] = here ? A(v.g_v[at * c.V + p]) : A(0);
  }
  __syncthreads();

  for (int q = int(threadIdx.x); q < K; q += threads) {
    double r_sum = 0;  // D_L- acts on all that follows: e to a sum in f64
    bool cut = false;
    for (int i = 0; i < L; ++i) {
      r_sum += double(v.g_log_w[v.head(n, begin + i, h) * K + q]);
      cut = cut || v.packing.resets(n, begin + i);
    }
    c.whole[q] = cut ? A(0) : math::exp(A(r_sum));
    A gain = 1;
    c.queries[q * pair_column] = c.a[q * column];
    for (int i = 0; i < piece; ++i) {
      gain *= c.decay[q * column + i];
      c.queries[q * pair_column + piece + i] = c.r[q * column + i] * gain;
      if (i + 1 < piece) c.queries[q * pair_column + i + 1] = c.a[q * column + i + 1] * gain;
    }
  }

  // Each lane has one key and a warp every eighth channel: token by token the key decays, after it has come, and meets
  // r_i and a_{i+1}. Then the warps' shares are added.
  A r_meets[piece] = {}, a_meets[piece] = {};  // with r_i, with a_{i+1}
  for (int q = warp; q < K; q += warps) {
    const A own = c.keys[q * pair_column + lane];
    A key = 0;
#pragma unroll
    for (int i = 0; i < piece; ++i) {
      key = i == lane % piece ? own : key * c.decay[q * column + i];
      r_meets[i] += c.r[q * column + i] * key;
      if (i + 1 < piece) a_meets[i] += c.a[q * column + i + 1] * key;
    }
    c.keys[q * pair_column + lane] = key;
  }
  A* part = c.parts + warp * side * side;
#pragma unroll
  for (int i = 0; i < piece; ++i) {
    part[(piece + i) * side + lane] = r_meets[i];
    part[(i + 1) % piece * side + lane] = i + 1 < piece ? a_meets[i] : A(0);  // a_0 meets none
  }
  __syncthreads();
  for (int e = int(threadIdx.x); e < side * side; e += threads) {
    A sum = 0;
    for (int w = 0; w < warps; ++w) sum += c.parts[w * side * side + e];
    c.pairs[e] = sum;
  }
  __syncthreads();
}

// m from (I - A_b) m = A_k v + a' S, for which rows m holds a' S. Begins and ends with a barrier.
template <class A>
__device__ void solve(const Piece<A>& c) {
  __syncthreads();
  for (int p = int(threadIdx.x); p < c.V; p += threads) {
    A value[piece], m[piece];
#pragma unroll
    for (int i = 0; i < piece; ++i) {
      value[i] = c.rows[i * c.R + p];
      m[i] = c.rows[(piece + i) * c.R + p];
#pragma unroll
      for (int j = 0; j < i; ++j) m[i] += c.pairs[i * side + j] * value[j] + c.pairs[i * side + piece + j] * m[j];
      c.rows[(piece + i) * c.R + p] = m[i];
    }
  }
  __syncthreads();
}

// S goes from before the piece to after it.
template <class A>
__device__ void advance(const Piece<A>& c) {
  product<A, 8>(
      c.K, c.V, side, [&](int q, int j) { return c.keys[q * pair_column + j]; },
      [&](int j, int p) { return c.rows[j * c.R + p]; },
      [&](int q, int p, A x) { c.S[q * c.R + p] = c.whole[q] * c.S[q * c.R + p] + x; });
}

// The block's memory: shared where it fits, else its part of g_memory.
template <class A>
__device__ Piece<A> lay_out(int K, int V, bool backward, A* g_memory) {
  extern __shared__ __align__(16) unsigned char s_memory[];
  Piece<A> c;
  const int64_t size = Piece<A>::lay(K, V, backward, nullptr, nullptr);
  Piece<A>::lay(K, V, backward, g_memory ? g_memory + blockIdx.x * size : reinterpret_cast<A*>(s_memory), &c);
  return c;
}

template <class T>
__global__ void __launch_bounds__(threads)
    dplr_scan_plain_forward_kernel(View<T> v, T* g_y,               // [B,T,H,V]
                                   Acc<T>* g_final,                 // [B,H,K,V]
                                   T* g_states, T* g_m,             // [B,chunks,H,K,V], [B,chunks,H,chunk,V], or null
                                   const int* g_left_out,           // [B,H] 0: another kernel takes this head; or null
                                   Acc<T>* g_memory, int64_t chunk) {
  using A = Acc<T>;
  NV_IF_TARGET(NV_PROVIDES_SM_90, (cuda::hopper::wait_for_one_before();))
  const int64_t bh = blockIdx.x, n = bh / v.H, h = bh % v.H;
  if (g_left_out && g_left_out[bh] == 0) return;
  const Piece<A> c = lay_out<A>(v.K, v.V, false, g_memory);
  const int K = v.K, V = v.V, R = c.R, lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int64_t KV = int64_t(K) * V, chunks = (v.steps + chunk - 1) / chunk;
  for (int q = warp; q < K; q += warps)
    for (int p = lane; p < V; p += 32) c.S[q * R + p] = v.g_initial ? v.g_initial[bh * KV + q * V + p] : A(0);
  for (int64_t at = 0; at < chunks; ++at) {
    const int64_t slot = (n * chunks + at) * v.H + h;
    __syncthreads();
    if (g_states)
      for (int q = warp; q < K; q += warps)
        for (int p = lane; p < V; p += 32) g_states[slot * KV + q * V + p] = T(c.S[q * R + p]);
    const int64_t end = min((at + 1) * int64_t(chunk), v.steps);
    for (int64_t begin = at * chunk; begin < end; begin += piece) {
      const int L = int(min(int64_t(piece), end - begin));
      load(v, c, n, h, begin, L);
      A* y = c.parts;  // [piece][R], what the state before the piece gives
      product<A, 8>(
          side, V, K, [&](int i, int q) { return c.queries[q * pair_column + i]; }, [&](int q, int p) { return c.S[q * R + p]; },
          [&](int i, int p, A x) { (i < piece ? c.rows + (piece + i) * R : y + (i - piece) * R)[p] = x; });
      solve(c);
      if (g_m)
        for (int i = warp; i < L; i += warps)
          for (int p = lane; p < V; p += 32)
            g_m[(slot * chunk + begin - at * chunk + i) * V + p] = T(c.rows[(piece + i) * R + p]);
      product<A, 8>(
          L, V, side, [&](int i, int j) { return c.pairs[(piece + i) * side + j]; },
          [&](int j, int p) { return c.rows[j * R + p]; },
          [&](int i, int p, A x) { g_y[v.head(n, begin + i, h) * V + p] = T(y[i * R + p] + x); });
      advance(c);
      __syncthreads();
    }
  }
  for (int q = warp; q < K; q += warps)
    for (int p = lane; p < V; p += 32) g_final[bh * KV + q * V + p] = c.S[q * R + p];
}

}  // namespace taper::kernels::dplr_plain
