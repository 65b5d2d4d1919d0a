// dplr_scan's plain backward: pieces of 16 tokens from the last to the first, the states before them made again where
// only every fourth was kept.
#pragma once
#include "cuda/ops/dplr_scan_plain.cuh"

namespace taper::kernels::dplr_plain {

template <class T>
struct Gradients {
  const T* g_d_y;                                   // [B,T,H,V] or null
  const Acc<T>* g_d_final;                          // [B,H,K,V] or null
  T *g_d_r, *g_d_k, *g_d_v, *g_d_a, *g_d_b;         // as r k v a b
  Acc<T>*g_d_log_w, *g_d_initial;                   // as log_w; [B,H,K,V] or null

  explicit Gradients(const DplrScanBackward& g)
      : g_d_y(g.d_y ? g.d_y.data<T>() : nullptr), g_d_final(g.d_final ? g.d_final.data<Acc<T>>() : nullptr),
        g_d_r(g.d_r.data<T>()), g_d_k(g.d_k.data<T>()), g_d_v(g.d_v.data<T>()), g_d_a(g.d_a.data<T>()),
        g_d_b(g.d_b.data<T>()), g_d_log_w(g.d_log_w.data<Acc<T>>()),
        g_d_initial(g.d_initial ? g.d_initial.data<Acc<T>>() : nullptr) {}
};

// Channel q: d_r and d_a, each from the farthest source to the nearest. The sum so far is what crosses the next token:
// times its query it is that token's part of d_log_w.
template <class T, class A = Acc<T>>
__device__ void to_queries(const View<T>& v, const Gradients<T>& g, const Piece<A>& c, int64_t n, int64_t begin, int64_t at,
                           int64_t stride, int L, int q) {
  const A *d_pairs = c.d_pairs(), *d_queries = c.d_queries(), *d_keys = c.d_keys();
  A key_k[piece], key_b[piece], d_w[piece], gain = 1;  // keys as token i sees them
#pragma unroll
  for (int i = 0; i < piece; ++i) d_w[i] = c.kept[q];
#pragma unroll
  for (int i = 0; i < piece; ++i) {
    const A by = c.decay[q * column + i], r = c.r[q * column + i], a = i + 1 < piece ? c.a[q * column + i + 1] : A(0);
    gain *= by;
    A sum_r = gain * d_queries[(piece + i) * c.K + q], sum_a = i + 1 < piece ? gain * d_queries[(i + 1) * c.K + q] : A(0);
    d_w[0] += r * sum_r + a * sum_a;
    const A *of_r = d_pairs + (piece + i) * side, *of_a = d_pairs + (i + 1) % piece * side;
#pragma unroll
    for (int j = 0; j < i; ++j) {
      key_k[j] *= by;
      key_b[j] *= by;
      sum_r += of_r[j] * key_k[j] + of_r[piece + j] * key_b[j];
      if (i + 1 < piece) sum_a += of_a[j] * key_k[j] + of_a[piece + j] * key_b[j];
      d_w[j + 1] += r * sum_r + a * sum_a;
    }
    key_k[i] = i < L ? A(v.g_k[at + i * stride + q]) : A(0);
    key_b[i] = i < L ? A(v.g_b[at + i * stride + q]) : A(0);
    sum_r += of_r[i] * key_k[i] + of_r[piece + i] * key_b[i];
    if (i < L) g.g_d_r[at + i * stride + q] = T(sum_r);
    if (i + 1 < piece) {
      sum_a += of_a[i] * key_k[i] + of_a[piece + i] * key_b[i];
      if (i + 1 < L) g.g_d_a[at + (i + 1) * stride + q] = T(v.packing.resets(n, begin + i + 1) ? A(0) : sum_a);
    }
  }
  A to_state = 0;  // keys to the state after the piece
#pragma unroll
  for (int i = 0; i < piece; ++i) {
    d_w[i] += to_state;
    if (i < L) g.g_d_log_w[at + i * stride + q] = d_w[i];
    to_state += key_k[i] * d_keys[i * c.K + q] + key_b[i] * d_keys[(piece + i) * c.K + q];
  }
}

// Channel q: d_k and d_b, back from the state after the piece: what token i sends joins, then all decays to token i-1.
template <class T, class A = Acc<T>>
__device__ void to_keys(const Gradients<T>& g, const Piece<A>& c, int64_t at, int64_t stride, int L, int q) {
  const A *d_pairs = c.d_pairs(), *d_keys = c.d_keys();
  A d_k[piece], d_b[piece];
#pragma unroll
  for (int i = 0; i < piece; ++i) {
    d_k[i] = d_keys[i * c.K + q];
    d_b[i] = d_keys[(piece + i) * c.K + q];
  }
#pragma unroll
  for (int i = piece - 1; i >= 0; --i) {
    const A by = c.decay[q * column + i], r = c.r[q * column + i], a = i + 1 < piece ? c.a[q * column + i + 1] : A(0);
    const A *of_r = d_pairs + (piece + i) * side, *of_a = d_pairs + (i + 1) % piece * side;
#pragma unroll
    for (int j = 0; j <= i; ++j) {
      d_k[j] += of_r[j] * r;
      d_b[j] += of_r[piece + j] * r;
      if (i + 1 < piece) {
        d_k[j] += of_a[j] * a;
        d_b[j] += of_a[piece + j] * a;
      }
      if (j < i) {
        d_k[j] *= by;
        d_b[j] *= by;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < piece; ++i)
    if (i < L) {
      g.g_d_k[at + i * stride + q] = T(d_k[i]);
      g.g_d_b[at + i * stride + q] = T(d_b[i]);
    }
}

// The piece's gradients from S before it and Z after it; Z goes to before the piece. Ends with a barrier.
template <class T, class A = Acc<T>>
__device__ void pull_back(const View<T>& v, const Gradients<T>& g, const Piece<A>& c, int64_t n, int64_t h, int64_t begin,
                          int L, const T* g_m) {  // g_m [L][V] or null: not kept
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, K = c.K, V = c.V, R = c.R;
  load(v, c, n, h, begin, L);
  A *d_value = c.d_rows, *left = c.d_rows + piece * R;  // left: d of m, then of y
  for (int i = warp; i < piece; i += warps)
    for (int p = lane; p < V; p += 32) {
      left[(piece + i) * R + p] = g.g_d_y && i < L ? A(g.g_d_y[v.head(n, begin + i, h) * V + p]) : A(0);
      if (g_m) c.rows[(piece + i) * R + p] = i < L ? A(g_m[i * V + p]) : A(0);
    }
  if (!g_m) {
    product<A, 4>(
        piece, V, K, [&](int i, int q) { return c.queries[q * pair_column + i]; }, [&](int q, int p) { return c.S[q * R + p]; },
        [&](int i, int p, A x) { c.rows[(piece + i) * R + p] = x; });
    solve(c);
  }
  __syncthreads();

  // To v and m.
  product<A, 8>(
      side, V, K, [&](int j, int q) { return c.keys[q * pair_column + j]; }, [&](int q, int p) { return c.Z[q * R + p]; },
      [&](int j, int p, A x) { d_value[j * R + p] = x; });
  product<A, 8>(  // the same threads have the same elements
      side, V, piece, [&](int j, int i) { return c.pairs[(piece + i) * side + j]; },
      [&](int i, int p) { return left[(piece + i) * R + p]; }, [&](int j, int p, A x) { d_value[j * R + p] += x; });
  __syncthreads();
  for (int p = int(threadIdx.x); p < V; p += threads) {  // (I - A_b)^T X = d_m, and A_k^T X to v
    A d_v[piece], x[piece];
#pragma unroll
    for (int i = piece - 1; i >= 0; --i) {
      d_v[i] = d_value[i * R + p];
      x[i] = left[i * R + p];
    }
#pragma unroll
    for (int i = piece - 1; i > 0; --i)
#pragma unroll
      for (int j = 0; j < i; ++j) {
        d_v[j] += c.pairs[i * side + j] * x[i];
        x[j] += c.pairs[i * side + piece + j] * x[i];
      }
#pragma unroll
    for (int i = 0; i < piece; ++i) {
      left[i * R + p] = x[i];
      if (i < L) g.g_d_v[v.head(n, begin + i, h) * V + p] = T(d_v[i]);
    }
  }
  __syncthreads();

  product<A, 4>(
      side, side, V, [&](int i, int p) { return left[i * R + p]; }, [&](int p, int j) { return c.rows[j * R + p]; },
      [&](int i, int j, A x) { c.d_pairs()[i * side + j] = x; });
  product<A, 8>(
      side, K, V, [&](int i, int p) { return left[i * R + p]; }, [&](int p, int q) { return c.S[q * R + p]; },
      [&](int i, int q, A x) { c.d_queries()[i * K + q] = x; });
  product<A, 8>(
      side, K, V, [&](int j, int p) { return c.rows[j * R + p]; }, [&](int p, int q) { return c.Z[q * R + p]; },
      [&](int j, int q, A x) { c.d_keys()[j * K + q] = x; });
  for (int q = int(threadIdx.x); q < K; q += threads) {
    A sum = 0;
    for (int p = 0; p < V; ++p) sum += c.S[q * R + p] * c.Z[q * R + p];
    c.kept[q] = c.whole[q] * sum;
  }
  __syncthreads();

  const int64_t at = v.head(n, begin, h) * K, stride = v.H * K;
  for (int e = int(threadIdx.x) % (threads / 2); e < K; e += threads / 2)
    if (int(threadIdx.x) < threads / 2) to_queries(v, g, c, n, begin, at, stride, L, e);
    else to_keys(g, c, at, stride, L, e);
  for (int q = int(threadIdx.x); q < K; q += threads)  // a_0 sees the state alone
    g.g_d_a[at + q] = T(v.packing.resets(n, begin) ? A(0) : c.d_queries()[q]);
  product<A, 8>(
      K, V, side, [&](int q, int i) { return c.queries[q * pair_column + i]; }, [&](int i, int p) { return left[i * R + p]; },
      [&](int q, int p, A x) { c.Z[q * R + p] = c.whole[q] * c.Z[q * R + p] + x; });
  __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(threads)
    dplr_scan_plain_backward_kernel(View<T> v, Gradients<T> g, const T* g_states, const T* g_m,  // as the forward; or null
                                    const int* g_left_out, Acc<T>* g_memory,
                                    Acc<T>* g_between,  // [B,H,pieces,K,V] the states inside a chunk; null: one piece
                                    int64_t chunk) {
  using A = Acc<T>;
  NV_IF_TARGET(NV_PROVIDES_SM_90, (cuda::hopper::wait_for_one_before();))
  const int64_t bh = blockIdx.x, n = bh / v.H, h = bh % v.H;
  if (g_left_out && g_left_out[bh] == 0) return;
  const Piece<A> c = lay_out<A>(v.K, v.V, true, g_memory);
  const int K = v.K, V = v.V, R = c.R, lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int64_t KV = int64_t(K) * V, chunks = (v.steps + chunk - 1) / chunk, pieces = (chunk + piece - 1) / piece;
  const auto each = [&](auto f) {
    for (int q = warp; q < K; q += warps)
      for (int p = lane; p < V; p += 32) f(q * R + p, q * int64_t(V) + p);
  };
  A* between = g_between ? g_between + bh * pieces * KV : nullptr;
  each([&](int s, int64_t e) { c.Z[s] = g.g_d_final ? g.g_d_final[bh * KV + e] : A(0); });
  for (int64_t at = chunks - 1; at >= 0; --at) {
    const int64_t slot = (n * chunks + at) * v.H + h, first = at * chunk, end = min(first + chunk, v.steps);
    const int64_t here = (end - first + piece - 1) / piece;
    const auto length = [&](int64_t i) { return int(min(int64_t(piece), end - first - i * piece)); };
    __syncthreads();
    each([&](int s, int64_t e) {
      c.S[s] = g_states ? A(g_states[slot * KV + e]) : v.g_initial ? v.g_initial[bh * KV + e] : A(0);
    });
    for (int64_t i = 0; i + 1 < here; ++i) {
      __syncthreads();
      each([&](int s, int64_t e) { between[i * KV + e] = c.S[s]; });
      load(v, c, n, h, first + i * piece, length(i));
      product<A, 4>(
          piece, V, K, [&](int j, int q) { return c.queries[q * pair_column + j]; }, [&](int q, int p) { return c.S[q * R + p]; },
          [&](int j, int p, A x) { c.rows[(piece + j) * R + p] = x; });
      solve(c);
      advance(c);
    }
    for (int64_t i = here - 1; i >= 0; --i) {
      if (i + 1 < here) each([&](int s, int64_t e) { c.S[s] = between[i * KV + e]; });
      __syncthreads();
      pull_back(v, g, c, n, h, first + i * piece, length(i), g_m ? g_m + (slot * chunk + i * piece) * V : nullptr);
    }
  }
  if (g.g_d_initial) each([&](int s, int64_t e) { g.g_d_initial[bh * KV + e] = c.Z[s]; });
}

}  // namespace taper::kernels::dplr_plain
