// delta_scan on CUDA for any shape, chunk and dtype: the chunked form in the CPU's three passes, a block of threads
// where the CPU has one. Sums are kept in Acc<T>; temporaries live in device memory.
#pragma once
#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/ops/delta_scan_recurrent.cuh"
#include "cuda/reduce.cuh"
#include "tensor/vector_math.h"

namespace taper::kernels::delta_plain {

constexpr int64_t state_columns = 64;  // of a state that one block passes along: columns do not meet

// The decays of every chunk, [B,chunks,H,chunk] each; see chunk_decay.h.
template <class A>
struct Decays {
  double* sum;
  A *in, *out;
};

// One chunk of one head, as a block sees it. Blocks are numbered as the chunks are.
template <class T>
struct Chunk {
  using A = Acc<T>;
  const View<T>& v;
  int64_t index, n, h, begin, L;
  const T *q, *k;
  const A *beta, *in, *out;
  const double* sum;
  __device__ Chunk(const View<T>& v, const Decays<A>& d, int64_t index)
      : v(v),
        index(index),
        n(index / v.H / v.chunks),
        h(index % v.H),
        begin(index / v.H % v.chunks * v.chunk),
        L(min(v.chunk, v.steps - begin)) {
    const int64_t at = v.head(n, begin, h);
    q = v.q + at * v.K;
    k = v.k + at * v.K;
    beta = v.beta + at;
    in = d.in + index * v.chunk;
    out = d.out + index * v.chunk;
    sum = d.sum + index * v.chunk;
  }
  __device__ int64_t columns_at() const { return v.head(n, begin, h) * v.V; }  // of v, y, ...
  __device__ A query(int64_t i, int64_t s) const { return A(q[i * v.H * v.K + s]); }
  __device__ A key(int64_t i, int64_t s) const { return A(k[i * v.H * v.K + s]); }
  __device__ A rate(int64_t i) const { return beta[i * v.H]; }
  // Masked before the exponential.
  __device__ A decay(int64_t i, int64_t j) const {
    return j <= i && j >= v.packing.start_of(n, begin + i) - begin ? math::exp(A(sum[i] - sum[j])) : A(0);
  }
};

template <class T>
__global__ void decays_kernel(View<T> v, Decays<Acc<T>> d) {
  using A = Acc<T>;
  const int64_t index = cuda::thread_index();
  if (index >= v.B * v.chunks * v.H) return;
  const int64_t n = index / v.H / v.chunks, h = index % v.H, begin = index / v.H % v.chunks * v.chunk;
  const int64_t L = min(v.chunk, v.steps - begin), at = index * v.chunk;
  double s = 0;
  for (int64_t i = 0; i < L; ++i) {
    d.sum[at + i] = s += double(v.log_a[v.head(n, begin + i, h)]);
    const int64_t start = v.packing.start_of(n, begin + i);
    d.in[at + i] = (begin == 0 ? start == 0 : start < begin) ? math::exp(A(s)) : A(0);
  }
  const int64_t from = v.packing.start_of(n, begin + L - 1) - begin;
  for (int64_t j = 0; j < L; ++j) d.out[at + j] = j >= from ? math::exp(A(s - d.sum[at + j])) : A(0);
}

constexpr int side = 64, depth = 16;  // a product's tile, and how much of the inner dimension is in shared memory

template <class A>
struct Panels {
  A a[depth][side + 1], b[depth][side + 1];
};

// put(i, j, sum over k of a(i, k) b(k, j)) for i < M, j < N, by the whole block: 64 by 64 at a time, 4 by 4 a thread.
// `put` may read what it overwrites; a and b must not. The block sees all of it on return.
template <class T, class Left, class Right, class Put>
__device__ void product(Panels<T>& s, int64_t M, int64_t N, int64_t K, Left a, Right b, Put put) {
  const int row = threadIdx.x / 16, column = threadIdx.x % 16;
  for (int64_t top = 0; top < M; top += side)
    for (int64_t left = 0; left < N; left += side) {
      T r[4][4] = {};
      for (int64_t begin = 0; begin < K; begin += depth) {
        __syncthreads();  // the panels before these are read
        for (int x = threadIdx.x; x < side * depth; x += threads) {
          const int64_t i = top + x / depth, j = left + x % side, ka = begin + x % depth, kb = begin + x / side;
          s.a[x % depth][x / depth] = i < M && ka < K ? a(i, ka) : T(0);
          s.b[x / side][x % side] = j < N && kb < K ? b(kb, j) : T(0);
        }
        __syncthreads();
        for (int k = 0; k < depth; ++k)
          for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 4; ++j) r[i][j] += s.a[k][row + 16 * i] * s.b[k][column + 16 * j];
      }
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j)
          if (top + row + 16 * i < M && left + column + 16 * j < N)
            put(top + row + 16 * i, left + column + 16 * j, r[i][j]);
    }
  __syncthreads();
}

