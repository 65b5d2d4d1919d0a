// gla_scan on CUDA, the form for every dtype and shape: blocks of 16 tokens, each a chunk of its own.
//
// In a block the decays are running products of exp(log_a), as the contract has them; over a block they are exp of a sum
// in f64, kept as a float and what the float lost, so that decays of 1e-8 per token add up over any length. Every block's
// state is made (K V numbers for 16 tokens), then all blocks are independent: no pass but the states' is sequential.
#pragma once
#include "cuda/launch.cuh"
#include "cuda/vector.cuh"
#include "tensor/ops/gla_scan.h"
#include "tensor/vector_math.h"

namespace taper::kernels::gla {

constexpr int rows = 16;      // tokens of a block
constexpr int threads = 256;  // of every kernel here

// Where the blocks lie: chunks are cut into blocks of 16, the last of a chunk and the last chunk may be shorter.
struct Blocks {
  int64_t B, T, H, K, V;
  int64_t chunk, per_chunk, count;  // tokens and blocks of a chunk; blocks of a window
  PackingView packing;
  double scale;

  Blocks(const GlaScanInputs& in, int64_t size)
      : B(in.v.size(0)), T(in.v.size(1)), H(in.v.size(2)), K(in.k.size(3)), V(in.v.size(3)),
        chunk(size == 0 || size > T ? T : size), per_chunk((chunk + rows - 1) / rows),
        count(T / chunk * per_chunk + (T % chunk + rows - 1) / rows), packing(in.packing, T), scale(in.scale) {}

  int64_t all() const { return B * count * H; }
};

// One block of one head: number = (b count + block) H + h.
struct Block {
  int64_t b, h, block, begin, first;  // first: its first token's row in [B,T,H]
  int length;

  __device__ Block(const Blocks& z, int64_t number) {
    h = number % z.H;
    block = number / z.H % z.count;
    b = number / z.H / z.count;
    const int64_t in_chunk = block % z.per_chunk * rows;
    begin = block / z.per_chunk * z.chunk + in_chunk;
    first = (b * z.T + begin) * z.H + h;
    const int64_t left = z.T - begin, chunk_left = z.chunk - in_chunk;
    const int64_t most = left < chunk_left ? left : chunk_left;
    length = int(most < rows ? most : rows);
  }
};

// exp(log_a) of a channel's tokens, 0 at a document start; 1 behind the last token, so that products go on.
template <class A>
__device__ void load_decays(const Blocks& z, const Block& block, const A* g_log_a, int64_t n, A (&r_a)[rows], double& sum) {
  sum = 0;
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    r_a[i] = 1;
    if (i >= block.length) continue;
    const A log_a = g_log_a[(block.first + i * z.H) * z.K + n];
    const bool resets = z.packing.resets(block.b, block.begin + i);
    r_a[i] = resets ? A(0) : math::exp(log_a);
    sum += resets ? -INFINITY : double(log_a);
  }
}

// What is left of the state before a block after it: exp of its sum, as high + low.
template <class A>
struct Whole {
  A high, low;
};

// q' = scale q * D_i-, k' = k * D_Lj, whole = D_L- of every block. One thread per block and channel.
template <class T, class A = Acc<T>>
__global__ void decay_kernel(const T* g_q, const T* g_k, const A* g_log_a,  // [B,T,H,K]
                             A* g_q_since, A* g_k_until,                    // [B,T,H,K]
                             Whole<A>* g_whole,                             // [B,count,H,K]
                             Blocks z) {
  const int64_t index = cuda::thread_index();
  if (index >= z.B * z.count * z.H * z.K) return;
  const Block block(z, index / z.K);
  const int64_t n = index % z.K;
  A r_a[rows], since = 1, until = 1;
  double sum;
  load_decays(z, block, g_log_a, n, r_a, sum);
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    since *= r_a[i];
    const int64_t at = (block.first + i * z.H) * z.K + n;
    if (i < block.length) g_q_since[at] = A(z.scale) * A(g_q[at]) * since;
  }
#pragma unroll
  for (int j = rows - 1; j >= 0; --j) {
    const int64_t at = (block.first + j * z.H) * z.K + n;
    if (j < block.length) g_k_until[at] = A(g_k[at]) * until;
    until *= r_a[j];
  }
  const double whole = math::exp(sum);
  g_whole[index].high = A(whole);
  g_whole[index].low = A(whole - double(A(whole)));
}

