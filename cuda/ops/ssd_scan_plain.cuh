// ssd_scan's plain kernels: any dtype, any shape, any chunk; passes as on the CPU (tensor/ops/ssd_scan.cpp).
#pragma once
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/scan.cuh"
#include "tensor/ops/ssd_scan.h"
#include "tensor/vector_math.h"

namespace taper::kernels::ssd {

using cuda::for_tile;
using cuda::multiply_tile;
using cuda::product_threads;
using cuda::product_tile;
using cuda::product_tiles;
using cuda::ProductBuffers;

// The inputs as device pointers, with their sizes.
template <class T>
struct View {
  using A = Acc<T>;
  const T *g_x, *g_b, *g_c;                   // [B,T,H,P] [B,T,G,N] [B,T,G,N]
  const A *g_log_a, *g_dt, *g_d, *g_initial;  // [B,T,H] [B,T,H] [H] [B,H,N,P]; the last three may be absent
  PackingView packing;
  int64_t B, steps, H, P, G, N, chunk, chunks;

  View(const SsdScanInputs& in, int64_t chunk)
      : g_x(in.x.data<T>()),
        g_b(in.b.data<T>()),
        g_c(in.c.data<T>()),
        g_log_a(in.log_a.data<A>()),
        g_dt(in.dt ? in.dt.data<A>() : nullptr),
        g_d(in.d ? in.d.data<A>() : nullptr),
        g_initial(in.initial ? in.initial.data<A>() : nullptr),
        packing(in.packing, in.x.size(1)),
        B(in.x.size(0)),
        steps(in.x.size(1)),
        H(in.x.size(2)),
        P(in.x.size(3)),
        G(in.b.size(2)),
        N(in.b.size(3)),
        chunk(chunk),
        chunks(chunk ? (steps + chunk - 1) / chunk : 0) {}