// The inverse of I + B diag(beta), or with `rows` of I + diag(beta) B, by substitution: a thread per column.
template <class T>
__global__ void inverse_kernel(View<T> v, Decays<Acc<T>> d, bool rows,
                               Acc<T>* g_system,   // [B,chunks,H,C,C]
                               Acc<T>* g_inverse)  // [B,chunks,H,C,C]
{
  using A = Acc<T>;
  __shared__ Panels<A> s_panels;
  const Chunk<T> c(v, d, blockIdx.x);
  const int64_t C = v.chunk;
  A *system = g_system + c.index * C * C, *X = g_inverse + c.index * C * C;
  product(
      s_panels, c.L, c.L, v.K, [&](int64_t i, int64_t s) { return c.key(i, s); },
      [&](int64_t s, int64_t j) { return c.key(j, s); },
      [&](int64_t i, int64_t j, A sum) {
        system[i * C + j] = j < i ? sum * c.decay(i, j) * c.rate(rows ? i : j) : A(0);
      });
  for (int64_t j = threadIdx.x; j < c.L; j += threads)
    for (int64_t i = 0; i < c.L; ++i) {
      A x = i == j ? A(1) : A(0);
      for (int64_t m = j; m < i; ++m) x -= system[i * C + m] * X[m * C + j];
      X[i * C + j] = x;
    }
}

// Passes a group of columns of the state along: what it gets wrong, then what that adds to it.
template <class T>
__global__ void states_kernel(View<T> v, Decays<Acc<T>> d,
                              const Acc<T>* g_inverse,  // [B,chunks,H,C,C]
                              Acc<T>* g_rest,           // [B,H,C,V]
                              Acc<T>* g_final,          // [B,H,K,V], where the state runs
                              Acc<T>* g_states,         // [B,chunks,H,K,V]
                              Acc<T>* g_errors)         // [B,T,H,V]
{
  using A = Acc<T>;
  __shared__ Panels<A> s_panels;
  const int64_t bh = blockIdx.x, n = bh / v.H, h = bh % v.H, left = int64_t(blockIdx.y) * state_columns;
  const int64_t columns = min(state_columns, v.V - left), V = v.V, C = v.chunk;
  A *S = g_final + bh * v.KV + left, *r = g_rest + bh * C * V + left;
  for (int64_t x = threadIdx.x; x < v.K * columns; x += threads) {
    const int64_t at = x / columns * V + x % columns;
    S[at] = v.initial ? v.initial[bh * v.KV + left + at] : A(0);
  }
  for (int64_t at = 0; at < v.chunks; ++at) {
    const Chunk<T> c(v, d, (n * v.chunks + at) * v.H + h);
    const T* value = v.v + c.columns_at() + left;
    A *slot = g_states + c.index * v.KV + left, *e = g_errors + c.columns_at() + left;
    const A *inverse = g_inverse + c.index * C * C, whole = c.in[c.L - 1];
    __syncthreads();
    for (int64_t x = threadIdx.x; x < v.K * columns; x += threads) {
      const int64_t to = x / columns * V + x % columns;
      slot[to] = S[to];
    }
    product(
        s_panels, c.L, columns, v.K, [&](int64_t i, int64_t s) { return c.key(i, s); },
        [&](int64_t s, int64_t p) { return S[s * V + p]; },
        [&](int64_t i, int64_t p, A sum) { r[i * V + p] = A(value[i * v.H * V + p]) - c.in[i] * sum; });
    product(
        s_panels, c.L, columns, c.L, [&](int64_t i, int64_t j) { return j <= i ? inverse[i * C + j] : A(0); },
        [&](int64_t j, int64_t p) { return r[j * V + p]; },
        [&](int64_t i, int64_t p, A sum) { e[i * v.H * V + p] = sum; });
    product(
        s_panels, v.K, columns, c.L, [&](int64_t s, int64_t j) { return c.key(j, s); },
        [&](int64_t j, int64_t p) { return c.out[j] * c.rate(j) * e[j * v.H * V + p]; },
        [&](int64_t s, int64_t p, A sum) { S[s * V + p] = whole * S[s * V + p] + sum; });
  }
}

