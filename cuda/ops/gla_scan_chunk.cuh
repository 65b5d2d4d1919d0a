// gla_scan on CUDA in bf16: what the passes on tensor cores share. A chunk is 64 tokens, four blocks of 16.
//
// One set of operands serves all pairs. Each block has a reference, its middle (token 8 of the block), and
//   q^_i = q_i * D from the reference to i,   k^_j = k_j * D from j to the reference,
// where a D against the direction of time is 1/D: in its own half of the block one of the two factors is above 1, the other
// below, and their product is the pair's decay. Pairs of blocks I > J, the state before the chunk and the state after it
// want one more factor per channel, exp of the sum of log_a between two references or from the chunk's end to one:
//   A_IJ = (q^_I * between(J,I)) k^_J^T,   q * D_i- = q^_I * between(begin,I),   k * D_Lj = k^_J * between(J,end).
// All are sums of log_a, never differences, and all factors between blocks are <= 1.
//
// That holds while no half block decays by more than e^-60: f32 and bf16 reach e^88. Each block of threads asks its data.
// Where one channel decays faster, the references are the block's begin for q and its end for k: all factors are <= 1, and
// the pairs inside blocks are running products, as in the contract. Both ways everything between blocks is the same code.
//
// Documents: a decay at a document's start counts as 1; pairs across it, and what would cross it to or from a state, are
// set to 0 by the token numbers.
#pragma once
#include <bit>

#include "cuda/launch.cuh"
#include "cuda/mma.cuh"
#include "cuda/quad.cuh"
#include "tensor/ops/gla_scan.h"
#include "tensor/vector_math.h"

namespace taper::kernels::gla_bf16 {

constexpr int tokens = 64, rows = 16, blocks = 4;  // of a chunk, of a block; blocks of a chunk
constexpr int threads = 256;                       // of the passes that run chunk by chunk
constexpr int columns = 64;                        // values that a pass handles at a time
constexpr int pad = 8;  // behind each row in shared memory: rows of 16 bytes times an odd number, no two on one bank
constexpr float most = 60;  // nats that a half block may decay by

struct Window {  // the sizes of a scan; chunks are numbered (b count + chunk) H + h
  int64_t B, T, H, K, V, count;
  PackingView packing;
  float scale;

  explicit Window(const GlaScanInputs& in)
      : B(in.v.size(0)), T(in.v.size(1)), H(in.v.size(2)), K(in.k.size(3)), V(in.v.size(3)),
        count((T + tokens - 1) / tokens), packing(in.packing, T), scale(float(in.scale)) {}
};

struct Chunk {
  int64_t b, h, begin, first;  // first: its first token's row in [B,T,H]
  int length;

  __device__ Chunk(const Window& z, int64_t number) : Chunk(z, number / z.H / z.count, number / z.H % z.count, number % z.H) {}
  __device__ Chunk(const Window& z, int64_t b, int64_t chunk, int64_t h)
      : b(b), h(h), begin(chunk * tokens), first((b * z.T + begin) * z.H + h),
        length(int(z.T - begin < tokens ? z.T - begin : tokens)) {}

  // The token of the chunk from which on token t sees: negative where it sees the state before the chunk as well.
  __device__ int sees_from(const Window& z, int t) const {
    const int64_t start = t < length ? z.packing.start_of(b, begin + t) : 0;
    return start == 0 || start < begin ? -1 : int(start - begin);
  }
};

__device__ inline int lane() { return int(threadIdx.x) % 32; }
__device__ inline int warp() { return int(threadIdx.x) / 32; }

// e^x by the hardware's 2^x; what is below 2^-126 is 0.
__device__ inline float fast_exp(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x * 0x1.715476p0f));
  return y;
}

__device__ inline float low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ inline uint32_t pair_at(const bf16* p) { return *reinterpret_cast<const uint32_t*>(p); }
__device__ inline uint32_t scaled(uint32_t pair, float2 by) { return cuda::pack_bf16(low(pair) * by.x, high(pair) * by.y); }
__device__ inline bf16 rounded(float x) { return std::bit_cast<bf16>(uint16_t(cuda::pack_bf16(x, 0.0f))); }
__device__ inline float2 floats_at(const float* p) { return *reinterpret_cast<const float2*>(p); }