  HOST_DEVICE int64_t head(int64_t n, int64_t t, int64_t h) const { return (n * steps + t) * H + h; }
  HOST_DEVICE int64_t group(int64_t n, int64_t t, int64_t g) const { return ((n * steps + t) * G + g) * N; }
  HOST_DEVICE int64_t by_head(int64_t n, int64_t h, int64_t t) const { return (n * H + h) * steps + t; }  // [B,H,T]
  HOST_DEVICE int64_t state(int64_t n, int64_t k, int64_t h) const { return ((n * chunks + k) * H + h) * N * P; }
  HOST_DEVICE int64_t length(int64_t k) const { return steps - k * chunk < chunk ? steps - k * chunk : chunk; }
  HOST_DEVICE A dt_at(int64_t i) const { return g_dt ? g_dt[i] : A(1); }
  // The first token of the chunk that token t of it may see: documents do not see each other.
  HOST_DEVICE int64_t from(int64_t n, int64_t begin, int64_t t) const {
    const int64_t start = packing.start_of(n, begin + t);
    return start > begin ? start - begin : 0;
  }
};

// What a block works on, unfolded from its number with the fastest index first.
struct Unfold {
  int64_t rest = int64_t(blockIdx.x);
  __device__ int64_t next(int64_t size) {
    const int64_t i = rest % size;
    rest /= size;
    return i;
  }
};

template <class A>
struct Decays {   // [B,H,T] each
  double* g_sum;  // G: the sum of log_a from the chunk's beginning, in f64 so that differences stay exact
  A* g_in;   // exp(G_i), 0 where a document start hides the state before the chunk; the last one is the whole chunk's
  A* g_out;  // exp(G_L - G_j), 0 where one hides j from the chunk's end
};

// G, in the CPU's order: a block takes a chunk and 32 heads, a thread of its first 32 adds up one head.
constexpr int sums_heads = 32, sums_tokens = 64, sums_threads = 256;
template <class T>
__global__ void __launch_bounds__(sums_threads) sums_kernel(View<T> v, double* g_sum) {  // [B,H,T]
  __shared__ Acc<T> s_log_a[sums_tokens][sums_heads];
  __shared__ double s_sum[sums_heads][sums_tokens + 1];
  Unfold at;
  const int64_t h0 = at.next((v.H + sums_heads - 1) / sums_heads) * sums_heads, k = at.next(v.chunks), n = at.rest;
  const int64_t begin = k * v.chunk, L = v.length(k);
  const int thread = int(threadIdx.x);
  double sum = 0;
  for (int64_t t0 = 0; t0 < L; t0 += sums_tokens) {
#pragma unroll
    for (int e = thread; e < sums_tokens * sums_heads; e += sums_threads) {
      const int t = e / sums_heads, h = e % sums_heads;
      s_log_a[t][h] = t0 + t < L && h0 + h < v.H ? v.g_log_a[v.head(n, begin + t0 + t, h0 + h)] : Acc<T>(0);
    }
    __syncthreads();
    if (thread < sums_heads) {
#pragma unroll 16
      for (int t = 0; t < sums_tokens; ++t) s_sum[thread][t] = sum += double(s_log_a[t][thread]);
    }
    __syncthreads();
    for (int e = thread; e < sums_tokens * sums_heads; e += sums_threads) {
      const int h = e / sums_tokens, t = e % sums_tokens;
      if (t0 + t < L && h0 + h < v.H) g_sum[v.by_head(n, h0 + h, begin + t0 + t)] = s_sum[h][t];
    }
    // The next round's loads touch s_log_a alone, and the barrier after them stands before s_sum is written again.
  }
}

template <class T>
__global__ void decays_kernel(View<T> v, Decays<Acc<T>> decays) {
  using A = Acc<T>;
  const int64_t i = cuda::thread_index();
  if (i >= v.B * v.H * v.steps) return;
  const int64_t t = i % v.steps, n = i / v.steps / v.H, k = t / v.chunk, begin = k * v.chunk,
                last = begin + v.length(k) - 1;
  // A start at the chunk's first token cuts the state off too, unless it is the window's first.
  const int64_t start = v.packing.start_of(n, t);
  const bool sees = begin == 0 ? start == 0 : start < begin;
  const double sum = decays.g_sum[i];
  decays.g_in[i] = sees ? math::exp(A(sum)) : A(0);
  decays.g_out[i] = t - begin >= v.from(n, begin, last - begin) ? math::exp(A(decays.g_sum[i - t + last] - sum)) : A(0);
}

// What each chunk adds to the state, sum_j exp(G_L - G_j) dt_j b_j x_j^T; with c, dy, exp(G) what its outputs send back.
template <class T>
__global__ void __launch_bounds__(product_threads, sizeof(T) == 8 ? 1 : 2)
    chunk_product_kernel(View<T> v, const T* g_rows,  // [B,T,G,N]
                         const T* g_values,           // [B,T,H,P]
                         const Acc<T>* g_factor,      // [B,H,T]
                         const Acc<T>* g_dt,          // [B,T,H] or absent
                         Acc<T>* g_to) {              // [B,chunks,H,N,P]
  using A = Acc<T>;
  __shared__ ProductBuffers<A> s_product;
  Unfold at;
  const int64_t p0 = at.next(product_tiles(v.P)) * product_tile, n0 = at.next(product_tiles(v.N)) * product_tile;
  const int64_t h = at.next(v.H), k = at.next(v.chunks), n = at.rest, begin = k * v.chunk;
  const T *rows = g_rows + v.group(n, begin, h * v.G / v.H) + n0, *values = g_values + v.head(n, begin, h) * v.P + p0;
  const A *factor = g_factor + v.by_head(n, h, begin), *dt = g_dt ? g_dt + v.head(n, begin, h) : nullptr;
  A r[4][4] = {};
  multiply_tile<false, false>(
      r, s_product, v.N - n0, v.P - p0, v.length(k), [&](int64_t i, int64_t j) { return A(rows[j * v.G * v.N + i]); },
      [&](int64_t j, int64_t p) { return factor[j] * (dt ? dt[j * v.H] : A(1)) * A(values[j * v.H * v.P + p]); });
  A* to = g_to + v.state(n, k, h) + n0 * v.P + p0;
  for_tile(v.N - n0, v.P - p0, [&](int64_t row, int64_t p, int i, int j) { to[row * v.P + p] = r[i][j]; });
}

// Passes the state along, one thread per element. g_added may be g_states.
template <class T>
__global__ void pass_kernel(View<T> v, const Acc<T>* g_in,  // [B,H,T]
                            const Acc<T>* g_added,          // [B,chunks,H,N,P]
                            T* g_states,                    // [B,chunks,H,N,P], the state before each chunk
                            Acc<T>* g_final) {              // [B,H,N,P] or absent
  using A = Acc<T>;
  const int64_t e = cuda::thread_index(), NP = v.N * v.P;
  if (e >= v.B * v.H * NP) return;
  const int64_t i = e % NP, h = e / NP % v.H, n = e / NP / v.H;
  A state = v.g_initial ? v.g_initial[e] : A(0);
  for (int64_t k = 0; k < v.chunks; ++k) {
    const int64_t slot = v.state(n, k, h) + i;
    const A added = g_added[slot];
    g_states[slot] = T(state);
    state = g_in[v.by_head(n, h, k * v.chunk + v.length(k) - 1)] * state + added;
  }
  if (g_final) g_final[e] = state;
}

// Passes d state back: each slot turns from what the chunk sends to d of the state after it.
template <class T>
__global__ void pass_back_kernel(View<T> v, const Acc<T>* g_in,  // [B,H,T]
                                 const Acc<T>* g_d_final,        // [B,H,N,P] or absent
                                 Acc<T>* g_d_states,             // [B,chunks,H,N,P]
                                 Acc<T>* g_d_initial) {          // [B,H,N,P] or absent
  using A = Acc<T>;
  const int64_t e = cuda::thread_index(), NP = v.N * v.P;
  if (e >= v.B * v.H * NP) return;
  const int64_t i = e % NP, h = e / NP % v.H, n = e / NP / v.H;
  A after = g_d_final ? g_d_final[e] : A(0);
  for (int64_t k = v.chunks - 1; k >= 0; --k) {
    const int64_t slot = v.state(n, k, h) + i;
    const A sent = g_d_states[slot];
    g_d_states[slot] = after;
    after = g_in[v.by_head(n, h, k * v.chunk + v.length(k) - 1)] * after + sent;
  }
  if (g_d_initial) g_d_initial[e] = after;
}

// M = C B^T of each chunk and group; tiles above the diagonal are never read and stay unwritten.
template <class T>
__global__ void __launch_bounds__(product_threads, sizeof(T) == 8 ? 1 : 2)
    scores_kernel(View<T> v, Acc<T>* g_m) {  // [B,chunks,G,C,C]
  using A = Acc<T>;
  __shared__ ProductBuffers<A> s_product;
  Unfold at;
  const int64_t tiles = product_tiles(v.chunk), j0 = at.next(tiles) * product_tile, i0 = at.next(tiles) * product_tile;
  const int64_t g = at.next(v.G), k = at.next(v.chunks), n = at.rest, begin = k * v.chunk, L = v.length(k),
                row = v.G * v.N;
  if (j0 > i0 || i0 >= L) return;
  const T *b = v.g_b + v.group(n, begin + j0, g), *c = v.g_c + v.group(n, begin + i0, g);
  A r[4][4] = {};
  multiply_tile<true, true>(
      r, s_product, L - i0, L - j0, v.N, [&](int64_t i, int64_t s) { return A(c[i * row + s]); },
      [&](int64_t s, int64_t j) { return A(b[j * row + s]); });
  A* m = g_m + ((n * v.chunks + k) * v.G + g) * v.chunk * v.chunk + i0 * v.chunk + j0;
  for_tile(L - i0, L - j0, [&](int64_t row, int64_t column, int i, int j) { m[row * v.chunk + column] = r[i][j]; });
}

// E_ij dt_j for tokens of one chunk and head, 0 unless i may see j: the mask comes before the exponential.
template <class T>
struct Pairs {
  const View<T>& v;
  const double* g_sum;
  const Acc<T>* g_dt;
  int64_t n, begin;
  __device__ Pairs(const View<T>& v, const double* g_sum, int64_t n, int64_t begin, int64_t h)
      : v(v),
        g_sum(g_sum + v.by_head(n, h, begin)),
        g_dt(v.g_dt ? v.g_dt + v.head(n, begin, h) : nullptr),
        n(n),
        begin(begin) {}
  __device__ Acc<T> dt(int64_t j) const { return g_dt ? g_dt[j * v.H] : Acc<T>(1); }
  __device__ Acc<T> decay(int64_t i, int64_t j) const {
    return j <= i && j >= v.from(n, begin, i) ? math::exp(Acc<T>(g_sum[i] - g_sum[j])) : Acc<T>(0);
  }
};

// y: pairs inside the chunk, the state before it, and d x.
template <class T>
__global__ void __launch_bounds__(product_threads, sizeof(T) == 8 ? 1 : 2)
    outputs_kernel(View<T> v, Decays<Acc<T>> decays, const Acc<T>* g_m,  // [B,chunks,G,C,C]
                   const T* g_states,                                    // [B,chunks,H,N,P]
                   T* g_y) {                                             // [B,T,H,P]
  using A = Acc<T>;
  __shared__ ProductBuffers<A> s_product;
  Unfold at;
  const int64_t p0 = at.next(product_tiles(v.P)) * product_tile, i0 = at.next(product_tiles(v.chunk)) * product_tile;
  const int64_t h = at.next(v.H), k = at.next(v.chunks), n = at.rest, begin = k * v.chunk, L = v.length(k),
                x_row = v.H * v.P;
  if (i0 >= L) return;
  const int64_t g = h * v.G / v.H, rows = L - i0, end = i0 + product_tile < L ? i0 + product_tile : L;
  const Pairs<T> pairs(v, decays.g_sum, n, begin, h);
  const A *m = g_m + (((n * v.chunks + k) * v.G + g) * v.chunk + i0) * v.chunk,
          *in = decays.g_in + v.by_head(n, h, begin + i0);
  const T *x = v.g_x + v.head(n, begin, h) * v.P + p0, *c = v.g_c + v.group(n, begin + i0, g),
          *S = g_states + v.state(n, k, h) + p0;
  A r[4][4] = {};
  multiply_tile<true, false>(
      r, s_product, rows, v.P - p0, end,
      [&](int64_t i, int64_t j) {
        const A e = pairs.decay(i0 + i, j);
        return e == 0 ? A(0) : e * pairs.dt(j) * m[i * v.chunk + j];  // above the diagonal m is not written
      },
      [&](int64_t j, int64_t p) { return A(x[j * x_row + p]); });
  multiply_tile<true, false>(
      r, s_product, rows, v.P - p0, v.N, [&](int64_t i, int64_t s) { return in[i] * A(c[i * v.G * v.N + s]); },
      [&](int64_t s, int64_t p) { return A(S[s * v.P + p]); });
  const A d = v.g_d ? v.g_d[h] : A(0);
  T* y = g_y + v.head(n, begin + i0, h) * v.P + p0;
  for_tile(rows, v.P - p0, [&](int64_t row, int64_t p, int i, int j) {
    y[row * x_row + p] = T(r[i][j] + d * A(x[(i0 + row) * x_row + p]));
  });
}

// Backward, pairs: Q = (dY X^T) M E for each head, and dM = sum over a group's heads of (dY X^T) E dt.
template <class T>
__global__ void __launch_bounds__(product_threads, sizeof(T) == 8 ? 1 : 2)
    pairs_kernel(View<T> v, const double* g_sum, const T* g_d_y,  // [B,T,H,P] or absent: 0
                 const Acc<T>* g_m,                               // [B,chunks,G,C,C]
                 Acc<T>* g_d_m,                                   // [B,chunks,G,C,C]
                 Acc<T>* g_q) {                                   // [B,chunks,H,C,C]
  using A = Acc<T>;
  __shared__ ProductBuffers<A> s_product;
  Unfold at;
  const int64_t tiles = product_tiles(v.chunk), C = v.chunk, j0 = at.next(tiles) * product_tile,
                i0 = at.next(tiles) * product_tile;
  const int64_t g = at.next(v.G), k = at.next(v.chunks), n = at.rest, begin = k * C, L = v.length(k), x_row = v.H * v.P;
  if (j0 > i0 || i0 >= L) return;
  const int64_t matrix = ((n * v.chunks + k) * v.G + g) * C * C + i0 * C + j0, share = v.H / v.G;
  A sum[4][4] = {};
  for (int64_t h = g * share; h < (g + 1) * share; ++h) {
    const Pairs<T> pairs(v, g_sum, n, begin, h);
    A* q = g_q + ((n * v.chunks + k) * v.H + h) * C * C + i0 * C + j0;
    A r[4][4] = {};
    if (g_d_y) {
      const T *dy = g_d_y + v.head(n, begin + i0, h) * v.P, *x = v.g_x + v.head(n, begin + j0, h) * v.P;
      multiply_tile<true, true>(
          r, s_product, L - i0, L - j0, v.P, [&](int64_t i, int64_t p) { return A(dy[i * x_row + p]); },
          [&](int64_t p, int64_t j) { return A(x[j * x_row + p]); });
    }
    for_tile(L - i0, L - j0, [&](int64_t row, int64_t column, int i, int j) {
      const A e = r[i][j] * pairs.decay(i0 + row, j0 + column);
      sum[i][j] += e * pairs.dt(j0 + column);
      q[row * C + column] = e * g_m[matrix + row * C + column];
    });
  }
  for_tile(L - i0, L - j0,
           [&](int64_t row, int64_t column, int i, int j) { g_d_m[matrix + row * C + column] = sum[i][j]; });
}

// dX = (M E dt_j)^T dY + exp(G_L - G_j) dt_j (B dS)_j + d dy
template <class T>
__global__ void __launch_bounds__(product_threads, sizeof(T) == 8 ? 1 : 2)
    d_x_kernel(View<T> v, Decays<Acc<T>> decays, const T* g_d_y,  // [B,T,H,P] or absent: 0
               const Acc<T>* g_m,                                 // [B,chunks,G,C,C]
               const Acc<T>* g_d_states,                          // [B,chunks,H,N,P]
               T* g_d_x) {                                        // [B,T,H,P]
  using A = Acc<T>;
  __shared__ ProductBuffers<A> s_product;
  Unfold at;
  const int64_t p0 = at.next(product_tiles(v.P)) * product_tile, j0 = at.next(product_tiles(v.chunk)) * product_tile;
  const int64_t h = at.next(v.H), k = at.next(v.chunks), n = at.rest, begin = k * v.chunk, L = v.length(k),
                x_row = v.H * v.P;
  if (j0 >= L) return;
  const int64_t g = h * v.G / v.H, rows = L - j0;
  const Pairs<T> pairs(v, decays.g_sum, n, begin, h);
  const A* m = g_m + (((n * v.chunks + k) * v.G + g) * v.chunk + j0) * v.chunk + j0;
  const A *out = decays.g_out + v.by_head(n, h, begin + j0), *Z = g_d_states + v.state(n, k, h) + p0;
  const T *b = v.g_b + v.group(n, begin + j0, g), *dy = g_d_y ? g_d_y + v.head(n, begin + j0, h) * v.P + p0 : nullptr;
  A r[4][4] = {};
  if (dy)
    multiply_tile<false, false>(
        r, s_product, rows, v.P - p0, rows,
        [&](int64_t j, int64_t i) {
          const A e = pairs.decay(j0 + i, j0 + j);
          return e == 0 ? A(0) : e * pairs.dt(j0 + j) * m[i * v.chunk + j];
        },
        [&](int64_t i, int64_t p) { return A(dy[i * x_row + p]); });
  multiply_tile<true, false>(
      r, s_product, rows, v.P - p0, v.N,
      [&](int64_t j, int64_t s) { return out[j] * pairs.dt(j0 + j) * A(b[j * v.G * v.N + s]); },
      [&](int64_t s, int64_t p) { return Z[s * v.P + p]; });
  const A d = v.g_d ? v.g_d[h] : A(0);
  T* d_x = g_d_x + v.head(n, begin + j0, h) * v.P + p0;
  for_tile(rows, v.P - p0, [&](int64_t row, int64_t p, int i, int j) {
    d_x[row * x_row + p] = T(r[i][j] + (dy ? d * A(dy[row * x_row + p]) : A(0)));
  });
}

// dC = dM B + sum over heads of U, U_i = exp(G_i) S dy_i; with of_b dB = dM^T C + sum of dt V, V_j = exp(G_L - G_j) dS
// x_j. Also each head's row dots c.U or b.V over this block's columns.
template <class T, bool of_b, class State>
__global__ void __launch_bounds__(product_threads, sizeof(T) == 8 ? 1 : 2)
    d_rows_kernel(View<T> v, const Acc<T>* g_factor,  // [B,H,T]
                  const T* g_values,                  // [B,T,H,P]: dy (absent: 0) or x
                  const State* g_states,              // [B,chunks,H,N,P]: S or dS
                  const Acc<T>* g_d_m,                // [B,chunks,G,C,C]
                  T* g_to,                            // [B,T,G,N]
                  Acc<T>* g_dot) {                    // [tiles of N,B,H,T]
  using A = Acc<T>;
  __shared__ ProductBuffers<A> s_product;
  Unfold at;
  const int64_t tile = at.next(product_tiles(v.N)), n0 = tile * product_tile,
                i0 = at.next(product_tiles(v.chunk)) * product_tile;
  const int64_t g = at.next(v.G), k = at.next(v.chunks), n = at.rest, begin = k * v.chunk, L = v.length(k),
                x_row = v.H * v.P;
  if (i0 >= L) return;
  const int64_t rows = L - i0, columns = v.N - n0, share = v.H / v.G, row = v.G * v.N, C = v.chunk;
  const T* mine = (of_b ? v.g_b : v.g_c) + v.group(n, begin + i0, g) + n0;
  const T* other = (of_b ? v.g_c : v.g_b) + v.group(n, begin, g) + n0;
  const int tx = int(threadIdx.x) % 16, ty = int(threadIdx.x) / 16;
  A sum[4][4] = {};
  for (int64_t h = g * share; h < (g + 1) * share; ++h) {
    const T* values = g_values ? g_values + v.head(n, begin + i0, h) * v.P : nullptr;
    const State* S = g_states + v.state(n, k, h) + n0 * v.P;
    const A* factor = g_factor + v.by_head(n, h, begin + i0);
    A r[4][4] = {}, dot[4] = {};
    if (values)
      multiply_tile<true, true>(
          r, s_product, rows, columns, v.P, [&](int64_t i, int64_t p) { return factor[i] * A(values[i * x_row + p]); },
          [&](int64_t p, int64_t s) { return A(S[s * v.P + p]); });
    for_tile(rows, columns, [&](int64_t t, int64_t s, int i, int j) {
      sum[i][j] += (of_b ? v.dt_at(v.head(n, begin + i0 + t, h)) : A(1)) * r[i][j];
      dot[i] += A(mine[t * row + s]) * r[i][j];
    });
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      for (int other_lane = 8; other_lane > 0; other_lane /= 2)
        dot[i] += __shfl_xor_sync(0xffffffffu, dot[i], other_lane);
      if (tx == 0 && 4 * ty + i < rows)
        g_dot[tile * v.B * v.H * v.steps + v.by_head(n, h, begin + i0 + 4 * ty + i)] = dot[i];
    }
  }
  const A* d_m = g_d_m + ((n * v.chunks + k) * v.G + g) * C * C;
  if (of_b)
    multiply_tile<false, false>(
        sum, s_product, rows, columns, rows,
        [&](int64_t j, int64_t i) { return i < j ? A(0) : d_m[(i0 + i) * C + i0 + j]; },
        [&](int64_t i, int64_t s) { return A(other[(i0 + i) * row + s]); });
  else
    multiply_tile<true, false>(
        sum, s_product, rows, columns, i0 + rows < i0 + product_tile ? L : i0 + product_tile,
        [&](int64_t i, int64_t j) { return j > i0 + i ? A(0) : d_m[(i0 + i) * C + j]; },
        [&](int64_t j, int64_t s) { return A(other[j * row + s]); });
  T* to = g_to + v.group(n, begin + i0, g) + n0;
  for_tile(rows, columns, [&](int64_t t, int64_t s, int i, int j) { to[t * row + s] = T(sum[i][j]); });
}

