// What ssd_scan's tensor-core kernels share: bf16 tiles in shared memory, their fragments, and the decays of one chunk.
#pragma once
#include "cuda/mma.cuh"
#include "cuda/ops/ssd_scan_plain.cuh"

namespace taper::kernels::ssd {

constexpr int rows = 64;  // tokens of a chunk

// A tile [any][width] of bf16 has 8 elements behind each row: the 8 rows of a matrix that ldmatrix reads then start in
// different banks, and every offset is a constant.
constexpr int pitch_of(int width) { return width + 8; }

// Copies rows of global memory, `stride` apart, into a tile of `height`; zeros outside rows_in x columns_in (a multiple of 8).
template <int height, int width, int threads>
__device__ void copy_tile(bf16* s_tile, const bf16* g_rows, int64_t stride, int rows_in, int columns_in) {
  constexpr int pieces = width / 8, step = threads / pieces;  // pieces of 16 bytes; rows at a time
  static_assert(threads % pieces == 0 && height % step == 0);
  const int row0 = int(threadIdx.x) / pieces, column = int(threadIdx.x) % pieces * 8;
  const bf16* g_from = g_rows + row0 * stride + column;
  bf16* s_to = s_tile + row0 * pitch_of(width) + column;
#pragma unroll
  for (int row = 0; row < height; row += step) {
    const bool present = row0 + row < rows_in && column < columns_in;
    cuda::copy_async(s_to + row * pitch_of(width), present ? g_from : g_rows, present);
    g_from += step * stride;
  }
}

// Fragments of 16 x 16 (cuda/mma.cuh). left: A; right: two B, of columns 0-7 (f[0], f[1]) and 8-15 (f[2], f[3]).
// A[i][k] = tile[row + i][column + k]
__device__ inline void load_left(uint32_t (&f)[4], const bf16* s_tile, int pitch, int row, int column) {
  const int lane = int(threadIdx.x) % 32;
  cuda::ldmatrix_x4(f, s_tile + (row + lane % 16) * pitch + column + lane / 16 * 8);
}
// A[i][k] = tile[row + k][column + i]
__device__ inline void load_left_transposed(uint32_t (&f)[4], const bf16* s_tile, int pitch, int row, int column) {
  const int lane = int(threadIdx.x) % 32;
  cuda::ldmatrix_x4_trans(f, s_tile + (row + lane % 8 + lane / 16 * 8) * pitch + column + lane / 8 % 2 * 8);
}
// B[k][j] = tile[row + k][column + j]
__device__ inline void load_right(uint32_t (&f)[4], const bf16* s_tile, int pitch, int row, int column) {
  const int lane = int(threadIdx.x) % 32;
  cuda::ldmatrix_x4_trans(f, s_tile + (row + lane % 16) * pitch + column + lane / 16 * 8);
}
// B[k][j] = tile[row + j][column + k]
__device__ inline void load_right_transposed(uint32_t (&f)[4], const bf16* s_tile, int pitch, int row, int column) {
  const int lane = int(threadIdx.x) % 32;
  cuda::ldmatrix_x4(f, s_tile + (row + lane % 8 + lane / 16 * 8) * pitch + column + lane / 8 % 2 * 8);
}

// Two products of 8 columns each.
__device__ inline void multiply(float (&d0)[4], float (&d1)[4], const uint32_t (&left)[4], const uint32_t (&right)[4]) {
  const uint32_t b0[2] = {right[0], right[1]}, b1[2] = {right[2], right[3]};
  cuda::mma_bf16(d0, left, b0);
  cuda::mma_bf16(d1, left, b1);
}

__device__ inline float low_of(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_of(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ inline uint32_t scaled(uint32_t pair, float low, float high) { return cuda::pack_bf16(low_of(pair) * low, high_of(pair) * high); }

// Element i of lane q of a quad goes to element q of lane i.
__device__ inline void transpose_quad(uint32_t (&x)[4]) {
  const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
  auto swap = [](uint32_t& low, uint32_t& high, bool bit, int mask) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, bit ? low : high, mask);
    (bit ? low : high) = other;
  };
  swap(x[0], x[1], odd, 1);
  swap(x[2], x[3], odd, 1);
  swap(x[0], x[2], upper, 2);
  swap(x[1], x[3], upper, 2);
}

// Two or four neighbouring accumulators of 8 columns to bf16, 16 bytes a lane, in rows g and g + 8 of a warp's 16. g_to is
// the corner; rows_in counts from there, columns_in too (a multiple of 8).
template <int count>
__device__ void store_columns(const float (*r)[4], bf16* g_to, int64_t stride, int rows_in, int columns_in) {
  const int g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = i < count ? cuda::pack_bf16(r[i][2 * half], r[i][2 * half + 1]) : 0;
    transpose_quad(x);
    const int row = g + 8 * half;
    if (row < rows_in && q < count && 8 * q < columns_in) *reinterpret_cast<uint4*>(g_to + row * stride + 8 * q) = make_uint4(x[0], x[1], x[2], x[3]);
  }
}