// Outputs: pairs inside the chunk, and the state before it, as one product.
template <class T>
__global__ void outputs_kernel(View<T> v, Decays<Acc<T>> d,
                               Acc<T>* g_pairs,         // [B,chunks,H,C,C]
                               const Acc<T>* g_states,  // [B,chunks,H,K,V]
                               const Acc<T>* g_errors,  // [B,T,H,V]
                               T* g_y)                  // [B,T,H,V]
{
  using A = Acc<T>;
  __shared__ Panels<A> s_panels;
  const Chunk<T> c(v, d, blockIdx.x);
  const int64_t C = v.chunk, V = v.V, L = c.L;
  A* P = g_pairs + c.index * C * C;
  const A *S = g_states + c.index * v.KV, *e = g_errors + c.columns_at();
  T* y = g_y + c.columns_at();
  product(
      s_panels, L, L, v.K, [&](int64_t i, int64_t s) { return c.query(i, s); },
      [&](int64_t s, int64_t j) { return c.key(j, s); },
      [&](int64_t i, int64_t j, A sum) { P[i * C + j] = sum * c.decay(i, j) * c.rate(j); });
  product(
      s_panels, L, V, L + v.K, [&](int64_t i, int64_t j) { return j < L ? P[i * C + j] : c.in[i] * c.query(i, j - L); },
      [&](int64_t j, int64_t p) { return j < L ? e[j * v.H * V + p] : S[(j - L) * V + p]; },
      [&](int64_t i, int64_t p, A sum) { y[i * v.H * V + p] = T(v.scale * sum); });
}

// What the backward pass will read, in the inputs' dtype.
template <class T>
__global__ void round_kernel(const Acc<T>* g_from, T* g_to, int64_t n) {
  const int64_t i = cuda::thread_index();
  if (i < n) g_to[i] = T(g_from[i]);
}

// P = scale (q_i . k_j) E_ij, for the pass that walks back.
template <class T>
__global__ void scores_kernel(View<T> v, Decays<Acc<T>> d, Acc<T>* g_pairs)  // [B,chunks,H,C,C]
{
  using A = Acc<T>;
  __shared__ Panels<A> s_panels;
  const Chunk<T> c(v, d, blockIdx.x);
  A* P = g_pairs + c.index * v.chunk * v.chunk;
  product(
      s_panels, c.L, c.L, v.K, [&](int64_t i, int64_t s) { return c.query(i, s); },
      [&](int64_t s, int64_t j) { return c.key(j, s); },
      [&](int64_t i, int64_t j, A sum) { P[i * v.chunk + j] = v.scale * sum * c.decay(i, j); });
}