// What crosses each token, once (docs/scans.md, 1.5), and with it d_log_a, d_dt and this chunk's part of d_d.
template <class T>
__global__ void finish_kernel(View<T> v, const Acc<T>* g_in, const T* g_d_y,  // [B,T,H,P] or absent: 0
                              const T* g_states, const Acc<T>* g_d_states,    // [B,chunks,H,N,P]
                              Acc<T>* g_q,                                    // [B,chunks,H,C,C]; used up
                              Acc<T>* g_dot_u, Acc<T>* g_dot_v,               // [tiles of N,B,H,T]; used up
                              Acc<T>* g_d_log_a, Acc<T>* g_d_dt,              // [B,T,H], g_d_dt may be absent
                              Acc<T>* g_d_d) {                                // [B,chunks,H]
  using A = Acc<T>;
  Unfold at;
  const int64_t h = at.next(v.H), k = at.next(v.chunks), n = at.rest, begin = k * v.chunk, L = v.length(k), C = v.chunk,
                NP = v.N * v.P;
  const int64_t thread = threadIdx.x, all = v.B * v.H * v.steps, first = v.by_head(n, h, begin);
  A *q = g_q + ((n * v.chunks + k) * v.H + h) * C * C, *u = g_dot_u + first, *w = g_dot_v + first;
  auto dt = [&](int64_t t) { return v.dt_at(v.head(n, begin + t, h)); };

  for (int64_t t = thread; t < L; t += product_threads) {
    for (int64_t tile = 1; tile < product_tiles(v.N); ++tile) {
      u[t] += u[tile * all + t];
      w[t] += w[tile * all + t];
    }
    A sum = 0;
    for (int64_t i = t; i < L; ++i) sum += q[i * C + t];
    if (g_d_dt) g_d_dt[v.head(n, begin + t, h)] = sum + w[t];
  }
  __syncthreads();
  for (int64_t i = thread; i < L; i += product_threads) {
    A left = 0;  // sum_{j<t} R_ij, R = Q dt
    for (int64_t t = 0; t <= i; ++t) {
      const A pair = q[i * C + t] * dt(t);
      q[i * C + t] = left;
      left += pair;
    }
  }
  A kept = 0, d_d = 0;
  for (int64_t e = thread; e < NP; e += product_threads)
    kept += A(g_states[v.state(n, k, h) + e]) * g_d_states[v.state(n, k, h) + e];
  __shared__ A s_kept;
  kept = cuda::block_sum<product_threads>(kept);
  if (thread == 0) s_kept = kept * g_in[first + L - 1];
  if (g_d_y)
    for (int64_t e = thread; e < L * v.P; e += product_threads) {
      const int64_t i = v.head(n, begin + e / v.P, h) * v.P + e % v.P;
      d_d += A(v.g_x[i]) * A(g_d_y[i]);
    }
  d_d = cuda::block_sum<product_threads>(d_d);
  if (thread == 0) g_d_d[(n * v.chunks + k) * v.H + h] = d_d;
  for (int64_t t = thread; t < L; t += product_threads) {
    A pairs = 0, seen = 0, written = 0;
    for (int64_t i = t; i < L; ++i) pairs += q[i * C + t];
    for (int64_t i = L - 1; i >= t; --i) seen += u[i];
    for (int64_t j = 0; j < t; ++j) written += dt(j) * w[j];
    g_d_log_a[v.head(n, begin + t, h)] = pairs + seen + written + s_kept;
  }
}

