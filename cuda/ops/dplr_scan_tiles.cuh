// dplr_scan in bf16 on tensor cores, K = V = 64, chunks of 64 tokens: what its kernels share.
//
// Decays are powers of 2 seen from the chunk's middle: with e_i = the sum of log2 decays from the middle to token i, > 0
// before it,   r^_i = r_i 2^e_i   a^_i = a_i 2^e_{i-1}   k^_j = k_j 2^-e_j   b^_j = b_j 2^-e_j   S~ = 2^c S, Z~ = 2^d Z,
// c and d the sums over the two halves. Then every product of the chunked form is one of these matrices, as they are:
// r_i D_ij k_j = r^_i k^_j. A half may decay to 2^-56, so that no product of two factors leaves f32. RWKV-7's decays end
// at 2^-28. A head with a stronger chunk is left out, and the plain kernels take it.
#pragma once
#include <cuda_runtime.h>

#include <climits>

#include "cuda/mma.cuh"
#include "cuda/quad.cuh"
#include "tensor/ops/dplr_scan.h"

namespace taper::kernels::dplr_tiles {

constexpr int tokens = 64, channels = 64;  // of a tile: its rows are tokens or channels
constexpr int block = 16, blocks = 4;      // triangular matrices are handled by blocks
constexpr int wide_row = 72;               // of a matrix of f32: the lanes of a Sum reach all banks
constexpr float lowest = -56;

// Rows of 144 bytes: eight of them, 16 bytes each, lie in all banks once.
struct alignas(16) Tile {
  static constexpr int row = 72;
  bf16 at[tokens][row];
};

struct View {
  const bf16 *g_r, *g_k, *g_v, *g_a, *g_b;  // [B,T,H,64]
  const float* g_log_w;                     // [B,T,H,64]
  PackingView packing;
  int64_t steps, H, chunks;

  explicit View(const DplrScanInputs& in)
      : g_r(in.r.data<bf16>()), g_k(in.k.data<bf16>()), g_v(in.v.data<bf16>()), g_a(in.a.data<bf16>()), g_b(in.b.data<bf16>()),
        g_log_w(in.log_w.data<float>()), packing(in.packing, in.r.size(1)), steps(in.r.size(1)), H(in.r.size(2)),
        chunks((steps + tokens - 1) / tokens) {}
};

// How far the backward is, between its steps.
struct Progress {
  static constexpr int left_out = INT_MAX;  // as a head's count: its decays are too strong, the plain kernels take it
  int* g_done;   // [B,H]: how many of a head's chunks have the d of their states, from the last on
  int* g_taken;  // how many chunks of the launch have been taken by blocks that make gradients
};

// Chunk `slot` of [B,chunks,H].
struct Chunk {
  int64_t slot, n, h, begin, at, stride;  // at: the first token's row of [B,T,H,64], times 64; stride to the next
  int length;
  uint64_t starts;  // bit i: a document starts at token i