// Passes d state back, a group of columns a block: w on the way, and into each slot d of the state after the chunk.
template <class T>
__global__ void d_states_kernel(View<T> v, Decays<Acc<T>> d,
                                const Acc<T>* g_inverse,  // [B,chunks,H,C,C]
                                const Acc<T>* g_pairs,    // [B,chunks,H,C,C]
                                const T* g_d_y,           // [B,T,H,V] or absent
                                const Acc<T>* g_d_final,  // [B,H,K,V] or absent
                                Acc<T>* g_rest,           // [B,H,C,V]
                                Acc<T>* g_running,        // [B,H,K,V]: d_initial at the end
                                Acc<T>* g_d_states,       // [B,chunks,H,K,V]
                                Acc<T>* g_w,              // [B,T,H,V]
                                T* g_d_v)                 // [B,T,H,V]
{
  using A = Acc<T>;
  __shared__ Panels<A> s_panels;
  const int64_t bh = blockIdx.x, n = bh / v.H, h = bh % v.H, left = int64_t(blockIdx.y) * state_columns;
  const int64_t columns = min(state_columns, v.V - left), V = v.V, C = v.chunk;
  A *Z = g_running + bh * v.KV + left, *r = g_rest + bh * C * V + left;
  for (int64_t x = threadIdx.x; x < v.K * columns; x += threads) {
    const int64_t at = x / columns * V + x % columns;
    Z[at] = g_d_final ? g_d_final[bh * v.KV + left + at] : A(0);
  }
  for (int64_t at = v.chunks - 1; at >= 0; --at) {
    const Chunk<T> c(v, d, (n * v.chunks + at) * v.H + h);
    const int64_t L = c.L, v_row = v.H * V;
    const T* dy = g_d_y ? g_d_y + c.columns_at() + left : nullptr;
    const A *inverse = g_inverse + c.index * C * C, *P = g_pairs + c.index * C * C, whole = c.in[L - 1];
    A *slot = g_d_states + c.index * v.KV + left, *w = g_w + c.columns_at() + left;
    T* d_v = g_d_v + c.columns_at() + left;
    __syncthreads();
    for (int64_t x = threadIdx.x; x < v.K * columns; x += threads) {
      const int64_t to = x / columns * V + x % columns;
      slot[to] = Z[to];
    }
    product(
        s_panels, L, columns, L + v.K,
        [&](int64_t j, int64_t i) { return i >= L   ? c.out[j] * c.key(j, i - L)
                                           : i >= j ? P[i * C + j]
                                                    : A(0); },
        [&](int64_t i, int64_t p) { return i >= L ? Z[(i - L) * V + p]
                                           : dy   ? A(dy[i * v_row + p])
                                                  : A(0); },
        [&](int64_t j, int64_t p, A sum) { r[j * V + p] = sum; });
    product(
        s_panels, L, columns, L, [&](int64_t j, int64_t i) { return i >= j ? inverse[i * C + j] : A(0); },
        [&](int64_t i, int64_t p) { return r[i * V + p]; },
        [&](int64_t j, int64_t p, A sum) {
          w[j * v_row + p] = sum;
          d_v[j * v_row + p] = T(c.rate(j) * sum);
        });
    product(
        s_panels, v.K, columns, 2 * L,
        [&](int64_t s, int64_t i) {
          return i < L ? v.scale * c.in[i] * c.query(i, s) : -c.in[i - L] * c.key(i - L, s);
        },
        [&](int64_t i, int64_t p) {
          return i >= L ? c.rate(i - L) * w[(i - L) * v_row + p] : dy ? A(dy[i * v_row + p]) : A(0);
        },
        [&](int64_t s, int64_t p, A sum) { Z[s * V + p] = whole * Z[s * V + p] + sum; });
  }
}

// What the last pass writes down beside its results.
template <class A>
struct Scratch {
  A *scores, *d_scores, *keys, *d_keys;  // [B,chunks,H,C,C]: q k^T, dP, k k^T, dM; scores ends as the pairs' sums
  A *x, *y, *w;                          // [B,T,H,K]
  A *ends, *starts;                      // [B,T,H]
};