// A_ij = sum_n scale q_in k_jn D_ijn inside each block, 0 above the diagonal. Thread 16 j + lane runs W = k_jn D_ijn down
// the rows i for channels lane, lane + 16, ...; the lanes' sums are added in order.
template <class T, class A = Acc<T>>
__global__ void pairs_kernel(const T* g_q, const T* g_k, const A* g_log_a,  // [B,T,H,K]
                             A* g_A,                                        // [B,count,H,16,16]
                             Blocks z) {
  __shared__ A s_q[rows][rows + 1], s_k[rows][rows + 1], s_a[rows][rows + 1];  // [token][channel], 16 channels at a time
  __shared__ A s_sum[rows][rows][rows + 1];                                    // [i][j][lane]
  const Block block(z, blockIdx.x);
  const int j = int(threadIdx.x) / rows, lane = int(threadIdx.x) % rows;
  const bool resets = j < block.length && z.packing.resets(block.b, block.begin + j);
  A r_sum[rows] = {};
  for (int64_t n = 0; n < z.K; n += rows) {
    const int64_t at = (block.first + j * z.H) * z.K + n + lane;
    const bool inside = j < block.length && n + lane < z.K;
    __syncthreads();
    s_q[j][lane] = inside ? A(z.scale) * A(g_q[at]) : A(0);
    s_k[j][lane] = inside ? A(g_k[at]) : A(0);
    s_a[j][lane] = inside && !resets ? math::exp(g_log_a[at]) : A(0);
    __syncthreads();
    const A k = s_k[j][lane];
    A W = 0;
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      W = i == j ? k : W * s_a[i][lane];
      r_sum[i] += s_q[i][lane] * W;
    }
  }
#pragma unroll
  for (int i = 0; i < rows; ++i) s_sum[i][j][lane] = r_sum[i];
  __syncthreads();
  A sum = 0;  // of pair i = j of this thread, its column the lane
  for (int l = 0; l < rows; ++l) sum += s_sum[j][lane][l];
  g_A[int64_t(blockIdx.x) * rows * rows + threadIdx.x] = lane <= j ? sum : A(0);
}

constexpr int outer_k = 32, outer_v = 64;  // the tile of a product over tokens

// slot = sum_i x_i y_i^T [K,V] of every block: k' with v, or q' with d_y. Grid: blocks, tiles.
template <class T, class A = Acc<T>>
__global__ void outer_kernel(const A* g_x,  // [B,T,H,K]
                             const T* g_y,  // [B,T,H,V]; absent: 0
                             A* g_slots,    // [B,count,H,K,V]
                             Blocks z) {
  __shared__ A s_x[rows][outer_k], s_y[rows][outer_v];
  const Block block(z, blockIdx.x);
  const int64_t tiles = (z.V + outer_v - 1) / outer_v, n0 = blockIdx.y / tiles * outer_k, p0 = blockIdx.y % tiles * outer_v;
  for (int e = int(threadIdx.x); e < rows * outer_k; e += threads) {
    const int i = e / outer_k, n = e % outer_k;
    s_x[i][n] = i < block.length && n0 + n < z.K ? g_x[(block.first + i * z.H) * z.K + n0 + n] : A(0);
  }
  for (int e = int(threadIdx.x); e < rows * outer_v; e += threads) {
    const int i = e / outer_v, p = e % outer_v;
    s_y[i][p] = g_y && i < block.length && p0 + p < z.V ? A(g_y[(block.first + i * z.H) * z.V + p0 + p]) : A(0);
  }
  __syncthreads();
  const int p = int(threadIdx.x) % outer_v, n = int(threadIdx.x) / outer_v * 8;
  A r_sum[8] = {};
#pragma unroll 4
  for (int i = 0; i < rows; ++i) {
    const A y = s_y[i][p];
#pragma unroll
    for (int e = 0; e < 8; ++e) r_sum[e] += s_x[i][n + e] * y;
  }
  for (int e = 0; e < 8; ++e)
    if (n0 + n + e < z.K && p0 + p < z.V) g_slots[(int64_t(blockIdx.x) * z.K + n0 + n + e) * z.V + p0 + p] = r_sum[e];
}

