// What ssd_scan's tensor-core kernels share: bf16 tiles in shared memory, their fragments, and the decays of one chunk.
#pragma once
#include "cuda/mma.cuh"
#include "cuda/ops/ssd_scan_plain.cuh"
#include "cuda/quad.cuh"

namespace taper::kernels::ssd {

constexpr int rows = 64;  // tokens of a chunk

// A tile [any][width] of bf16 has 8 elements behind each row: the 8 rows of a matrix that ldmatrix reads then start in
// different banks, and every offset is a constant.
constexpr int pitch_of(int width) { return width + 8; }

// Copies rows of global memory, `stride` apart, into a tile of `height`; zeros outside rows_in x columns_in (a multiple
// of 8).
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

// Before a launch: `bytes` of shared memory to a block, and all of the multiprocessor's for as many blocks as fit.
template <class Kernel>
void take_shared(Kernel kernel, int bytes) {
  cuda::allow_shared(kernel, bytes);
  cuda::cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100));  // per cent
}

// Two products of 8 columns each.
__device__ inline void multiply(float (&d0)[4], float (&d1)[4], const uint32_t (&left)[4], const uint32_t (&right)[4]) {
  const uint32_t b0[2] = {right[0], right[1]}, b1[2] = {right[2], right[3]};
  cuda::mma_bf16(d0, left, b0);
  cuda::mma_bf16(d1, left, b1);
}

__device__ inline float low_of(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_of(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ inline uint32_t scaled(uint32_t pair, float low, float high) {
  return cuda::pack_bf16(low_of(pair) * low, high_of(pair) * high);
}

// Four neighbouring accumulators of 8 columns to bf16, 16 bytes a lane, in rows g and g + 8 of a warp's 16. g_to is the
// corner; rows_in counts from there, columns_in too (a multiple of 8).
__device__ inline void store_wide(const float (*r)[4], bf16* g_to, int64_t stride, int rows_in, int columns_in) {
  const int g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = cuda::pack_bf16(r[i][2 * half], r[i][2 * half + 1]);
    cuda::transpose_quad(x);
    const int row = g + 8 * half;
    if (row < rows_in && 8 * q < columns_in)
      *reinterpret_cast<uint4*>(g_to + row * stride + 8 * q) = make_uint4(x[0], x[1], x[2], x[3]);
  }
}
// The same for two accumulators.
__device__ inline void store_narrow(const float (*r)[4], bf16* g_to, int64_t stride, int rows_in, int columns_in) {
  const int row = int(threadIdx.x) % 32 / 4 + int(threadIdx.x) % 4 / 2 * 8, column = int(threadIdx.x) % 2 * 8;
  uint32_t x[4] = {cuda::pack_bf16(r[0][0], r[0][1]), cuda::pack_bf16(r[1][0], r[1][1]),
                   cuda::pack_bf16(r[0][2], r[0][3]), cuda::pack_bf16(r[1][2], r[1][3])};
  cuda::transpose_quad(x);
  if (row < rows_in && column < columns_in)
    *reinterpret_cast<uint4*>(g_to + row * stride + column) = make_uint4(x[0], x[1], x[2], x[3]);
}

// The decays of one chunk and head. G is an f32 and the f32 that rounding it lost, so differences keep the digits that
// a huge decay would take.
struct ChunkDecays {
  alignas(8) float high[rows], low[rows];
  float in[rows];  // exp(G_i), 0 where a document start hides the state before the chunk; the last is the whole chunk's
  float out[rows];     // exp(G_L - G_j), 0 where one hides j from the chunk's end
  float dt[rows];      // 0 behind the end of the sequence
  float column[rows];  // exp(G_m - G_j) dt_j, m the last token of j's block of 16; 0 where a start lies between
  int from[rows];      // the first token of the chunk that i may see
};

// A chunk's tokens as one warp makes their decays, two to a lane: read early, finished later.
struct ChunkTokens {
  float2 log_a, dt;
  int start[2], last_start;

  __device__ void read(const View<bf16>& v, int64_t n, int64_t h, int64_t k) {
    const int L = int(v.length(k)), t = 2 * (int(threadIdx.x) % 32);
    const int64_t begin = k * rows, i = v.head(n, begin + t, h);
    log_a = make_float2(t < L ? v.g_log_a[i] : 0.0f, t + 1 < L ? v.g_log_a[i + v.H] : 0.0f);  // behind the end G stays
    dt = make_float2(t < L ? v.dt_at(i) : 0.0f, t + 1 < L ? v.dt_at(i + v.H) : 0.0f);
    start[0] = int(v.packing.start_of(n, begin + min(t, L - 1)));
    start[1] = int(v.packing.start_of(n, begin + min(t + 1, L - 1)));
    last_start = int(v.packing.start_of(n, begin + L - 1));
  }
  // G of the lane's two tokens: a scan of the lanes' sums.
  __device__ double2 sums() const {
    const int lane = int(threadIdx.x) % 32;
    double sum = double(log_a.x) + double(log_a.y);
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const double before = __shfl_up_sync(0xffffffffu, sum, distance);
      if (lane >= distance) sum += before;
    }
    const double before = __shfl_up_sync(0xffffffffu, sum, 1);
    return make_double2((lane > 0 ? before : 0.0) + double(log_a.x), sum);
  }
  // exp(G) of the lane's two tokens, 0 where a document start hides the state before the chunk.
  __device__ float2 in(const double2& sum, int begin) const {
    auto sees = [&](int start) { return begin == 0 ? start == 0 : start < begin; };
    return make_float2(sees(start[0]) ? __expf(float(sum.x)) : 0.0f, sees(start[1]) ? __expf(float(sum.y)) : 0.0f);
  }
  __device__ void finish(ChunkDecays& s, int64_t k) const {
    const int lane = int(threadIdx.x) % 32, j = 2 * lane, begin = int(k) * rows;
    const double2 sum = sums();
    const double last = __shfl_sync(0xffffffffu, sum.y, 31), m = __shfl_sync(0xffffffffu, sum.y, lane | 7);
    const int from[2] = {max(0, start[0] - begin), max(0, start[1] - begin)},
              m_from = __shfl_sync(0xffffffffu, from[1], lane | 7);
    const int last_from = last_start - begin;
    auto put = [&](float* s_values, float x, float y) { *reinterpret_cast<float2*>(&s_values[j]) = make_float2(x, y); };
    const float2 seen = in(sum, begin);
    put(s.high, float(sum.x), float(sum.y));
    put(s.low, float(sum.x - double(float(sum.x))), float(sum.y - double(float(sum.y))));
    put(s.in, seen.x, seen.y);
    put(s.out, j >= last_from ? __expf(float(last - sum.x)) : 0.0f,
        j + 1 >= last_from ? __expf(float(last - sum.y)) : 0.0f);
    put(s.dt, dt.x, dt.y);
    put(s.column, j >= m_from ? __expf(float(m - sum.x)) * dt.x : 0.0f,
        j + 1 >= m_from ? __expf(float(m - sum.y)) * dt.y : 0.0f);
    *reinterpret_cast<int2*>(&s.from[j]) = make_int2(from[0], from[1]);
  }
};