// Everything else, chunk by chunk.
template <class T>
__global__ void gradients_kernel(View<T> v, Decays<Acc<T>> d, Scratch<Acc<T>> scratch,
                                 const T* g_states,         // [B,chunks,H,K,V]
                                 const T* g_errors,         // [B,T,H,V]
                                 const Acc<T>* g_d_states,  // [B,chunks,H,K,V]
                                 const Acc<T>* g_w,         // [B,T,H,V]
                                 const T* g_d_y,            // [B,T,H,V] or absent
                                 T* g_d_q, T* g_d_k, Acc<T>* g_d_log_a, Acc<T>* g_d_beta) {
  using A = Acc<T>;
  __shared__ Panels<A> s_panels;
  __shared__ double s_kept;
  const Chunk<T> c(v, d, blockIdx.x);
  const int64_t L = c.L, C = v.chunk, K = v.K, V = v.V, k_row = v.H * K, v_row = v.H * V,
                first = v.head(c.n, c.begin, c.h);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const T *e = g_errors + first * V, *dy = g_d_y ? g_d_y + first * V : nullptr, *S = g_states + c.index * v.KV;
  const A *Z = g_d_states + c.index * v.KV, *w = g_w + first * V;
  A *QK = scratch.scores + c.index * C * C, *dP = scratch.d_scores + c.index * C * C;
  A *KK = scratch.keys + c.index * C * C, *dM = scratch.d_keys + c.index * C * C;
  A *X = scratch.x + first * K, *Y = scratch.y + first * K, *W = scratch.w + first * K;
  A *ends = scratch.ends + first, *starts = scratch.starts + first;
  T *d_q = g_d_q + first * K, *d_k = g_d_k + first * K;
  auto key = [&](int64_t i, int64_t s) { return c.key(i, s); };
  auto key_of = [&](int64_t s, int64_t j) { return c.key(j, s); };
  auto error_of = [&](int64_t p, int64_t j) { return A(e[j * v_row + p]); };
  auto d_out = [&](int64_t i, int64_t p) { return dy ? A(dy[i * v_row + p]) : A(0); };
  auto l = [&](int64_t i, int64_t p) { return c.rate(i) * w[i * v_row + p]; };

  // Pairs inside the chunk.
  product(
      s_panels, L, L, K, [&](int64_t i, int64_t s) { return c.query(i, s); }, key_of,
      [&](int64_t i, int64_t j, A sum) { QK[i * C + j] = sum; });
  product(s_panels, L, L, K, key, key_of, [&](int64_t i, int64_t j, A sum) { KK[i * C + j] = sum; });
  product(s_panels, L, L, V, d_out, error_of,
          [&](int64_t i, int64_t j, A sum) { dP[i * C + j] = v.scale * c.decay(i, j) * c.rate(j) * sum; });
  product(s_panels, L, L, V, l, error_of,
          [&](int64_t i, int64_t j, A sum) { dM[i * C + j] = j < i ? -c.decay(i, j) * c.rate(j) * sum : A(0); });

  // State before the chunk to outputs (X) and to errors (Y); inputs to the state after it (W).
  product(
      s_panels, L, K, V, d_out, [&](int64_t p, int64_t s) { return A(S[s * V + p]); },
      [&](int64_t i, int64_t s, A sum) { X[i * k_row + s] = v.scale * c.in[i] * sum; });
  product(
      s_panels, L, K, V, l, [&](int64_t p, int64_t s) { return A(S[s * V + p]); },
      [&](int64_t i, int64_t s, A sum) { Y[i * k_row + s] = -c.in[i] * sum; });
  product(
      s_panels, L, K, V, [&](int64_t i, int64_t p) { return A(e[i * v_row + p]); },
      [&](int64_t p, int64_t s) { return Z[s * V + p]; },
      [&](int64_t i, int64_t s, A sum) { W[i * k_row + s] = c.out[i] * c.rate(i) * sum; });

  product(
      s_panels, L, K, L, [&](int64_t i, int64_t j) { return dP[i * C + j]; }, key,
      [&](int64_t i, int64_t s, A sum) { d_q[i * k_row + s] = T(sum + X[i * k_row + s]); });
  product(
      s_panels, L, K, 2 * L,
      [&](int64_t j, int64_t i) { return i < L ? dP[i * C + j] : dM[j * C + i - L] + dM[(i - L) * C + j]; },
      [&](int64_t i, int64_t s) { return i < L ? c.query(i, s) : c.key(i - L, s); },
      [&](int64_t j, int64_t s, A sum) { d_k[j * k_row + s] = T(sum + Y[j * k_row + s] + W[j * k_row + s]); });

  // Sums along a row, a warp each: in lanes, then across them.
  for (int64_t i = warp; i < L; i += threads / 32) {
    A of_beta = 0, end = 0, start = 0;
    for (int64_t p = lane; p < V; p += 32) of_beta += A(e[i * v_row + p]) * w[i * v_row + p];
    for (int64_t s = lane; s < K; s += 32) {
      end += c.query(i, s) * X[i * k_row + s] + c.key(i, s) * Y[i * k_row + s];
      start += c.key(i, s) * W[i * k_row + s];
    }
    for (int half = 16; half > 0; half /= 2) {
      of_beta += __shfl_xor_sync(0xffffffffu, of_beta, half);
      end += __shfl_xor_sync(0xffffffffu, end, half);
      start += __shfl_xor_sync(0xffffffffu, start, half);
    }
    if (lane == 0) {
      g_d_beta[first + i * v.H] = of_beta;
      ends[i * v.H] = end;
      starts[i * v.H] = start;
    }
  }

  // What crosses t. First of each row of pairs, what lies left of t.
  for (int64_t i = threadIdx.x; i < L; i += threads) {
    double left = 0;
    for (int64_t t = 0; t <= i; ++t) {
      const int64_t at = i * C + t;
      const double pair = double(dP[at] * QK[at] + dM[at] * KK[at]);
      QK[at] = A(left);
      left += pair;
    }
  }
  double part = 0;
  for (int64_t x = threadIdx.x; x < v.KV; x += threads) part += double(A(S[x]) * Z[x]);
  const double kept = cuda::block_sum<threads>(part);
  if (threadIdx.x == 0) s_kept = double(c.in[L - 1]) * kept;
  __syncthreads();
  for (int64_t t = threadIdx.x; t < L; t += threads) {
    double sum = s_kept;
    for (int64_t i = t; i < L; ++i) sum += double(QK[i * C + t]) + double(ends[i * v.H]);
    for (int64_t j = 0; j < t; ++j) sum += double(starts[j * v.H]);
    g_d_log_a[first + t * v.H] = A(sum);
  }
}