// Each block's slot holds what it adds to the state and gets the state before it (backwards: after it). One thread per
// element of a state; eight blocks' slots are asked for at once, since the next address does not depend on the sum.
template <class T, bool backwards, class A = Acc<T>>
__global__ void pass_kernel(const Whole<A>* g_whole,  // [B,count,H,K]
                            const A* g_first,         // [B,H,K,V]; absent: 0
                            A* g_slots,               // [B,count,H,K,V]
                            T* g_states,              // [B,chunks,H,K,V], the slots where chunks begin; absent: not wanted
                            A* g_last,                // [B,H,K,V]; absent: not wanted
                            Blocks z) {
  const int64_t index = cuda::thread_index(), KV = z.K * z.V;
  if (index >= z.B * z.H * KV) return;
  const int64_t b = index / KV / z.H, h = index / KV % z.H, element = index % KV, n = element / z.V;
  const int64_t chunks = (z.count + z.per_chunk - 1) / z.per_chunk;
  A state = g_first ? g_first[index] : A(0);
  constexpr int ahead = 8;
  for (int64_t done = 0; done < z.count; done += ahead) {
    A r_added[ahead];
    Whole<A> r_whole[ahead];
#pragma unroll
    for (int e = 0; e < ahead; ++e) {
      const int64_t block = backwards ? z.count - 1 - done - e : done + e, number = (b * z.count + block) * z.H + h;
      if (done + e < z.count) {
        r_added[e] = g_slots[number * KV + element];
        r_whole[e] = g_whole[number * z.K + n];
      }
    }
#pragma unroll
    for (int e = 0; e < ahead; ++e) {
      if (done + e >= z.count) break;
      const int64_t block = backwards ? z.count - 1 - done - e : done + e, number = (b * z.count + block) * z.H + h;
      g_slots[number * KV + element] = state;
      if (g_states && block % z.per_chunk == 0)
        g_states[((b * chunks + block / z.per_chunk) * z.H + h) * KV + element] = T(state);
      state = r_whole[e].high * state + (r_whole[e].low * state + r_added[e]);
    }
  }
  if (g_last) g_last[index] = state;
}

constexpr int tile = 64, slice = 32;  // channels or values that a block of threads owns, and that it sums at a time

// y = A w + x S of every block: A with v, q' and the state before, or A^T with d_y, k' and the state's gradient after.
// Grid: blocks, tiles of V. A thread owns four rows of one value.
template <class T, bool transposed, class A = Acc<T>>
__global__ void rows_kernel(const A* g_A,      // [B,count,H,16,16]
                            const T* g_w,      // [B,T,H,V]; absent: 0
                            const A* g_x,      // [B,T,H,K]
                            const A* g_slots,  // [B,count,H,K,V]
                            T* g_y,            // [B,T,H,V]
                            Blocks z) {
  __shared__ A s_A[rows][rows + 1], s_x[rows][slice];
  const Block block(z, blockIdx.x);
  const int i = int(threadIdx.x) / rows, j = int(threadIdx.x) % rows;
  s_A[transposed ? j : i][transposed ? i : j] = g_A[int64_t(blockIdx.x) * rows * rows + threadIdx.x];
  const int row = int(threadIdx.x) / tile * 4;
  const int64_t p = blockIdx.y * int64_t(tile) + threadIdx.x % tile;
  const bool inside = p < z.V;
  A r_y[4] = {};
  __syncthreads();
  if (g_w && inside)
    for (int l = 0; l < block.length; ++l) {
      const A w = A(g_w[(block.first + l * z.H) * z.V + p]);
#pragma unroll
      for (int e = 0; e < 4; ++e) r_y[e] += s_A[row + e][l] * w;
    }
  for (int64_t n0 = 0; n0 < z.K; n0 += slice) {
    __syncthreads();
    for (int e = int(threadIdx.x); e < rows * slice; e += threads) {
      const int l = e / slice, n = e % slice;
      s_x[l][n] = l < block.length && n0 + n < z.K ? g_x[(block.first + l * z.H) * z.K + n0 + n] : A(0);
    }
    __syncthreads();
    if (!inside) continue;
    const int most = int(z.K - n0 < slice ? z.K - n0 : slice);
    const A* g_s = g_slots + (int64_t(blockIdx.x) * z.K + n0) * z.V + p;
#pragma unroll 8
    for (int n = 0; n < most; ++n) {
      const A s = g_s[n * z.V];
#pragma unroll
      for (int e = 0; e < 4; ++e) r_y[e] += s_x[row + e][n] * s;
    }
  }
  for (int e = 0; e < 4; ++e)
    if (inside && row + e < block.length) g_y[(block.first + (row + e) * z.H) * z.V + p] = T(r_y[e]);
}