// Two values beside each other.
__device__ inline float2 two(const float* s_values, int i) { return *reinterpret_cast<const float2*>(&s_values[i]); }

// E_ij dt_j for two rows i of a lane and blocks of 16 columns, as the sums of C B^T lie: [tile of 8][row, column].
struct PairWeights {
  int i[2], from[2];
  float high[2], low[2];

  __device__ PairWeights(const ChunkDecays& s, int first, int second)
      : i{first, second}, from{s.from[first], s.from[second]}, high{s.high[first], s.high[second]}, low{s.low[first], s.low[second]} {}

  // Columns from j0 on, all before the rows: exp(G_i - G_m) times exp(G_m - G_j) dt_j, m the last of them.
  __device__ void before(float (&w)[2][4], const ChunkDecays& s, int j0) const {
    const int m = j0 + 15, q = int(threadIdx.x) % 4;
    float by[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) by[e] = from[e] <= m ? __expf((high[e] - s.high[m]) + (low[e] - s.low[m])) : 0.0f;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const float2 column = two(s.column, j0 + 8 * tile + 2 * q);
      w[tile][0] = by[0] * column.x, w[tile][1] = by[0] * column.y;
      w[tile][2] = by[1] * column.x, w[tile][3] = by[1] * column.y;
    }
  }
  // The block on the diagonal.
  __device__ void diagonal(float (&w)[2][4], const ChunkDecays& s, int j0) const {
    const int q = int(threadIdx.x) % 4;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const int j = j0 + 8 * tile + 2 * q;
      const float2 high_j = two(s.high, j), low_j = two(s.low, j), dt = two(s.dt, j);
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        w[tile][2 * e] = j <= i[e] && j >= from[e] ? __expf((high[e] - high_j.x) + (low[e] - low_j.x)) * dt.x : 0.0f;
        w[tile][2 * e + 1] = j < i[e] && j + 1 >= from[e] ? __expf((high[e] - high_j.y) + (low[e] - low_j.y)) * dt.y : 0.0f;
      }
    }
  }
};

}  // namespace taper::kernels::ssd