// Operands of a warp from a tile of shared memory with rows `pitch` apart; p is the tile's corner.
// A [16,16] as it lies, or its transpose.
__device__ inline void load_a(uint32_t (&a)[4], const bf16* p, int pitch) {
  cuda::ldmatrix_x4(a, p + lane() % 16 * pitch + lane() / 16 * 8);
}
__device__ inline void load_a_transposed(uint32_t (&a)[4], const bf16* p, int pitch) {
  cuda::ldmatrix_x4_trans(a, p + (lane() / 16 * 8 + lane() % 8) * pitch + lane() / 8 % 2 * 8);
}
// Two neighbouring B [16,8]: from rows that are their columns [n,k], or from rows that are their rows [k,n].
__device__ inline void load_b_of_columns(uint32_t (&b)[2][2], const bf16* p, int pitch) {
  uint32_t r[4];
  cuda::ldmatrix_x4(r, p + (lane() / 16 * 8 + lane() % 8) * pitch + lane() / 8 % 2 * 8);
  b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}
__device__ inline void load_b_of_rows(uint32_t (&b)[2][2], const bf16* p, int pitch) {
  uint32_t r[4];
  cuda::ldmatrix_x4_trans(r, p + lane() % 16 * pitch + lane() / 16 * 8);
  b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}

// Four neighbouring D [16,8] as bf16: lane 4g + q gets columns 8q .. 8q+7 of row g and of row g + 8, 16 bytes each.
__device__ inline void pack_rows(const float (&d)[4][4], uint4& upper, uint4& lower) {
  uint32_t u[4], l[4];
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    u[t] = cuda::pack_bf16(d[t][0], d[t][1]);
    l[t] = cuda::pack_bf16(d[t][2], d[t][3]);
  }
  cuda::transpose_quad(u);
  cuda::transpose_quad(l);
  upper = {u[0], u[1], u[2], u[3]};
  lower = {l[0], l[1], l[2], l[3]};
}

// ---- a chunk's operands ----

// The pair of blocks I > J of the triangle, or I = J, by number; and the way between two of the six places of a chunk: 0 its
// begin, 1 .. 4 the references of its blocks, 5 its end.
constexpr int pair_count = 10, way_count = 15, places = 5;  // places: that a way leads to
__host__ __device__ constexpr int pair_number(int I, int J) { return I * (I + 1) / 2 + J; }
__host__ __device__ constexpr int way(int from, int to) { return to * (to - 1) / 2 + from; }

template <int keys>  // K, or the next size above it: the channels in between hold zeros
struct Operands {
  bf16 q[tokens][keys + pad], k[tokens][keys + pad];  // q^ with the scale, k^
  bf16 pairs[pair_count][rows][rows + pad];           // A of each pair of blocks
  float between[way_count][keys];                     // decay on each way
  float total[blocks][keys], before[blocks][keys], after[blocks][keys];  // sums of log_a: a block; before and behind its middle
  int sees_from[tokens];
};

// Loads a chunk's q, k and log_a and makes their operands; true if the references are the blocks' middles. The caller
// synchronises before reading. A thread has the 16 tokens of a block for two channels. meanwhile() runs while they arrive.
template <int keys, class F>
__device__ bool load_operands(Operands<keys>& s, const Chunk& c, const bf16* g_q, const bf16* g_k, const float* g_log_a,
                              const Window& z, F meanwhile) {
  constexpr int pairs = keys / 2, tasks = pairs * blocks, rounds = (tasks + threads - 1) / threads;
  float2 r_log_a[rounds][rows];
  uint32_t r_q[rounds][rows], r_k[rounds][rows];
  const int stride = int(z.H * z.K);
  g_q += c.first * z.K, g_k += c.first * z.K, g_log_a += c.first * z.K;
#pragma unroll
  for (int round = 0; round < rounds; ++round) {
    const int task = round * threads + int(threadIdx.x), n = task % pairs * 2, block = task / pairs;
    const int present = task < tasks && n < z.K ? c.length - block * rows : 0;  // tokens from the block's first on
    int at = block * rows * stride + n;
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      r_log_a[round][i] = i < present ? floats_at(g_log_a + at) : float2{0, 0};
      r_q[round][i] = i < present ? pair_at(g_q + at) : 0;
      r_k[round][i] = i < present ? pair_at(g_k + at) : 0;
      at += stride;
    }
  }
  meanwhile();
  if (threadIdx.x < tokens) s.sees_from[threadIdx.x] = c.sees_from(z, int(threadIdx.x));
  if (z.packing.start) {
    __syncthreads();
#pragma unroll
    for (int round = 0; round < rounds; ++round)
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        const int t = (round * threads + int(threadIdx.x)) / pairs % blocks * rows + i;
        if (s.sees_from[t] == t) r_log_a[round][i] = {0, 0};
      }
  }
  bool slow_enough = true;