// d_d: the chunks' parts, one block per head.
template <class A>
__global__ void d_d_kernel(const A* g_parts,  // [rows,H]
                           A* g_d_d,          // [H]
                           int64_t rows, int64_t H) {
  const int64_t h = blockIdx.x;
  double r_sum = 0;
  for (int64_t row = threadIdx.x; row < rows; row += product_threads) r_sum += double(g_parts[row * H + h]);
  const double sum = cuda::block_sum<product_threads>(r_sum);
  if (threadIdx.x == 0) g_d_d[h] = A(sum);
}

// The recurrence, token by token: a block has 32 columns of one head's state, its 8 warps share the rows.
constexpr int recurrent_warps = 8;
template <class T>
__global__ void recurrent_kernel(View<T> v, T* g_y,  // [B,T,H,P]
                                 Acc<T>* g_final) {  // [B,H,N,P], runs in place
  using A = Acc<T>;
  __shared__ A s_part[recurrent_warps][32];
  Unfold at;
  const int64_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t p = at.next((v.P + 31) / 32) * 32 + lane, h = at.next(v.H), n = at.rest;
  const int64_t bh = n * v.H + h, g = h * v.G / v.H;
  const bool inside = p < v.P;
  A* S = g_final + bh * v.N * v.P + p;
  if (inside)
    for (int64_t i = warp; i < v.N; i += recurrent_warps)
      S[i * v.P] = v.g_initial ? v.g_initial[bh * v.N * v.P + i * v.P + p] : A(0);
  for (int64_t t = 0; t < v.steps; ++t) {
    const int64_t i_at = v.head(n, t, h);
    const A decay = v.packing.resets(n, t) ? A(0) : math::exp(v.g_log_a[i_at]), dt = v.dt_at(i_at);
    const T *b = v.g_b + v.group(n, t, g), *c = v.g_c + v.group(n, t, g);
    const A x = inside ? A(v.g_x[i_at * v.P + p]) : A(0);
    A sum = 0;
    if (inside)
      for (int64_t i = warp; i < v.N; i += recurrent_warps) {
        const A s = decay * S[i * v.P] + dt * A(b[i]) * x;
        S[i * v.P] = s;
        sum += A(c[i]) * s;
      }
    s_part[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && inside) {
      A y = v.g_d ? v.g_d[h] * x : A(0);
      for (int part = 0; part < recurrent_warps; ++part) y += s_part[part][lane];
      g_y[i_at * v.P + p] = T(y);
    }
    __syncthreads();
  }
}

