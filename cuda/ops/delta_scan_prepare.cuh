// delta_scan on CUDA in bf16: the tiles of a chunk of 64 tokens, and what of it does not depend on the state.
#pragma once
#include <bit>

#include "cuda/launch.cuh"
#include "cuda/mma.cuh"
#include "cuda/ops/delta_scan_view.cuh"
#include "cuda/vector.cuh"
#include "tensor/vector_math.h"

namespace taper::kernels::delta_bf16 {

using View = delta::View<bf16>;

constexpr int rows = 64;  // tokens of a chunk
constexpr int pad = 8;    // after a row of a tile: eight rows' 16-byte pieces then lie in different banks

// ---- fragments (mma.cuh has their layout); a tile is rows of `stride` bf16 in shared memory ----

__device__ inline int lane() { return threadIdx.x % 32; }
__device__ inline int warp() { return threadIdx.x / 32; }

// A [16,16] at (row, column) of a tile.
template <int stride>
__device__ void load_a(uint32_t (&a)[4], const bf16 (*s)[stride], int row, int column) {
  cuda::ldmatrix_x4(a, &s[row + lane() % 16][column + lane() / 16 * 8]);
}
// The transpose of the tile's [16,16] at (row, column).
template <int stride>
__device__ void load_a_transposed(uint32_t (&a)[4], const bf16 (*s)[stride], int row, int column) {
  cuda::ldmatrix_x4_trans(a, &s[row + lane() / 16 * 8 + lane() % 8][column + lane() / 8 % 2 * 8]);
}
// B [16,8] and its right neighbour, of which the tile at (row, column) holds the transpose: its rows are B's columns.
template <int stride>
__device__ void load_b_transposed(uint32_t (&b)[4], const bf16 (*s)[stride], int row, int column) {
  cuda::ldmatrix_x4(b, &s[row + lane() / 16 * 8 + lane() % 8][column + lane() / 8 % 2 * 8]);
}
template <int stride>
__device__ void load_b(uint32_t (&b)[4], const bf16 (*s)[stride], int row, int column) {
  cuda::ldmatrix_x4_trans(b, &s[row + lane() % 16][column + lane() / 16 * 8]);
}
// d[0] += A B, d[1] += A (right neighbour of B).
__device__ inline void multiply(float (&d)[4], float (&right)[4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
  const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
  cuda::mma_bf16(d, a, first);
  cuda::mma_bf16(right, a, second);
}
// Two neighbouring D of 8 columns as one A of 16.
__device__ inline void to_a(uint32_t (&a)[4], const float (&d)[4], const float (&right)[4]) {
  a[0] = cuda::pack_bf16(d[0], d[1]);
  a[1] = cuda::pack_bf16(d[2], d[3]);
  a[2] = cuda::pack_bf16(right[0], right[1]);
  a[3] = cuda::pack_bf16(right[2], right[3]);
}
__device__ inline float low(uint32_t pair) { return std::bit_cast<float>(pair << 16); }
__device__ inline float high(uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }

// A row of 16, of which lane q of four holds columns 2q, 2q+1 (left) and 2q+8, 2q+9 (right): neighbours trade, so that
// each writes 8 bytes and the four one whole sector.
__device__ inline void store_row(bf16* g_row, uint32_t left, uint32_t right, bool present) {
  const int q = lane() % 4;
  const bool odd = q % 2;
  const uint32_t got = __shfl_xor_sync(0xffffffffu, odd ? left : right, 1);
  cuda::Vector<uint32_t, 2> pair{{odd ? got : left, odd ? right : got}};
  if (present) *reinterpret_cast<cuda::Vector<uint32_t, 2>*>(g_row + 2 * q + (odd ? 6 : 0)) = pair;
}

// ---- copies ----

// A tile from rows `row_stride` apart; from row `tokens` and column `width` on it is 0. By the whole block.
template <int columns, int stride>
__device__ void copy_tile(bf16 (*s)[stride], const bf16* g, int64_t row_stride, int tokens, int width) {
  constexpr int across = std::bit_ceil(unsigned(columns / 8));  // threads to a row
  const int column = int(threadIdx.x) % across * 8, step = int(blockDim.x) / across;
  if (column >= columns) return;
  if (column >= width) tokens = 0;
  int row = int(threadIdx.x) / across;
  const bf16* from = g + row * row_stride + column;
  for (; row < rows; row += step, from += step * row_stride)
    cuda::copy_async(&s[row][column], row < tokens ? from : g, row < tokens);
}

// Where a chunk lies. Chunks are numbered (n, chunk, h); a division of 64 bits takes longer than it looks.
struct Chunk {
  int64_t index, n, h, begin, head;  // head: of its first token in [B,T,H]
  int L;
  __device__ Chunk(const View& v, int64_t n, int64_t chunk, int64_t h)
      : index((n * v.chunks + chunk) * v.H + h),
        n(n),
        h(h),
        begin(chunk * rows),
        head(v.head(n, begin, h)),
        L(int(min(int64_t(rows), v.steps - begin))) {}
  __device__ Chunk(const View& v, unsigned index)
      : Chunk(v, index / unsigned(v.H) / unsigned(v.chunks), index / unsigned(v.H) % unsigned(v.chunks),
              index % unsigned(v.H)) {}
};

// ---- decays, as chunk_decay.h has them; tokens past T are as the last one, with beta 0 ----

struct Decays {
  double sum[rows];  // G
  float beta[rows], in[rows], out[rows];
  int from[rows];  // the first token of the same document
  // 0 before the exponential where a document start or the diagonal is between.
  __device__ float between(int i, int j) const {
    return j <= i && j >= from[i] ? math::exp(float(sum[i] - sum[j])) : 0.0f;
  }
};

// By the whole block, which must have at least `rows` threads; ends with a barrier.
__device__ inline void load_decays(Decays& s, const View& v, const Chunk& c) {
  const int i = threadIdx.x;
  double sum = 0;
  bool sees = false;
  if (i < rows) {  // two warps
    sum = i < c.L ? double(v.log_a[c.head + i * v.H]) : 0.0;
    s.beta[i] = i < c.L ? v.beta[c.head + i * v.H] : 0.0f;
    const int64_t start = v.packing.start_of(c.n, c.begin + min(i, c.L - 1));
    s.from[i] = int(max(int64_t(0), start - c.begin));
    sees = c.begin == 0 ? start == 0 : start < c.begin;
    for (int back = 1; back < 32; back *= 2) {
      const double before = __shfl_up_sync(0xffffffffu, sum, back);
      if (lane() >= back) sum += before;
    }
    s.sum[i] = sum;
  }
  __syncthreads();
  if (i >= 32 && i < rows) s.sum[i] = sum += s.sum[31];
  if (i < rows) s.in[i] = sees ? math::exp(float(sum)) : 0.0f;
  __syncthreads();
  if (i < rows) s.out[i] = i >= s.from[rows - 1] ? math::exp(float(s.sum[rows - 1] - s.sum[i])) : 0.0f;
  __syncthreads();
}

// ---- the preparation ----

struct Prepared {  // of every chunk
  bf16* inverse;   // [64,64] of I + B diag(beta)
  bf16* scores;    // [64,64] scale (q_i . k_j) E_ij beta_j
  float* in;       // [64] exp(G_i)
  float* sent;     // [64] exp(G_L - G_j) beta_j
};

constexpr int f32_stride = rows + 4;

// r[i][0..3] += sum over k < 16 of left[i][k] right[k][0..3]
template <int m>
__device__ void small_product(float (&r)[m][4], const float* s_left, const float* s_right) {
#pragma unroll
  for (int k = 0; k < 16; k += 4) {
    cuda::Vector<float, 4> a[m], b[4];
    for (int i = 0; i < m; ++i) a[i] = *reinterpret_cast<const cuda::Vector<float, 4>*>(s_left + i * f32_stride + k);
    for (int x = 0; x < 4; ++x) b[x] = *reinterpret_cast<const cuda::Vector<float, 4>*>(s_right + (k + x) * f32_stride);
    for (int i = 0; i < m; ++i)
      for (int x = 0; x < 4; ++x)
        for (int j = 0; j < 4; ++j) r[i][j] += a[i].at[x] * b[x].at[j];
  }
}
template <int m>
__device__ void small_store(float* s, const float (&r)[m][4], float sign) {
  for (int i = 0; i < m; ++i)
    *reinterpret_cast<cuda::Vector<float, 4>*>(s + i * f32_stride) = {sign * r[i][0], sign * r[i][1], sign * r[i][2],
                                                                      sign * r[i][3]};
}

// X = (I + A)^-1 in f32 by 128 threads; A is read below the diagonal, X is right on and below it. The blocks of 16 on
// the diagonal by substitution, then twice the pairs of blocks: [X0 0; -X1 A10 X0, X1]. What is above X's diagonal
// holds A10 X0.
__device__ inline void invert_unit_lower(const float* s_a, float* s_x) {
  const int tid = threadIdx.x;
  if (lane() < 16) {
    const int at = 16 * warp() * (f32_stride + 1);
    float x[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      x[i] = i == lane() ? 1.0f : 0.0f;
#pragma unroll
      for (int m = 0; m < i; ++m) x[i] -= s_a[at + i * f32_stride + m] * x[m];
      s_x[at + i * f32_stride + lane()] = x[i];
    }
  }
  __syncthreads();
  {  // 16 and 16, by 64 threads each
    const int at = 32 * (tid / 64) * (f32_stride + 1), row = tid % 64 / 4, column = tid % 4 * 4;
    const int below = at + (16 + row) * f32_stride;
    float r[1][4] = {}, x[1][4] = {};
    small_product(r, s_a + below, s_x + at + column);
    small_store(s_x + at + row * f32_stride + 16 + column, r, 1);
    __syncthreads();
    small_product(x, s_x + below + 16, s_x + at + 16 + column);
    small_store(s_x + below + column, x, -1);
  }
  __syncthreads();
  {  // 32 and 32; the triangles' other halves are not X
    const int row = tid / 8 * 2, column = tid % 8 * 4, below = (32 + row) * f32_stride;
    float r[2][4] = {}, x[2][4] = {};
    if (column < 16) small_product(r, s_a + below, s_x + column);
    small_product(r, s_a + below + 16, s_x + 16 * f32_stride + column);
    small_store(s_x + row * f32_stride + 32 + column, r, 1);
    __syncthreads();
    small_product(x, s_x + below + 32, s_x + 32 + column);
    if (row >= 16) small_product(x, s_x + below + 48, s_x + 16 * f32_stride + 32 + column);
    small_store(s_x + below + column, x, -1);
  }
  __syncthreads();
}

template <int keys>
constexpr int prepare_shared_bytes() {  // q and k, whose place the two f32 matrices take
  return std::max(2 * rows * (keys + pad) * int(sizeof(bf16)), 2 * rows * f32_stride * int(sizeof(float)));
}

// A block of 4 warps per chunk: a strip of 16 rows of the pairs each.
template <int keys>
__global__ void __launch_bounds__(128) prepare_kernel(View v, Prepared out) {
  extern __shared__ __align__(16) unsigned char s_bytes[];
  __shared__ Decays s_decays;
  using Tile = bf16[keys + pad];
  Tile *s_k = reinterpret_cast<Tile*>(s_bytes), *s_q = s_k + rows;
  float *s_a = reinterpret_cast<float*>(s_bytes), *s_x = s_a + rows * f32_stride;
  const Chunk c(v, blockIdx.x);
  const int g = lane() / 4, q = lane() % 4, strip = 16 * warp();

  copy_tile<keys>(s_k, v.k + c.head * v.K, v.H * v.K, c.L, int(v.K));
  copy_tile<keys>(s_q, v.q + c.head * v.K, v.H * v.K, c.L, int(v.K));
  cuda::copy_async_commit();
  load_decays(s_decays, v, c);
  cuda::copy_async_wait<0>();
  __syncthreads();

  float kk[8][4] = {}, qk[8][4] = {};
#pragma unroll
  for (int s = 0; s < keys; s += 16) {
    uint32_t key[4], query[4], b[4];
    load_a(key, s_k, strip, s);
    load_a(query, s_q, strip, s);
#pragma unroll
    for (int n = 0; n < 8; n += 2)
      if (8 * n <= strip) {
        load_b_transposed(b, s_k, 8 * n, s);
        multiply(kk[n], kk[n + 1], key, b);
        multiply(qk[n], qk[n + 1], query, b);
      }
  }
  __syncthreads();

  uint32_t* scores = reinterpret_cast<uint32_t*>(out.scores + c.index * rows * rows);
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = strip + g + 8 * half, j = 8 * n + 2 * q;
      float p[2], a[2];
#pragma unroll
      for (int x = 0; x < 2; ++x) {
        const float e = 8 * n < strip + 16 ? s_decays.between(i, j + x) * s_decays.beta[j + x] : 0.0f;
        p[x] = float(v.scale) * e * qk[n][2 * half + x];
        a[x] = j + x < i ? e * kk[n][2 * half + x] : 0.0f;
      }
      scores[(i * rows + j) / 2] = cuda::pack_bf16(p[0], p[1]);
      *reinterpret_cast<cuda::Vector<float, 2>*>(s_a + i * f32_stride + j) = {a[0], a[1]};
    }
  __syncthreads();

  invert_unit_lower(s_a, s_x);
  for (int x = threadIdx.x; x < rows * rows / 8; x += blockDim.x) {
    const int i = x / 8, j = x % 8 * 8;
    cuda::Vector<uint32_t, 4> row;
    for (int m = 0; m < 4; ++m) {
      const float* from = s_x + i * f32_stride + j + 2 * m;
      row.at[m] = cuda::pack_bf16(j + 2 * m <= i ? from[0] : 0.0f, j + 2 * m + 1 <= i ? from[1] : 0.0f);
    }
    *reinterpret_cast<cuda::Vector<uint32_t, 4>*>(out.inverse + (c.index * rows + i) * rows + j) = row;
  }
  if (threadIdx.x < rows) {
    const int i = threadIdx.x;
    out.in[c.index * rows + i] = s_decays.in[i];
    out.sent[c.index * rows + i] = s_decays.out[i] * s_decays.beta[i];
  }
}

// Launches `kernel` with more shared memory than a launch may have unasked.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), int64_t blocks, int threads, size_t bytes, Device& device, const Args&... args) {
  cuda::allow_shared(kernel, int64_t(bytes));
  kernel<<<cuda::blocks_for(blocks, 1), threads, bytes, cuda::stream_of(device)>>>(args...);
  cuda::cuda_check(cudaGetLastError());
}

struct Preparation {  // the memory of Prepared
  Tensor squares, rates;
  Prepared parts;
};

template <int keys>
Preparation prepare(Device& device, const View& v) {
  const int64_t units = v.B * v.chunks * v.H;
  Preparation p{Tensor(device, {2, units, rows, rows}, Dtype::bf16), Tensor(device, {2, units, rows}, Dtype::f32), {}};
  bf16* squares = p.squares.data<bf16>();
  float* rates = p.rates.data<float>();
  p.parts = {squares, squares + units * rows * rows, rates, rates + units * rows};
  launch(prepare_kernel<keys>, units, 128, prepare_shared_bytes<keys>(), device, v, p.parts);
  return p;
}

}  // namespace taper::kernels::delta_bf16