// dA = d_y v^T inside each block, 0 above the diagonal and across document starts.
template <class T, class A = Acc<T>>
__global__ void d_pairs_kernel(const T* g_d_y, const T* g_v,  // [B,T,H,V]; d_y absent: 0
                               A* g_dA,                       // [B,count,H,16,16]
                               Blocks z) {
  __shared__ A s_d_y[rows][slice + 1], s_v[rows][slice + 1];
  const Block block(z, blockIdx.x);
  const int i = int(threadIdx.x) / rows, j = int(threadIdx.x) % rows;
  A sum = 0;
  for (int64_t p0 = 0; p0 < z.V && g_d_y; p0 += slice) {
    __syncthreads();
    for (int e = int(threadIdx.x); e < rows * slice; e += threads) {
      const int l = e / slice, p = e % slice;
      const bool inside = l < block.length && p0 + p < z.V;
      const int64_t at = (block.first + l * z.H) * z.V + p0 + p;
      s_d_y[l][p] = inside ? A(g_d_y[at]) : A(0);
      s_v[l][p] = inside ? A(g_v[at]) : A(0);
    }
    __syncthreads();
#pragma unroll 8
    for (int p = 0; p < slice; ++p) sum += s_d_y[i][p] * s_v[j][p];
  }
  g_dA[int64_t(blockIdx.x) * rows * rows + threadIdx.x] = j <= i ? sum : A(0);
}

// d q' = d_y S^T, d k' = v Z^T, and <S, Z> by channel. Grid: blocks, tiles of K. A thread owns four rows of a channel.
template <class T, class A = Acc<T>>
__global__ void d_keys_kernel(const T* g_d_y, const T* g_v,    // [B,T,H,V]; d_y absent: 0
                              const A* g_S, const A* g_Z,      // [B,count,H,K,V]
                              A* g_d_q_since, A* g_d_k_until,  // [B,T,H,K]
                              A* g_S_Z,                        // [B,count,H,K]
                              Blocks z) {
  __shared__ A s_d_y[rows][slice + 1], s_v[rows][slice + 1], s_S[tile][slice + 1], s_Z[tile][slice + 1];
  const Block block(z, blockIdx.x);
  const int n = int(threadIdx.x) % tile, group = int(threadIdx.x) / tile, row = group * 4;
  const int64_t n0 = blockIdx.y * int64_t(tile);
  A r_d_q[4] = {}, r_d_k[4] = {}, r_S_Z = 0;
  for (int64_t p0 = 0; p0 < z.V; p0 += slice) {
    __syncthreads();
    for (int e = int(threadIdx.x); e < rows * slice; e += threads) {
      const int l = e / slice, p = e % slice;
      const bool inside = l < block.length && p0 + p < z.V;
      const int64_t at = (block.first + l * z.H) * z.V + p0 + p;
      s_d_y[l][p] = inside && g_d_y ? A(g_d_y[at]) : A(0);
      s_v[l][p] = inside ? A(g_v[at]) : A(0);
    }
    for (int e = int(threadIdx.x); e < tile * slice; e += threads) {
      const int l = e / slice, p = e % slice;
      const bool inside = n0 + l < z.K && p0 + p < z.V;
      const int64_t at = (int64_t(blockIdx.x) * z.K + n0 + l) * z.V + p0 + p;
      s_S[l][p] = inside ? g_S[at] : A(0);
      s_Z[l][p] = inside ? g_Z[at] : A(0);
    }
    __syncthreads();
#pragma unroll 4
    for (int p = 0; p < slice; ++p) {
      const A S = s_S[n][p], Z = s_Z[n][p];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        r_d_q[e] += s_d_y[row + e][p] * S;
        r_d_k[e] += s_v[row + e][p] * Z;
      }
    }
    for (int p = group * (slice / 4); p < (group + 1) * (slice / 4); ++p) r_S_Z += s_S[n][p] * s_Z[n][p];
  }
  __syncthreads();
  s_S[n][group] = r_S_Z;
  __syncthreads();
  if (n0 + n >= z.K) return;
  for (int e = 0; e < 4; ++e)
    if (row + e < block.length) {
      const int64_t at = (block.first + (row + e) * z.H) * z.K + n0 + n;
      g_d_q_since[at] = r_d_q[e];
      g_d_k_until[at] = r_d_k[e];
    }
  if (group == 0) g_S_Z[int64_t(blockIdx.x) * z.K + n0 + n] = s_S[n][0] + s_S[n][1] + s_S[n][2] + s_S[n][3];
}