  Chunk() = default;
  __device__ Chunk(const View& v, int64_t slot, bool with_starts = true) : slot(slot) {
    const auto number = uint32_t(slot), heads = uint32_t(v.H), chunks = uint32_t(v.chunks);  // a grid's blocks are fewer than 2^31
    h = number % heads;
    n = number / heads / chunks;
    begin = number / heads % chunks * tokens;
    at = ((n * v.steps + begin) * v.H + h) * channels;
    stride = v.H * channels;
    length = int(min(int64_t(tokens), v.steps - begin));
    starts = 0;
    if (with_starts && v.packing.start) {  // the same in every warp
      const int lane = int(threadIdx.x) % 32;
      const auto begins = [&](int i) { return i < length && v.packing.resets(n, begin + i); };
      const unsigned low = __ballot_sync(~0u, begins(lane)), high = __ballot_sync(~0u, begins(lane + 32));
      starts = uint64_t(high) << 32 | low;
    }
  }
  // Tokens before the first start (64: none) see the state before the chunk; those from the last on (0: none) are seen by the
  // state after it.
  __device__ int first_start() const { return starts ? __ffsll(int64_t(starts)) - 1 : tokens; }
  __device__ int last_start() const { return starts ? start_of(tokens - 1) : 0; }
  // The token that starts the document of token i, or -1: it started before the chunk.
  __device__ int start_of(int i) const { return 63 - __clzll(int64_t(starts & ((uint64_t(2) << i) - 1))); }
};

// ---- fragments ----

// A 16x16 block as the left factor; as the right factor, two fragments of 8 columns. `turned` takes its transpose.
template <int row = Tile::row>
__device__ void load_left(uint32_t (&f)[4], const bf16* corner) {
  const int lane = int(threadIdx.x) % 32;
  cuda::ldmatrix_x4(f, corner + lane % 16 * row + lane / 16 * 8);
}
template <int row = Tile::row>
__device__ void load_left_turned(uint32_t (&f)[4], const bf16* corner) {
  const int lane = int(threadIdx.x) % 32;
  cuda::ldmatrix_x4_trans(f, corner + (lane % 8 + lane / 16 * 8) * row + lane / 8 % 2 * 8);
}
template <int row = Tile::row>
__device__ void load_right(uint32_t (&f)[4], const bf16* corner) {
  const int lane = int(threadIdx.x) % 32;
  cuda::ldmatrix_x4_trans(f, corner + lane % 16 * row + lane / 16 * 8);
}
template <int row = Tile::row>
__device__ void load_right_turned(uint32_t (&f)[4], const bf16* corner) {
  const int lane = int(threadIdx.x) % 32;
  cuda::ldmatrix_x4(f, corner + (lane % 8 + lane / 16 * 8) * row + lane / 8 % 2 * 8);
}

using Sum = float[2][4];  // a 16x16 block of f32: two tiles of 8 columns

__device__ inline void multiply(Sum& sum, const uint32_t (&left)[4], const uint32_t (&right)[4]) {
  const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
  cuda::mma_bf16(sum[0], left, first);
  cuda::mma_bf16(sum[1], left, second);
}
// The right factor is the transpose of what `x` is as a left factor.
__device__ inline void multiply_turned(Sum& sum, const uint32_t (&left)[4], const uint32_t (&x)[4]) {
  const uint32_t first[2] = {x[0], x[2]}, second[2] = {x[1], x[3]};
  cuda::mma_bf16(sum[0], left, first);
  cuda::mma_bf16(sum[1], left, second);
}
// A sum becomes a left factor where it is.
__device__ inline void pack(uint32_t (&f)[4], const Sum& sum) {
  f[0] = cuda::pack_bf16(sum[0][0], sum[0][1]);
  f[1] = cuda::pack_bf16(sum[0][2], sum[0][3]);
  f[2] = cuda::pack_bf16(sum[1][0], sum[1][1]);
  f[3] = cuda::pack_bf16(sum[1][2], sum[1][3]);
}
__device__ inline float2 unpack(uint32_t pair) { return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)}; }
__device__ inline void unpack(Sum& sum, const uint32_t (&f)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 x = unpack(f[i]);
    sum[i / 2][i % 2 * 2] = x.x;
    sum[i / 2][i % 2 * 2 + 1] = x.y;
  }
}
// Element e of tile t of a Sum lies in this row and column of its block.
__device__ inline int row_of(int e) { return int(threadIdx.x) % 32 / 4 + e / 2 * 8; }
__device__ inline int column_of(int t, int e) { return t * 8 + int(threadIdx.x) % 4 * 2 + e % 2; }

// Stores a block, packed, so that (row, column) of the block lies at corner + row * Tile::row + column.
__device__ inline void store(bf16* corner, const uint32_t (&f)[4]) {
  const int lane = int(threadIdx.x) % 32;
  uint32_t* to = reinterpret_cast<uint32_t*>(corner + lane / 4 * Tile::row + lane % 4 * 2);
  constexpr int down = 8 * Tile::row / 2, across = 4;
  to[0] = f[0];
  to[down] = f[1];
  to[across] = f[2];
  to[down + across] = f[3];
}

// Writes a block, packed, to the rows of tokens from `at` on and the 16 columns from `column` on, 16 bytes a lane.
__device__ inline void write_block(bf16* g, const Chunk& c, int at, int column, uint32_t (&f)[4]) {
  uint32_t x[4] = {f[0], f[2], f[1], f[3]};
  cuda::transpose_quad(x);
  const int lane = int(threadIdx.x) % 32, i = at + lane / 4 + lane / 2 % 2 * 8;
  if (i < c.length) *reinterpret_cast<uint4*>(g + c.at + i * c.stride + column + lane % 2 * 8) = make_uint4(x[0], x[1], x[2], x[3]);
}

// ---- the phases ----