// The decays of one chunk and head. G is an f32 and the f32 that rounding it lost, so differences keep the digits that a
// huge decay would take.
struct ChunkDecays {
  float high[rows], low[rows];
  float in[rows];      // exp(G_i), 0 where a document start hides the state before the chunk; the last is the whole chunk's
  float out[rows];     // exp(G_L - G_j), 0 where one hides j from the chunk's end
  float dt[rows];      // 0 behind the end of the sequence
  float column[rows];  // exp(G_m - G_j) dt_j, m the last token of j's block of 16; 0 where a start lies between
  int from[rows];      // the first token of the chunk that i may see

  __device__ float between(int i, int j) const { return __expf((high[i] - high[j]) + (low[i] - low[j])); }
  // exp(G_i - G_m), 0 where a start lies between. E_ij dt_j = row(i, m) column_j for j up to m in m's block, i behind it.
  __device__ float row(int i, int m) const { return from[i] <= m ? between(i, m) : 0.0f; }
  // E_ij dt_j of tokens in one block
  __device__ float pair(int i, int j) const { return j <= i && j >= from[i] ? between(i, j) * dt[j] : 0.0f; }
};

// Token j's part of it, thread j of the first 64: read early, finished later.
struct TokenDecay {
  double sum = 0, last = 0;
  float dt = 0;
  int start = 0, last_start = 0;

  __device__ void read(const View<bf16>& v, const double* g_sum, int64_t n, int64_t h, int64_t k, int j) {
    const int L = int(v.length(k));
    const int64_t begin = k * rows, t = begin + (j < L ? j : L - 1);
    sum = g_sum[v.by_head(n, h, t)];
    last = g_sum[v.by_head(n, h, begin + L - 1)];
    dt = j < L ? v.dt_at(v.head(n, t, h)) : 0.0f;
    start = int(v.packing.start_of(n, t));
    last_start = int(v.packing.start_of(n, begin + L - 1));
  }
  __device__ void finish(ChunkDecays& s, int64_t k, int j) const {
    const int begin = int(k) * rows, from = max(0, start - begin), block_from = __shfl_sync(0xffffffffu, from, (j % 32) | 15);
    const double block_sum = __shfl_sync(0xffffffffu, sum, (j % 32) | 15);
    s.high[j] = float(sum);
    s.low[j] = float(sum - double(float(sum)));
    s.in[j] = (begin == 0 ? start == 0 : start < begin) ? __expf(float(sum)) : 0.0f;
    s.out[j] = j >= last_start - begin ? __expf(float(last - sum)) : 0.0f;
    s.dt[j] = dt;
    s.column[j] = j >= block_from ? __expf(float(block_sum - sum)) * dt : 0.0f;
    s.from[j] = from;
  }
};

}  // namespace taper::kernels::ssd