// d_q, d_k, d_log_a of one channel of one block, by the contract: what comes from the state and goes to it, then for each
// token j the running products W (down the rows) and X (up again).
template <class T, class A = Acc<T>>
__global__ void d_decay_kernel(const T* g_q, const T* g_k, const A* g_log_a,                // [B,T,H,K]
                               const A* g_dA,                                               // [B,count,H,16,16]
                               const A* g_d_q_since, const A* g_d_k_until,                  // [B,T,H,K]
                               const A* g_S_Z, const Whole<A>* g_whole,                     // [B,count,H,K]
                               T* g_d_q, T* g_d_k, A* g_d_log_a,                            // [B,T,H,K]
                               Blocks z) {
  const int64_t index = cuda::thread_index();
  if (index >= z.B * z.count * z.H * z.K) return;
  const Block block(z, index / z.K);
  const int64_t n = index % z.K;
  const A* g_pairs = g_dA + index / z.K * rows * rows;
  A r_a[rows], r_q[rows], r_d_q[rows], r_d_log_a[rows];
  double sum;
  load_decays(z, block, g_log_a, n, r_a, sum);
  A decay = 1;
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    const int64_t at = (block.first + i * z.H) * z.K + n;
    const bool inside = i < block.length;
    decay *= r_a[i];
    r_q[i] = inside ? A(z.scale) * A(g_q[at]) : A(0);
    r_d_q[i] = inside ? decay * g_d_q_since[at] : A(0);
  }
  const A across = g_whole[index].high * g_S_Z[index];
  A run = 0;
#pragma unroll
  for (int i = rows - 1; i >= 0; --i) {
    run += r_q[i] * r_d_q[i];
    r_d_log_a[i] = run + across;
  }
  A keys = 0;  // sum_{j<t} k_j * dk_j of the way to the state
#pragma unroll 1
  for (int j = 0; j < block.length; ++j) {
    const int64_t at = (block.first + j * z.H) * z.K + n;
    const A k = A(g_k[at]);
    A r_W[rows], W = 0, until = 1;
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const A dA = i < block.length ? g_pairs[i * rows + j] : A(0);
      W = i == j ? k : W * r_a[i];
      until = i > j ? until * r_a[i] : until;
      r_W[i] = W;
      r_d_q[i] += dA * W;
      r_d_log_a[i] += i == j ? keys : A(0);
    }
    A X = 0;
#pragma unroll
    for (int i = rows - 1; i >= 0; --i) {
      const A dA = i < block.length ? g_pairs[i * rows + j] : A(0);
      if (i < j) continue;
      X += dA * r_q[i];
      if (i > j) {
        r_d_log_a[i] += X * r_W[i];
        X *= r_a[i];
      }
    }
    const A to_state = until * g_d_k_until[at];
    g_d_k[at] = T(X + to_state);
    keys += k * to_state;
  }
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    if (i >= block.length) break;
    const int64_t at = (block.first + i * z.H) * z.K + n;
    g_d_q[at] = T(A(z.scale) * r_d_q[i]);
    g_d_log_a[at] = r_d_log_a[i];
  }
}