// ---- launches ----

template <class T>
struct DecayTensors {  // the memory of Decays, for as long as its kernels are being launched
  Tensor sum, in, out;
  DecayTensors(Device& device, const View<T>& v)
      : sum(device, {v.B, v.H, v.steps}, Dtype::f64),
        in(device, {v.B, v.H, v.steps}, dtype_of<Acc<T>>()),
        out(empty_like(in)) {}
  Decays<Acc<T>> view() const { return {sum.data<double>(), in.data<Acc<T>>(), out.data<Acc<T>>()}; }
};

template <class T>
void launch_sums(Device& device, const View<T>& v, double* g_sum) {
  sums_kernel<T><<<cuda::blocks_for(v.B * v.chunks * ((v.H + sums_heads - 1) / sums_heads), 1), sums_threads, 0,
                   cuda::stream_of(device)>>>(v, g_sum);
  cuda::cuda_check(cudaGetLastError());
}
template <class T>
void launch_decays(Device& device, const View<T>& v, const Decays<Acc<T>>& decays) {
  launch_sums(device, v, decays.g_sum);
  decays_kernel<T><<<cuda::blocks_for(v.B * v.H * v.steps, 256), 256, 0, cuda::stream_of(device)>>>(v, decays);
  cuda::cuda_check(cudaGetLastError());
}