#pragma unroll
  for (int round = 0; round < rounds; ++round) {
    const int task = round * threads + int(threadIdx.x), n = task % pairs * 2, block = task / pairs;
    if (task >= tasks) continue;
    float2 first = r_log_a[round][0], before = {0, 0}, after = {0, 0};
#pragma unroll
    for (int i = 1; i < rows; ++i) {
      float2& sum = i < rows / 2 ? before : after;
      sum.x += r_log_a[round][i].x;
      sum.y += r_log_a[round][i].y;
    }
    // What stands between the block's first token and its middle grows 1/D; the first token's own decay does not.
    slow_enough = slow_enough && before.x >= -most && before.y >= -most && after.x >= -most && after.y >= -most;
    before = {first.x + before.x, first.y + before.y};
    *reinterpret_cast<float2*>(&s.before[block][n]) = before;
    *reinterpret_cast<float2*>(&s.after[block][n]) = after;
    *reinterpret_cast<float2*>(&s.total[block][n]) = {before.x + after.x, before.y + after.y};
  }
  const bool middle = !__syncthreads_or(!slow_enough);
#pragma unroll
  for (int round = 0; round < rounds; ++round) {
    const int task = round * threads + int(threadIdx.x), n = task % pairs * 2, block = task / pairs;
    if (task >= tasks) continue;
    // log_a behind i, and up to i, both anew at the middle where it is the reference.
    float2 behind[rows], sum = {0, 0};
#pragma unroll
    for (int i = rows - 1; i >= 0; --i) {
      if (i == rows / 2 - 1 && middle) sum = {0, 0};
      behind[i] = sum;
      sum = {sum.x + r_log_a[round][i].x, sum.y + r_log_a[round][i].y};
    }
    sum = {0, 0};
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      if (i == rows / 2 && middle) sum = {0, 0};
      sum = {sum.x + r_log_a[round][i].x, sum.y + r_log_a[round][i].y};
      float2 q = sum, k = behind[i];
      if (middle && i < rows / 2) q = {-k.x, -k.y};
      if (middle && i >= rows / 2) k = {-q.x, -q.y};
      q = {z.scale * fast_exp(q.x), z.scale * fast_exp(q.y)};
      k = {fast_exp(k.x), fast_exp(k.y)};
      *reinterpret_cast<uint32_t*>(&s.q[block * rows + i][n]) = scaled(r_q[round][i], q);
      *reinterpret_cast<uint32_t*>(&s.k[block * rows + i][n]) = scaled(r_k[round][i], k);
    }
  }
  // A thread makes the ways to one place, from the nearest on: each adds a block to the sum before it.
  for (int e = int(threadIdx.x); e < places * keys; e += threads) {
    const int n = e % keys, to = e / keys + 1;
    float sum = middle && to <= blocks ? s.before[to - 1][n] : 0.0f;
    for (int from = to - 1; from >= 0; --from) {
      const float start = middle && from > 0 ? s.after[from - 1][n] : 0.0f;
      s.between[way(from, to)][n] = math::exp(start + sum);
      if (from > 0) sum += s.total[from - 1][n];
    }
  }
  return middle;
}

// exp(log_a) of a channel's token, 1 at a document start and behind the last token.
__device__ inline float decay_at(const Chunk& c, const float* g_log_a, const Window& z, const int* s_sees_from, int t, int n) {
  if (t >= c.length || n >= z.K || s_sees_from[t] == t) return 1;
  return fast_exp(g_log_a[(c.first + t * z.H) * z.K + n]);
}