// The recurrence itself, for windows of few tokens: decoding. Grid: heads, values by 32; eight threads share a value's
// channels. The state lies in `final`, each element always touched by the same thread.
template <class T, class A = Acc<T>>
__global__ void step_kernel(const T* g_q, const T* g_k, const T* g_v, const A* g_log_a,  // [B,T,H,K], v [B,T,H,V]
                            const A* g_initial,                                          // [B,H,K,V]; absent: 0
                            T* g_y, A* g_final,                                          // [B,T,H,V] [B,H,K,V]
                            T* g_states,                                                 // [B,chunks,H,K,V]; absent: not wanted
                            Blocks z) {
  constexpr int values = 32, groups = threads / values;
  __shared__ A s_y[groups][values];
  const int64_t b = blockIdx.x / z.H, h = blockIdx.x % z.H, state = int64_t(blockIdx.x) * z.K * z.V;
  const int64_t p = blockIdx.y * int64_t(values) + threadIdx.x % values, chunks = (z.T + z.chunk - 1) / z.chunk;
  const int group = int(threadIdx.x) / values;
  for (int64_t t = 0; t < z.T; ++t) {
    const int64_t row = (b * z.T + t) * z.H + h;
    const bool resets = z.packing.resets(b, t);
    A sum = 0;
    if (p < z.V) {
      const A v = A(g_v[row * z.V + p]);
      for (int64_t n = group; n < z.K; n += groups) {
        const int64_t at = n * z.V + p;
        const A before = t ? g_final[state + at] : g_initial ? g_initial[state + at] : A(0);
        if (g_states && t % z.chunk == 0) g_states[((b * chunks + t / z.chunk) * z.H + h) * z.K * z.V + at] = T(before);
        const double decay = resets ? 0 : math::exp(double(g_log_a[row * z.K + n]));
        const A high = A(decay), low = A(decay - double(high));
        const A after = high * before + (low * before + A(g_k[row * z.K + n]) * v);
        g_final[state + at] = after;
        sum += A(z.scale) * A(g_q[row * z.K + n]) * after;
      }
    }
    s_y[group][threadIdx.x % values] = sum;
    __syncthreads();
    if (group == 0 && p < z.V) {
      for (int g = 1; g < groups; ++g) sum += s_y[g][threadIdx.x % values];
      g_y[row * z.V + p] = T(sum);
    }
    __syncthreads();
  }
}

// ---- launches ----

// Temporary tensors of a scan: what the decays make of q and k, each block's pairs, and the state before it.
template <class T, class A = Acc<T>>
struct Parts {
  Tensor q_since, k_until, whole, A_, slots;
  Parts(const GlaScanInputs& in, const Blocks& z)
      : q_since(in.q.device(), in.q.shape(), dtype_of<A>()), k_until(in.q.device(), in.q.shape(), dtype_of<A>()),
        whole(in.q.device(), {z.B, z.count, z.H, z.K, 2}, dtype_of<A>()),
        A_(in.q.device(), {z.B, z.count, z.H, rows, rows}, dtype_of<A>()),
        slots(in.q.device(), {z.B, z.count, z.H, z.K, z.V}, dtype_of<A>()) {}
  Whole<A>* whole_at() const { return reinterpret_cast<Whole<A>*>(whole.template data<A>()); }
};

inline unsigned tiles(int64_t n, int size) { return unsigned((n + size - 1) / size); }

template <class T>
void launch_outer(const Blocks& z, const Tensor& x, const Tensor& y, const Tensor& slots, cudaStream_t stream) {
  const dim3 grid(cuda::blocks_for(z.all(), 1), tiles(z.K, outer_k) * tiles(z.V, outer_v));
  outer_kernel<T><<<grid, threads, 0, stream>>>(x.data<Acc<T>>(), y ? y.data<T>() : nullptr, slots.data<Acc<T>>(), z);
  cuda::cuda_check(cudaGetLastError());
}

template <class T, bool backwards>
void launch_pass(const Blocks& z, const Whole<Acc<T>>* whole, const Tensor& first, const Tensor& slots, const Tensor& states,
                 const Tensor& last, cudaStream_t stream) {
  using A = Acc<T>;
  pass_kernel<T, backwards><<<cuda::blocks_for(z.B * z.H * z.K * z.V, threads), threads, 0, stream>>>(
      whole, first ? first.data<A>() : nullptr, slots.data<A>(), states ? states.data<T>() : nullptr,
      last ? last.data<A>() : nullptr, z);
  cuda::cuda_check(cudaGetLastError());
}

// Decays, pairs and the state before each block.
template <class T>
void launch_parts(const GlaScanInputs& in, const Blocks& z, const Parts<T>& parts, const Tensor& states, const Tensor& final,
                  cudaStream_t stream) {
  using A = Acc<T>;
  decay_kernel<T><<<cuda::blocks_for(z.all() * z.K, threads), threads, 0, stream>>>(
      in.q.data<T>(), in.k.data<T>(), in.log_a.data<A>(), parts.q_since.template data<A>(), parts.k_until.template data<A>(),
      parts.whole_at(), z);
  cuda::cuda_check(cudaGetLastError());
  pairs_kernel<T><<<cuda::blocks_for(z.all(), 1), threads, 0, stream>>>(in.q.data<T>(), in.k.data<T>(), in.log_a.data<A>(),
                                                                        parts.A_.template data<A>(), z);
  cuda::cuda_check(cudaGetLastError());
  launch_outer<T>(z, parts.k_until, in.v, parts.slots, stream);
  launch_pass<T, false>(z, parts.whole_at(), in.initial, parts.slots, states, final, stream);
}