// The state before each chunk, and the last one.
template <class T>
void launch_states(Device& device, const View<T>& v, const Decays<Acc<T>>& decays, const Tensor& states,
                   Acc<T>* g_final) {
  using A = Acc<T>;
  const cudaStream_t stream = cuda::stream_of(device);
  const Tensor apart = std::is_same_v<T, A> ? Tensor{} : Tensor(device, states.shape(), dtype_of<A>());
  A* g_added = apart ? apart.data<A>() : reinterpret_cast<A*>(states.data<T>());
  const int64_t NP = v.N * v.P;
  chunk_product_kernel<T><<<cuda::blocks_for(v.B * v.chunks * v.H * product_tiles(v.N) * product_tiles(v.P), 1),
                            product_threads, 0, stream>>>(v, v.g_b, v.g_x, decays.g_out, v.g_dt, g_added);
  cuda::cuda_check(cudaGetLastError());
  if (NP == 0) return;
  pass_kernel<T>
      <<<cuda::blocks_for(v.B * v.H * NP, 256), 256, 0, stream>>>(v, decays.g_in, g_added, states.data<T>(), g_final);
  cuda::cuda_check(cudaGetLastError());
}

template <class T>
Tensor launch_scores(Device& device, const View<T>& v) {
  const int64_t tiles = product_tiles(v.chunk);
  const Tensor m(device, {v.B, v.chunks, v.G, v.chunk, v.chunk}, dtype_of<Acc<T>>());
  scores_kernel<T>
      <<<cuda::blocks_for(v.B * v.chunks * v.G * tiles * tiles, 1), product_threads, 0, cuda::stream_of(device)>>>(
          v, m.data<Acc<T>>());
  cuda::cuda_check(cudaGetLastError());
  return m;
}