// 2^x and 1 / x for what stays far from the ends of f32: one instruction each.
__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Asks for the 128 bytes at p: into the second-level cache.
__device__ inline void prefetch_line(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// A tile's rows from memory; zeros from `length` on, or where there is none. The caller commits and waits.
template <int threads>
__device__ void copy_tile(Tile& s, const bf16* g, int64_t stride, int length) {
  static_assert(tokens * 8 % threads == 0);
#pragma unroll
  for (int n = 0; n < tokens * 8 / threads; ++n) {  // the compiler knows how many: no loop that it unrolls further
    const int e = int(threadIdx.x) + n * threads, i = e / 8, q = e % 8 * 8;
    if (g) cuda::copy_async(&s.at[i][q], g + (i < length ? i * stride : 0) + q, i < length);
    else *reinterpret_cast<uint4*>(&s.at[i][q]) = uint4{};
  }
}

template <int warps>
struct Decays {
  float part[warps][channels];  // sums over a warp's tokens
  float scale[2][channels];     // 2^c, 2^d
};

// What scale_operands reads of token t, channels q and q + 1: from memory. `which`: r a k b.
struct Given {
  const View& v;
  const Chunk& c;
  __device__ uint32_t place(int t, int q) const { return (t < c.length ? uint32_t(t) * uint32_t(c.stride) : 0u) + uint32_t(q); }
  __device__ float2 log_w(int t, int q) const {
    return t < c.length ? *reinterpret_cast<const float2*>(v.g_log_w + c.at + place(t, q)) : float2{0, 0};
  }
  __device__ uint32_t pair(int which, int t, int q) const {
    const bf16* g = which == 0 ? v.g_r : which == 1 ? v.g_a : which == 2 ? v.g_k : v.g_b;
    return t < c.length ? *reinterpret_cast<const uint32_t*>(g + c.at + place(t, q)) : 0u;
  }
};

// r^ a^ k^ b^ in tiles; k^ is left out where `k` is null. False where a half decays below 2^lowest: then the tiles mean
// nothing. A warp takes its share of the tokens, a lane two channels. `powers` [65][wide_row], if given, gets 2^e_i in
// row i + 1. No barrier at the end.
template <int warps, class From>
__device__ bool scale_operands(const From& from, const Chunk& c, Decays<warps>& s, Tile& r, Tile& a, Tile* k, Tile& b,
                               float* powers = nullptr) {
  constexpr int share = tokens / warps;
  const int lane = int(threadIdx.x) % 32, first = int(threadIdx.x) / 32 * share, q = 2 * lane;
  float2 r_w[share], sum{0, 0};
  uint32_t r_r[share], r_a[share], r_k[share], r_b[share];
#pragma unroll
  for (int i = 0; i < share; ++i) {
    const int t = first + i;
    r_w[i] = c.starts >> t & 1 ? float2{0, 0} : from.log_w(t, q);
    r_r[i] = from.pair(0, t, q);
    r_a[i] = from.pair(1, t, q);
    r_k[i] = k ? from.pair(2, t, q) : 0u;
    r_b[i] = from.pair(3, t, q);
  }
  constexpr float log2_e = 0x1.715476p0f;
#pragma unroll
  for (int i = 0; i < share; ++i) {
    r_w[i].x *= log2_e;
    r_w[i].y *= log2_e;
    sum.x += r_w[i].x;
    sum.y += r_w[i].y;
  }
  *reinterpret_cast<float2*>(&s.part[first / share][q]) = sum;
  __syncthreads();
  float2 half[2] = {{0, 0}, {0, 0}}, e{0, 0};  // e: of the token before mine
#pragma unroll
  for (int w = 0; w < warps; ++w) {
    const float2 x = *reinterpret_cast<const float2*>(&s.part[w][q]);
    const bool late = w >= warps / 2;
    half[late].x += x.x;
    half[late].y += x.y;
    if (late && w * share < first) e.x += x.x, e.y += x.y;
    if (!late && w * share >= first) e.x -= x.x, e.y -= x.y;
  }
  const bool fits = half[0].x >= lowest && half[0].y >= lowest && half[1].x >= lowest && half[1].y >= lowest;
  if (!__all_sync(~0u, fits)) return false;
  const auto power = [](float2 x) { return float2{power_of_two(x.x), power_of_two(x.y)}; };
  float2 before = power(e);
  if (first == 0) {
    *reinterpret_cast<float2*>(&s.scale[0][q]) = power(half[0]);
    *reinterpret_cast<float2*>(&s.scale[1][q]) = power(half[1]);
    if (powers) *reinterpret_cast<float2*>(powers + q) = before;
  }
  const auto scaled = [](uint32_t x, float2 by) {
    const float2 p = unpack(x);
    return cuda::pack_bf16(p.x * by.x, p.y * by.y);
  };
#pragma unroll
  for (int i = 0; i < share; ++i) {
    e.x += r_w[i].x;
    e.y += r_w[i].y;
    const float2 up = power(e), down = power({-e.x, -e.y});
    const auto put = [&](Tile& to, uint32_t x) { *reinterpret_cast<uint32_t*>(&to.at[first + i][q]) = x; };
    put(r, scaled(r_r[i], up));
    put(a, scaled(r_a[i], before));
    if (k) put(*k, scaled(r_k[i], down));
    put(b, scaled(r_b[i], down));
    if (powers) *reinterpret_cast<float2*>(powers + (first + i + 1) * wide_row + q) = up;
    before = up;
  }
  return true;
}

// The blocks of a triangular matrix, column by column.
constexpr int triangle = 10;
__device__ constexpr int row_in_triangle(int n) { return int(0x3323213210 >> 4 * n & 15); }
__device__ constexpr int column_in_triangle(int n) { return int(0x3221110000 >> 4 * n & 15); }

// A block of left right^T over 64 columns: left(f, k) and right(f, k) load 16 of them from 16 k on.
template <class Left, class Right>
__device__ void pair_block(Sum& sum, Left left, Right right) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    uint32_t a[4], b[4];
    left(a, k);
    right(b, k);
    multiply(sum, a, b);
  }
}