// ---- launches ----

// A grid must have a block, even where there is nothing to do.
inline dim3 head_blocks(const int64_t heads, int64_t V, int64_t columns) {
  return dim3(cuda::blocks_for(heads, 1), unsigned(std::max<int64_t>(1, (V + columns - 1) / columns)));
}

template <class T>
Decays<Acc<T>> make_decays(Device& device, const View<T>& v, Tensor& sums, Tensor& factors) {
  using A = Acc<T>;
  const int64_t tokens = v.B * v.chunks * v.H * v.chunk;
  sums = Tensor(device, {tokens}, Dtype::f64);
  factors = Tensor(device, {2, tokens}, dtype_of<A>());
  const Decays<A> d{sums.data<double>(), factors.data<A>(), factors.data<A>() + tokens};
  decays_kernel<T><<<cuda::blocks_for(v.B * v.chunks * v.H, 32), 32, 0, cuda::stream_of(device)>>>(v, d);
  cuda::cuda_check(cudaGetLastError());
  return d;
}

template <class T>
void round_into(const Tensor& from, const Tensor& to) {
  if (to.numel() == 0) return;
  round_kernel<T><<<cuda::blocks_for(to.numel(), threads), threads, 0, cuda::stream_of(to.device())>>>(
      from.data<Acc<T>>(), to.data<T>(), to.numel());
  cuda::cuda_check(cudaGetLastError());
}

template <class T>
void forward(const DeltaScanForward& a) {
  using A = Acc<T>;
  Device& device = a.device();
  const View<T> v(a.in, a.chunk);
  const cudaStream_t stream = cuda::stream_of(device);
  if (v.B * v.H == 0) return;
  if (a.chunk == 0) {
    recurrent_forward_kernel<T>
        <<<head_blocks(v.B * v.H, v.V, threads), threads, 0, stream>>>(v, a.y.data<T>(), a.final.data<A>());
    cuda::cuda_check(cudaGetLastError());
    return;
  }
  Tensor sums, factors;
  const Decays<A> d = make_decays(device, v, sums, factors);
  const int64_t units = v.B * v.chunks * v.H;
  const unsigned blocks = cuda::blocks_for(units, 1);
  const Tensor squares(device, {2, units, a.chunk, a.chunk}, dtype_of<A>());
  const Tensor rest(device, {v.B, v.H, a.chunk, v.V}, dtype_of<A>());
  A *first = squares.data<A>(), *second = first + units * a.chunk * a.chunk;
  // In bf16 nothing is rounded before y: without decay what was rounded off one error stays in the state.
  constexpr bool rounds = !std::is_same_v<T, A>;
  const Tensor states = rounds ? Tensor(device, a.states.shape(), dtype_of<A>()) : a.states;
  const Tensor errors = rounds ? Tensor(device, a.errors.shape(), dtype_of<A>()) : a.errors;
  inverse_kernel<T><<<blocks, threads, 0, stream>>>(v, d, false, first, second);
  cuda::cuda_check(cudaGetLastError());
  states_kernel<T><<<head_blocks(v.B * v.H, v.V, state_columns), threads, 0, stream>>>(
      v, d, second, rest.data<A>(), a.final.data<A>(), states.data<A>(), errors.data<A>());
  cuda::cuda_check(cudaGetLastError());
  outputs_kernel<T><<<blocks, threads, 0, stream>>>(v, d, first, states.data<A>(), errors.data<A>(), a.y.data<T>());
  cuda::cuda_check(cudaGetLastError());
  if constexpr (rounds) {
    round_into<T>(states, a.states);
    round_into<T>(errors, a.errors);
  }
}