template <class T>
void forward_steps(const GlaScanForward& a, cudaStream_t stream) {
  using A = Acc<T>;
  const Blocks z(a.in, a.chunk);
  const dim3 grid(cuda::blocks_for(z.B * z.H, 1), tiles(z.V, 32));
  step_kernel<T><<<grid, threads, 0, stream>>>(a.in.q.data<T>(), a.in.k.data<T>(), a.in.v.data<T>(), a.in.log_a.data<A>(),
                                               a.in.initial ? a.in.initial.data<A>() : nullptr, a.y.data<T>(),
                                               a.final.data<A>(), a.states ? a.states.data<T>() : nullptr, z);
  cuda::cuda_check(cudaGetLastError());
}

template <class T>
void forward_plain(const GlaScanForward& a, cudaStream_t stream) {
  using A = Acc<T>;
  const Blocks z(a.in, a.chunk);
  const Parts<T> parts(a.in, z);
  launch_parts<T>(a.in, z, parts, a.states, a.final, stream);
  const dim3 grid(cuda::blocks_for(z.all(), 1), tiles(z.V, tile));
  rows_kernel<T, false><<<grid, threads, 0, stream>>>(parts.A_.template data<A>(), a.in.v.data<T>(),
                                                      parts.q_since.template data<A>(), parts.slots.template data<A>(),
                                                      a.y.data<T>(), z);
  cuda::cuda_check(cudaGetLastError());
}

template <class T>
void backward_plain(const GlaScanBackward& a, cudaStream_t stream) {
  using A = Acc<T>;
  const GlaScanInputs& in = a.in;
  const Blocks z(in, a.chunk);
  const Parts<T> parts(in, z);
  launch_parts<T>(in, z, parts, {}, {}, stream);
  const Tensor Z = empty_like(parts.slots), d_q_since = empty_like(parts.q_since), d_k_until = empty_like(d_q_since);
  const Tensor dA = empty_like(parts.A_), S_Z(in.v.device(), {z.B, z.count, z.H, z.K}, dtype_of<A>());
  const T* d_y = a.d_y ? a.d_y.data<T>() : nullptr;
  launch_outer<T>(z, parts.q_since, a.d_y, Z, stream);
  launch_pass<T, true>(z, parts.whole_at(), a.d_final, Z, {}, a.d_initial, stream);

  d_pairs_kernel<T><<<cuda::blocks_for(z.all(), 1), threads, 0, stream>>>(d_y, in.v.data<T>(), dA.data<A>(), z);
  cuda::cuda_check(cudaGetLastError());
  d_keys_kernel<T><<<dim3(cuda::blocks_for(z.all(), 1), tiles(z.K, tile)), threads, 0, stream>>>(
      d_y, in.v.data<T>(), parts.slots.template data<A>(), Z.data<A>(), d_q_since.data<A>(), d_k_until.data<A>(),
      S_Z.data<A>(), z);
  cuda::cuda_check(cudaGetLastError());
  rows_kernel<T, true><<<dim3(cuda::blocks_for(z.all(), 1), tiles(z.V, tile)), threads, 0, stream>>>(
      parts.A_.template data<A>(), d_y, parts.k_until.template data<A>(), Z.data<A>(), a.d_v.data<T>(), z);
  cuda::cuda_check(cudaGetLastError());
  d_decay_kernel<T><<<cuda::blocks_for(z.all() * z.K, 128), 128, 0, stream>>>(
      in.q.data<T>(), in.k.data<T>(), in.log_a.data<A>(), dA.data<A>(), d_q_since.data<A>(), d_k_until.data<A>(),
      S_Z.data<A>(), parts.whole_at(), a.d_q.data<T>(), a.d_k.data<T>(), a.d_log_a.data<A>(), z);
  cuda::cuda_check(cudaGetLastError());
}

}  // namespace taper::kernels::gla