// The pairs inside blocks by running products: where decays are too strong for one reference. Two warps for a block, each
// eight j; four lanes share the channels of a j.
template <int keys>
__device__ void pairs_inside(Operands<keys>& s, const Chunk& c, const bf16* g_q, const bf16* g_k, const float* g_log_a,
                             const Window& z) {
  const int block = warp() / 2, j = warp() % 2 * 8 + lane() / 4;
  float r_sum[rows] = {};
#pragma unroll 1
  for (int n = lane() % 4; n < z.K; n += 4) {
    float W = 0;
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const int t = block * rows + i;
      const int64_t at = (c.first + t * z.H) * z.K + n;
      W = i == j ? (t < c.length ? float(g_k[at]) : 0.0f) : W * decay_at(c, g_log_a, z, s.sees_from, t, n);
      r_sum[i] += (t < c.length ? z.scale * float(g_q[at]) : 0.0f) * W;
    }
  }
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    float sum = r_sum[i];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const bool seen = j <= i && block * rows + j >= s.sees_from[block * rows + i];
    if (lane() % 4 == 0) s.pairs[pair_number(block, block)][i][j] = rounded(seen ? sum : 0.0f);
  }
}

// A of all pairs of blocks, a warp for each; 0 where i does not see j. Ends unsynchronised.
template <int keys>
__device__ void make_pairs(Operands<keys>& s, bool middle, const Chunk& c, const bf16* g_q, const bf16* g_k,
                           const float* g_log_a, const Window& z) {
  constexpr int pitch = keys + pad;
  const int g = lane() / 4, q = lane() % 4;
  for (int number = warp(); number < pair_count; number += threads / 32) {
    int I = 0;
    while (pair_number(I + 1, 0) <= number) ++I;
    const int J = number - pair_number(I, 0);
    if (I == J && !middle) continue;
    float r_A[2][4] = {};
#pragma unroll
    for (int n = 0; n < keys; n += 16) {
      uint32_t a[4], b[2][2];
      load_a(a, &s.q[I * rows][n], pitch);
      load_b_of_columns(b, &s.k[J * rows][n], pitch);
      if (I != J) {
        const float* s_way = &s.between[way(J + 1, I + 1)][n + 2 * q];
        const float2 left = floats_at(s_way), right = floats_at(s_way + 8);
        a[0] = scaled(a[0], left), a[1] = scaled(a[1], left);
        a[2] = scaled(a[2], right), a[3] = scaled(a[3], right);
      }
      cuda::mma_bf16(r_A[0], a, b[0]);
      cuda::mma_bf16(r_A[1], a, b[1]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int i = g + 8 * r, j = 8 * half + 2 * q, from = s.sees_from[I * rows + i] - J * rows;
        const bool seen = j >= from && (I > J || j <= i), seen_next = j + 1 >= from && (I > J || j + 1 <= i);
        *reinterpret_cast<uint32_t*>(&s.pairs[number][i][j]) =
            cuda::pack_bf16(seen ? r_A[half][2 * r] : 0.0f, seen_next ? r_A[half][2 * r + 1] : 0.0f);
      }
  }
  if (!middle) pairs_inside(s, c, g_q, g_k, g_log_a, z);
}

// Asks for rows [0,count) x [left, left + width) of a matrix with `stride` between rows and `most` columns; zeros outside, up
// to `padded` rows. By `helpers` threads, of which this is number `thread`.
template <int padded, int width, int helpers>
__device__ void copy_tile(bf16* s_to, const bf16* g_from, int64_t stride, int count, int64_t left, int64_t most, int thread) {
  constexpr int vectors = width / 8, step = helpers / vectors;  // rows at once
  static_assert(helpers % vectors == 0);
  const int first = thread / vectors, column = thread % vectors * 8;
  if (left + column >= most) count = 0;
  const bf16* from = g_from + first * stride + left + column;
#pragma unroll
  for (int row = 0; row < padded; row += step) {
    if (padded % step && row + first >= padded) break;
    const bool present = row + first < count;
    cuda::copy_async(s_to + (row + first) * (width + pad) + column, present ? from : g_from, present);
    from += step * stride;
  }
}

// Stores a warp's [16,32] to rows of a matrix: rows below `count`, columns below `width`.
__device__ inline void store_tile(const float (&d)[4][4], bf16* g_to, int64_t stride, int count, int64_t left, int64_t width) {
  uint4 upper, lower;
  pack_rows(d, upper, lower);
  const int g = lane() / 4;
  const int64_t column = left + lane() % 4 * 8;
  if (column >= width) return;
  if (g < count) *reinterpret_cast<uint4*>(g_to + g * stride + column) = upper;
  if (g + 8 < count) *reinterpret_cast<uint4*>(g_to + (g + 8) * stride + column) = lower;
}

}  // namespace taper::kernels::gla_bf16