template <class T>
void backward(const DeltaScanBackward& a) {
  using A = Acc<T>;
  Device& device = a.device();
  const View<T> v(a.in, a.chunk);
  const cudaStream_t stream = cuda::stream_of(device);
  if (v.B * v.H == 0) return;
  const T* d_y = a.d_y ? a.d_y.data<T>() : nullptr;
  const A* d_final = a.d_final ? a.d_final.data<A>() : nullptr;
  T *d_q = a.d_q.data<T>(), *d_k = a.d_k.data<T>(), *d_v = a.d_v.data<T>();
  A *d_log_a = a.d_log_a.data<A>(), *d_beta = a.d_beta.data<A>();
  auto temporary = [&](const Shape& shape) { return Tensor(device, shape, dtype_of<A>()); };
  const Tensor running = a.d_initial ? a.d_initial : temporary({v.B, v.H, v.K, v.V});
  if (a.chunk == 0) {
    const Tensor states = temporary({v.B * v.H, v.steps + 1, v.K, v.V}), errors = temporary({v.B * v.H, v.steps, v.V});
    const Tensor l = temporary({v.B * v.H, v.V});
    recurrent_backward_kernel<T><<<cuda::blocks_for(v.B * v.H, 1), threads, 0, stream>>>(
        v, d_y, d_final, states.data<A>(), errors.data<A>(), running.data<A>(), l.data<A>(), d_q, d_k, d_v, d_log_a,
        d_beta);
    cuda::cuda_check(cudaGetLastError());
    return;
  }
  Tensor sums, factors;
  const Decays<A> d = make_decays(device, v, sums, factors);
  const int64_t units = v.B * v.chunks * v.H, square = units * a.chunk * a.chunk;
  const unsigned blocks = cuda::blocks_for(units, 1);
  const Tensor squares = temporary({4, square}), rest = temporary({v.B, v.H, a.chunk, v.V}),
               w = temporary(a.in.v.shape());
  const Tensor d_states = temporary({units, v.K, v.V});
  const Tensor rows = temporary({3, a.in.q.numel()}), edges = temporary({2, a.in.beta.numel()});
  A* s = squares.data<A>();
  inverse_kernel<T><<<blocks, threads, 0, stream>>>(v, d, true, s, s + square);
  cuda::cuda_check(cudaGetLastError());
  scores_kernel<T><<<blocks, threads, 0, stream>>>(v, d, s);
  cuda::cuda_check(cudaGetLastError());
  d_states_kernel<T><<<head_blocks(v.B * v.H, v.V, state_columns), threads, 0, stream>>>(
      v, d, s + square, s, d_y, d_final, rest.data<A>(), running.data<A>(), d_states.data<A>(), w.data<A>(), d_v);
  cuda::cuda_check(cudaGetLastError());
  A *x = rows.data<A>(), *ends = edges.data<A>();
  const Scratch<A> scratch{s,
                           s + square,
                           s + 2 * square,
                           s + 3 * square,
                           x,
                           x + a.in.q.numel(),
                           x + 2 * a.in.q.numel(),
                           ends,
                           ends + a.in.beta.numel()};
  gradients_kernel<T><<<blocks, threads, 0, stream>>>(v, d, scratch, a.states.data<T>(), a.errors.data<T>(),
                                                      d_states.data<A>(), w.data<A>(), d_y, d_q, d_k, d_log_a, d_beta);
  cuda::cuda_check(cudaGetLastError());
}

}  // namespace taper::kernels::delta_plain