// Clears the rows, or with `columns` the columns, of tokens that are not in [low, high); the block begins at token `at`.
template <bool columns>
__device__ void clear_outside(Sum& sum, int at, int low, int high) {
#pragma unroll
  for (int t = 0; t < 2; ++t)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = at + (columns ? column_of(t, e) : row_of(e));
      sum[t][e] = (i >= low) & (i < high) ? sum[t][e] : 0.0f;
    }
}

// Keeps what token row i may take from token column j: j <= i, or j < i where `before`, in the same document.
__device__ inline void mask(Sum& sum, const Chunk& c, int I, int J, bool before) {
  if (I != J && !c.starts) return;
  const int from[2] = {c.start_of(I * block + row_of(0)), c.start_of(I * block + row_of(2))};
#pragma unroll
  for (int t = 0; t < 2; ++t)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = I * block + row_of(e), j = J * block + column_of(t, e);
      sum[t][e] = (j + before <= i) & (j >= from[e / 2]) ? sum[t][e] : 0.0f;
    }
}

// The inverses of the diagonal blocks of I - A_b, less I: what the triangular systems need beside A_b.
constexpr int inverse_row = block + 8;
struct alignas(16) Inverse {
  bf16 at[blocks][block][inverse_row];  // [I][i][j]
};
// Block I by substitution, by one warp: a lane has a column.
__device__ inline void invert(Inverse& s, const Tile& A, int I) {
  const int own = int(threadIdx.x) % 16;
  float x[block];
#pragma unroll
  for (int i = 0; i < block; ++i) {
    x[i] = i == own ? 1.0f : 0.0f;
#pragma unroll
    for (int j = 0; j < i; j += 8) {
      const uint4 eight = *reinterpret_cast<const uint4*>(&A.at[I * block + i][I * block + j]);
      const uint32_t pairs[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
      for (int u = 0; u < 8; ++u)
        if (j + u < i) x[i] += (u % 2 ? unpack(pairs[u / 2]).y : unpack(pairs[u / 2]).x) * x[j + u];
    }
  }
  if (int(threadIdx.x) % 32 < 16)
#pragma unroll
    for (int i = 0; i < block; ++i) s.at[I][i][own].bits = uint16_t(cuda::pack_bf16(i == own ? 0.0f : x[i], 0.0f));
}

// X from (I - A) X = sum, both transposed: 16 columns of X are rows here; n systems at once. x: X^T as left factors.
template <int n>
__device__ void substitute(Sum (&sum)[n][blocks], uint32_t (&x)[n][blocks][4], const Tile& A, const Inverse& s) {
#pragma unroll
  for (int I = 0; I < blocks; ++I) {
    uint32_t f[4];
#pragma unroll
    for (int J = 0; J < I; ++J) {
      load_right_turned(f, &A.at[I * block][J * block]);
#pragma unroll
      for (int u = 0; u < n; ++u) multiply(sum[u][I], x[u][J], f);
    }
    load_right_turned<inverse_row>(f, &s.at[I][0][0]);
#pragma unroll
    for (int u = 0; u < n; ++u) {
      pack(x[u][I], sum[u][I]);
      multiply(sum[u][I], x[u][I], f);
      pack(x[u][I], sum[u][I]);
    }
  }
}
// The same with (I - A)^T: from the last block to the first.
__device__ inline void substitute_back(Sum (&sum)[blocks], uint32_t (&x)[blocks][4], const Tile& A, const Inverse& s) {
#pragma unroll
  for (int I = blocks - 1; I >= 0; --I) {
    uint32_t f[4];
#pragma unroll
    for (int J = I + 1; J < blocks; ++J) {
      load_right(f, &A.at[J * block][I * block]);
      multiply(sum[I], x[J], f);
    }
    pack(x[I], sum[I]);
    load_right<inverse_row>(f, &s.at[I][0][0]);
    multiply(sum[I], x[I], f);
    pack(x[I], sum[I]);
  }
}

}  // namespace taper::kernels::dplr_tiles