template <class T>
void plain_forward(const SsdScanForward& a) {
  using A = Acc<T>;
  const View<T> v(a.in, a.chunk);
  const cudaStream_t stream = cuda::stream_of(a.device());
  if (v.B * v.H == 0) return;
  if (a.chunk == 0) {
    if (v.P == 0) return;
    recurrent_kernel<T><<<cuda::blocks_for(v.B * v.H * ((v.P + 31) / 32), 1), 32 * recurrent_warps, 0, stream>>>(
        v, a.y.data<T>(), a.final.data<A>());
    cuda::cuda_check(cudaGetLastError());
    return;
  }
  const DecayTensors<T> memory(a.device(), v);
  const Decays<A> decays = memory.view();
  launch_decays(a.device(), v, decays);
  launch_states(a.device(), v, decays, a.states, a.final.data<A>());
  const Tensor m = launch_scores(a.device(), v);
  outputs_kernel<T><<<cuda::blocks_for(v.B * v.chunks * v.H * product_tiles(v.chunk) * product_tiles(v.P), 1),
                      product_threads, 0, stream>>>(v, decays, m.data<A>(), a.states.data<T>(), a.y.data<T>());
  cuda::cuda_check(cudaGetLastError());
}

// The recurrent form keeps no states: its gradient is the chunked form's, with the states made here.
template <class T>
void plain_backward(const SsdScanBackward& a) {
  using A = Acc<T>;
  const View<T> v(a.in, a.chunk ? a.chunk : 64);
  Device& device = a.device();
  const cudaStream_t stream = cuda::stream_of(device);
  const Tensor parts(device, {v.B, v.chunks, v.H}, dtype_of<A>());
  if (v.B * v.H > 0) {
    const DecayTensors<T> memory(device, v);
    const Decays<A> decays = memory.view();
    launch_decays(device, v, decays);
    const Tensor states = a.states ? a.states : Tensor(device, {v.B, v.chunks, v.H, v.N, v.P}, dtype_of<T>());
    if (!a.states) launch_states<T>(device, v, decays, states, nullptr);

    const T* g_d_y = a.d_y ? a.d_y.data<T>() : nullptr;
    const int64_t NP = v.N * v.P, chunks = v.B * v.chunks, tiles = product_tiles(v.chunk), n_tiles = product_tiles(v.N),
                  p_tiles = product_tiles(v.P);
    const Tensor d_states =
        g_d_y ? Tensor(device, states.shape(), dtype_of<A>()) : zeros(device, states.shape(), dtype_of<A>());
    if (g_d_y) {
      chunk_product_kernel<T><<<cuda::blocks_for(chunks * v.H * n_tiles * p_tiles, 1), product_threads, 0, stream>>>(
          v, v.g_c, g_d_y, decays.g_in, nullptr, d_states.data<A>());
      cuda::cuda_check(cudaGetLastError());
    }
    if (NP > 0) {
      pass_back_kernel<T><<<cuda::blocks_for(v.B * v.H * NP, 256), 256, 0, stream>>>(
          v, decays.g_in, a.d_final ? a.d_final.data<A>() : nullptr, d_states.data<A>(),
          a.d_initial ? a.d_initial.data<A>() : nullptr);
      cuda::cuda_check(cudaGetLastError());
    }
    const Tensor m = launch_scores(device, v), d_m = empty_like(m),
                 q(device, {v.B, v.chunks, v.H, v.chunk, v.chunk}, dtype_of<A>());
    pairs_kernel<T><<<cuda::blocks_for(chunks * v.G * tiles * tiles, 1), product_threads, 0, stream>>>(
        v, decays.g_sum, g_d_y, m.data<A>(), d_m.data<A>(), q.data<A>());
    cuda::cuda_check(cudaGetLastError());
    d_x_kernel<T><<<cuda::blocks_for(chunks * v.H * tiles * p_tiles, 1), product_threads, 0, stream>>>(
        v, decays, g_d_y, m.data<A>(), d_states.data<A>(), a.d_x.data<T>());
    cuda::cuda_check(cudaGetLastError());
    const Tensor dot_u(device, {n_tiles, v.B, v.H, v.steps}, dtype_of<A>()), dot_v = empty_like(dot_u);
    const unsigned rows = cuda::blocks_for(chunks * v.G * tiles * n_tiles, 1);
    d_rows_kernel<T, false, T><<<rows, product_threads, 0, stream>>>(v, decays.g_in, g_d_y, states.data<T>(),
                                                                     d_m.data<A>(), a.d_c.data<T>(), dot_u.data<A>());
    cuda::cuda_check(cudaGetLastError());
    d_rows_kernel<T, true, A><<<rows, product_threads, 0, stream>>>(v, decays.g_out, v.g_x, d_states.data<A>(),
                                                                    d_m.data<A>(), a.d_b.data<T>(), dot_v.data<A>());
    cuda::cuda_check(cudaGetLastError());
    finish_kernel<T><<<cuda::blocks_for(chunks * v.H, 1), product_threads, 0, stream>>>(
        v, decays.g_in, g_d_y, states.data<T>(), d_states.data<A>(), q.data<A>(), dot_u.data<A>(), dot_v.data<A>(),
        a.d_log_a.data<A>(), a.d_dt ? a.d_dt.data<A>() : nullptr, parts.data<A>());
    cuda::cuda_check(cudaGetLastError());
  }
  if (!a.d_d || v.H == 0) return;
  d_d_kernel<A>
      <<<cuda::blocks_for(v.H, 1), product_threads, 0, stream>>>(parts.data<A>(), a.d_d.data<A>(), v.B * v.chunks, v.H);
  cuda::cuda_check(cudaGetLastError());
}

}  // namespace taper::kernels::ssd
