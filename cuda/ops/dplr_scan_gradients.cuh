// dplr_scan on tensor cores, last step of the backward: the inputs' gradients, from the states at the chunk's two ends.
// One block of 16 warps takes chunk after chunk; what the next one needs is fetched while this one ends.
//
// In the middle's scale all is plain: with S~ before the chunk and Z~ after it
//   M = U + W S~   X = (I - A_b)^-T (P_b^T dY + b^ Z~)   dV = P_k^T dY + k^ Z~ + A_k^T X
//   d(pairs) = [X; dY] [V; M]^T   dr^ = dY S~^T + dP_k k^ + dP_b b^   dk^ = V Z~^T + dP_k^T r^ + dA_k^T a^   da^, db^ alike
// d_log_w counts what crosses a token, by blocks of 16: for pairs of two blocks sums of what comes from the left (query
// times its gradient so far, from there on) and of what goes right (key times gradient, up to there), and what passes over
// a whole block; for pairs of a block's two halves likewise; inside a half each pair. A query's gradient is summed from
// the farthest block to the nearest: each sum so far, times the query, is what passes over the next block. Nothing is a
// difference.
//
// The loops over blocks roll: straight code for all of them does not fit the instruction cache.
#pragma once
#include <nv/target>

#include "cuda/hopper.cuh"
#include "cuda/ops/dplr_scan_tiles.cuh"

namespace taper::kernels::dplr_tiles {

constexpr int gradient_threads = 512, half_block = block / 2;

struct GradientShared {
  Tile query[2], key[2];            // r^ a^; k^ b^
  Tile value, d_y, state, d_state;  // the last two transposed, [V,K]
  Tile pairs[2][2];                 // [query][key], then their gradients; at the end the next chunk's r a k b as given
  Tile solved[2];                   // M and X [V,tokens]; at the end the next chunk's log_w as given, [tokens][wide_row]
  Inverse inverse;
  Decays<16> decays;                   // `part`: then, of 16 rows of V each, the sum of S~ Z~
  float powers[tokens + 1][wide_row];  // 2^e, from token -1 on
  float from_left[tokens][wide_row];   // r^ dr^ + the next token's a^ da^, of sources left of the block
  float to_right[tokens][wide_row];    // k^ dk^ + b^ db^, of what lies right of the block
  float crossing[tokens][wide_row];    // of pairs of a block's halves: in the first as to_right, in the second as from_left
  float passing[6][channels];          // into block I over block J < I: I (I-1) / 2 + J
  float leaving[blocks][channels];     // from block J to the state
  int next;                            // the block's next chunk, counted from the launch's first
  // d of the pairs inside a half block, [I][half][i][j]: P_k_ij P_b_ij A_k_i+1,j A_b_i+1,j
  alignas(16) float near[blocks][2][half_block][half_block + 1][4];

  __device__ Tile& given(int which) { return pairs[which / 2][which % 2]; }
  __device__ float (*given_log_w())[wide_row] { return reinterpret_cast<float(*)[wide_row]>(&solved); }
};
static_assert(2 * sizeof(Tile) == tokens * wide_row * sizeof(float));

using Half = Sum[2];  // 16 tokens, 32 channels

// What scale_operands reads, from where fetch has put it.
struct Fetched {
  GradientShared& s;
  __device__ float2 log_w(int t, int q) const { return *reinterpret_cast<const float2*>(&s.given_log_w()[t][q]); }
  __device__ uint32_t pair(int which, int t, int q) const { return *reinterpret_cast<const uint32_t*>(&s.given(which).at[t][q]); }
};

// Begins the copies of all that a chunk is made of.
__device__ inline void fetch(GradientShared& s, const View& v, const Chunk& c, const bf16* g_d_y, const bf16* g_state, const bf16* g_d_state) {
  copy_tile<gradient_threads>(s.given(0), v.g_r + c.at, c.stride, c.length);
  copy_tile<gradient_threads>(s.given(1), v.g_a + c.at, c.stride, c.length);
  copy_tile<gradient_threads>(s.given(2), v.g_k + c.at, c.stride, c.length);
  copy_tile<gradient_threads>(s.given(3), v.g_b + c.at, c.stride, c.length);
#pragma unroll
  for (int n = 0; n < tokens * 16 / gradient_threads; ++n) {
    const int e = int(threadIdx.x) + n * gradient_threads, i = e / 16, q = e % 16 * 4;
    cuda::copy_async(&s.given_log_w()[i][q], v.g_log_w + c.at + (i < c.length ? i * c.stride : 0) + q, i < c.length);
  }
  copy_tile<gradient_threads>(s.value, v.g_v + c.at, c.stride, c.length);
  copy_tile<gradient_threads>(s.d_y, g_d_y ? g_d_y + c.at : nullptr, c.stride, c.length);
  copy_tile<gradient_threads>(s.state, g_state, channels, channels);
  copy_tile<gradient_threads>(s.d_state, g_d_state, channels, channels);
}

// Brings a chunk's inputs and states on their way, by threads 0 to 255: into the second-level cache, for `fetch` has no place yet.
__device__ inline void prefetch(const View& v, const Chunk& c, const bf16* g_d_y, const bf16* g_state, const bf16* g_d_state) {
  const int i = int(threadIdx.x) % 64, which = int(threadIdx.x) / 64 % 4;
  if (which < 2) prefetch_line((which ? g_d_state : g_state) + i * channels);
  if (i >= c.length) return;
  const int64_t at = c.at + i * c.stride;
  prefetch_line((which == 0 ? v.g_r : which == 1 ? v.g_a : which == 2 ? v.g_k : v.g_b) + at);
  if (which >= 2) prefetch_line(v.g_log_w + at + which % 2 * (channels / 2));
  else if (which == 0) prefetch_line(v.g_v + at);
  else if (g_d_y) prefetch_line(g_d_y + at);
}

// d[u] += left[u] times 16 rows and 32 columns.
__device__ inline void multiply_both(Half (&d)[2], const uint32_t (&left)[2][4], const bf16* right) {
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    uint32_t f[4];
    load_right(f, right + q * block);
    multiply(d[0][q], left[0], f);
    multiply(d[1][q], left[1], f);
  }
}

// f(q, t, e, row in the block, channel) for each pair of neighbours of a Half of channels `from` on.
template <class F>
__device__ void each_pair(int from, F f) {
#pragma unroll
  for (int q = 0; q < 2; ++q)
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int e = 0; e < 4; e += 2) f(q, t, e, row_of(e), from + q * block + column_of(t, 0));
}

// A pair of neighbours of a tile times the same of a Half.
__device__ inline float2 product(const Tile& tile, int i, int p, const Half& d, int q, int t, int e) {
  const float2 by = unpack(*reinterpret_cast<const uint32_t*>(&tile.at[i][p]));
  return {by.x * d[q][t][e], by.y * d[q][t][e + 1]};
}
__device__ inline float2 operator+(float2 a, float2 b) { return {a.x + b.x, a.y + b.y}; }
__device__ inline float2& at_pair(float& x) { return reinterpret_cast<float2&>(x); }

// Sums tile times gradient over the block's 16 tokens: to[channels], of them those from `from` on.
__device__ inline void sum_over_tokens(float* to, const Tile (&tile)[2], const Half (&d)[2], int at, int from) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int q = 0; q < 2; ++q)
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const int p = from + q * block + column_of(t, 0);
      float2 sum{0, 0};
#pragma unroll
      for (int e = 0; e < 4; e += 2)
        sum = sum + product(tile[0], at + row_of(e), p, d[0], q, t, e) + product(tile[1], at + row_of(e), p, d[1], q, t, e);
#pragma unroll
      for (int apart = 4; apart < 32; apart *= 2) {
        sum.x += __shfl_xor_sync(~0u, sum.x, apart);
        sum.y += __shfl_xor_sync(~0u, sum.y, apart);
      }
      if (lane < 4) at_pair(to[p]) = sum;
    }
}

// From values of rows row_of(0) and row_of(2) of a block those of the rows below them; 0 below the last.
__device__ inline void from_below(float& upper, float& lower) {
  const int lane = int(threadIdx.x) % 32;
  const float a = __shfl_sync(~0u, upper, (lane + 4) % 32), b = __shfl_sync(~0u, lower, (lane + 4) % 32);
  upper = lane < 28 ? a : b;
  lower = lane < 28 ? b : 0.0f;
}

// Writes a block of 16 tokens and 16 channels, each row times its powers, or divided by them.
template <bool divided>
__device__ void write_scaled(bf16* g, const Chunk& c, int at, int from, const Half& d, const float (*powers)[wide_row]) {
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    uint32_t f[4];
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int e = 0; e < 4; e += 2) {
        float2 by = *reinterpret_cast<const float2*>(&powers[at + row_of(e)][from + q * block + column_of(t, 0)]);
        if (divided) by = {reciprocal(by.x), reciprocal(by.y)};
        f[2 * t + e / 2] = cuda::pack_bf16(d[q][t][e] * by.x, d[q][t][e + 1] * by.y);
      }
    write_block(g, c, at, from + q * block, f);
  }
}

// What M^T or X^T, of 16 columns of V, is to be solved from. M: the state through a^, and v; X: the state's gradient
// through b^, and dY.
__device__ inline void right_side(Sum (&sum)[blocks], const GradientShared& s, const Chunk& c, bool of_x, int own) {
  const Tile &state = of_x ? s.d_state : s.state, &through = of_x ? s.key[1] : s.query[1];
  uint32_t left[4], f[4];
#pragma unroll 2
  for (int q = 0; q < 4; ++q) {
    load_left(left, &state.at[own][q * block]);
#pragma unroll
    for (int I = 0; I < blocks; ++I) {
      load_right_turned(f, &through.at[I * block][q * block]);
      multiply(sum[I], left, f);
    }
  }
  if (c.starts)
#pragma unroll
    for (int I = 0; I < blocks; ++I) clear_outside<true>(sum[I], I * block, of_x ? c.last_start() : 0, of_x ? tokens : c.first_start());
  if (of_x) {
#pragma unroll
    for (int J = 0; J < blocks; ++J) {
      load_left_turned(left, &s.d_y.at[J * block][own]);
#pragma unroll
      for (int I = 0; I <= J; ++I) {
        load_right(f, &s.pairs[0][1].at[J * block][I * block]);
        multiply(sum[I], left, f);
      }
    }
  } else {
#pragma unroll
    for (int J = 0; J < blocks; ++J) {
      load_left_turned(left, &s.value.at[J * block][own]);
#pragma unroll
      for (int I = J; I < blocks; ++I) {
        load_right_turned(f, &s.pairs[1][0].at[I * block][J * block]);
        multiply(sum[I], left, f);
      }
    }
  }
}

// d_v of two blocks and 16 columns: the state's gradient through k^, and dY. What X gives comes with finish_d_v.
__device__ inline void begin_d_v(Sum (&sum)[2], const GradientShared& s, const Chunk& c, const int (&I)[2], int own) {
  uint32_t left[4], f[4];
#pragma unroll 1
  for (int q = 0; q < 4; ++q) {
    load_right_turned(f, &s.d_state.at[own][q * block]);
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      load_left(left, &s.key[0].at[I[u] * block][q * block]);
      multiply(sum[u], left, f);
    }
  }
  if (c.starts)
#pragma unroll
    for (int u = 0; u < 2; ++u) clear_outside<false>(sum[u], I[u] * block, c.last_start(), tokens);
#pragma unroll 1
  for (int J = 0; J < blocks; ++J) {
    load_right(f, &s.d_y.at[J * block][own]);
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      if (J < I[u]) continue;
      load_left_turned(left, &s.pairs[0][0].at[J * block][I[u] * block]);
      multiply(sum[u], left, f);
    }
  }
}
__device__ inline void finish_d_v(Sum (&sum)[2], const GradientShared& s, const Chunk& c, const int (&I)[2], int own, bf16* g_d_v) {
  uint32_t left[4], f[4];
#pragma unroll 1
  for (int J = 0; J < blocks; ++J) {
    load_right_turned(f, &s.solved[1].at[own][J * block]);
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      if (J < I[u]) continue;
      load_left_turned(left, &s.pairs[1][0].at[J * block][I[u] * block]);
      multiply(sum[u], left, f);
    }
  }
#pragma unroll
  for (int u = 0; u < 2; ++u) {
    pack(f, sum[u]);
    write_block(g_d_v, c, I[u] * block, own, f);
  }
}

// d_r and d_a of the tokens of block I in 32 channels, by one warp.
__device__ inline void to_queries(GradientShared& s, const Chunk& c, int I, int from, bf16* g_d_r, bf16* g_d_a) {
  const int at = I * block;
  Half d[2] = {};
  uint32_t left[2][4];
#pragma unroll 2
  for (int p = 0; p < 4; ++p) {
    load_left(left[0], &s.d_y.at[at][p * block]);
    load_left_turned(left[1], &s.solved[1].at[p * block][at]);
    multiply_both(d, left, &s.state.at[p * block][from]);
  }
  if (c.starts)
#pragma unroll
    for (int u = 0; u < 4; ++u) clear_outside<false>(d[u / 2][u % 2], at, 0, c.first_start());
#pragma unroll 1
  for (int J = 0; J < I; ++J) {
    sum_over_tokens(s.passing[I * (I - 1) / 2 + J], s.query, d, at, from);
#pragma unroll
    for (int key = 0; key < 2; ++key) {
      load_left(left[0], &s.pairs[0][key].at[at][J * block]);
      load_left(left[1], &s.pairs[1][key].at[at][J * block]);
      multiply_both(d, left, &s.key[key].at[J * block][from]);
    }
  }
  // a_i asks before its own decay: it counts where r_{i-1} does.
  float2 r_upper, a_upper;
  each_pair(from, [&](int q, int t, int e, int i, int p) {
    const float2 r = product(s.query[0], at + i, p, d[0], q, t, e), a = product(s.query[1], at + i, p, d[1], q, t, e);
    if (e == 0) {
      r_upper = r;
      a_upper = a;
      return;
    }
    float2 a_lower = a;
    from_below(a_upper.x, a_lower.x);
    from_below(a_upper.y, a_lower.y);
    at_pair(s.from_left[at + row_of(0)][p]) = r_upper + a_upper;
    at_pair(s.from_left[at + i][p]) = r + a_lower;
  });
  // The own block: keys of the first half, to the first half and across; then keys of the second.
  Half first[2] = {};
#pragma unroll
  for (int key = 0; key < 2; ++key) {
    uint32_t second[2][4];
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      load_left(left[u], &s.pairs[u][key].at[at][at]);
      second[u][0] = second[u][1] = second[u][2] = 0;
      second[u][3] = left[u][3];
      left[u][2] = left[u][3] = 0;
    }
    multiply_both(first, left, &s.key[key].at[at][from]);
    multiply_both(d, second, &s.key[key].at[at][from]);
  }
  each_pair(from, [&](int q, int t, int e, int i, int p) {
    if (e == 0) return;
    float2 a = product(s.query[1], at + i, p, first[1], q, t, e);
    a = {__shfl_down_sync(~0u, a.x, 4), __shfl_down_sync(~0u, a.y, 4)};
    if (i == block - 1) a = {0, 0};
    at_pair(s.crossing[at + i][p]) = product(s.query[0], at + i, p, first[0], q, t, e) + a;
  });
#pragma unroll
  for (int u = 0; u < 2; ++u)
    each_pair(from, [&](int q, int t, int e, int, int) { d[u][q][t][e] += first[u][q][t][e], d[u][q][t][e + 1] += first[u][q][t][e + 1]; });
  write_scaled<false>(g_d_r, c, at, from, d[0], s.powers + 1);
  write_scaled<false>(g_d_a, c, at, from, d[1], s.powers);
}

// d_k and d_b of the tokens of block J in 32 channels, by one warp.
__device__ inline void to_keys(GradientShared& s, const Chunk& c, int J, int from, bf16* g_d_k, bf16* g_d_b) {
  const int at = J * block;
  Half d[2] = {};
  uint32_t left[2][4];
#pragma unroll 2
  for (int p = 0; p < 4; ++p) {
    load_left(left[0], &s.value.at[at][p * block]);
    load_left_turned(left[1], &s.solved[0].at[p * block][at]);
    multiply_both(d, left, &s.d_state.at[p * block][from]);
  }
  if (c.starts)
#pragma unroll
    for (int u = 0; u < 4; ++u) clear_outside<false>(d[u / 2][u % 2], at, c.last_start(), tokens);
  sum_over_tokens(s.leaving[J], s.key, d, at, from);
#pragma unroll 1
  for (int I = blocks - 1; I > J; --I) {
#pragma unroll
    for (int query = 0; query < 2; ++query) {
      load_left_turned(left[0], &s.pairs[query][0].at[I * block][at]);
      load_left_turned(left[1], &s.pairs[query][1].at[I * block][at]);
      multiply_both(d, left, &s.query[query].at[I * block][from]);
    }
  }
  each_pair(from, [&](int q, int t, int e, int i, int p) {
    at_pair(s.to_right[at + i][p]) = product(s.key[0], at + i, p, d[0], q, t, e) + product(s.key[1], at + i, p, d[1], q, t, e);
  });
  // The own block: queries of the second half, to the second half and across; then queries of the first.
  Half second[2] = {};
#pragma unroll
  for (int query = 0; query < 2; ++query) {
    uint32_t first[2][4];
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      load_left_turned(left[u], &s.pairs[query][u].at[at][at]);
      first[u][1] = first[u][2] = first[u][3] = 0;
      first[u][0] = left[u][0];
      left[u][0] = left[u][1] = 0;
    }
    multiply_both(second, left, &s.query[query].at[at][from]);
    multiply_both(d, first, &s.query[query].at[at][from]);
  }
  each_pair(from, [&](int q, int t, int e, int i, int p) {
    if (e == 0)
      at_pair(s.crossing[at + i][p]) = product(s.key[0], at + i, p, second[0], q, t, e) + product(s.key[1], at + i, p, second[1], q, t, e);
  });
#pragma unroll
  for (int u = 0; u < 2; ++u)
    each_pair(from, [&](int q, int t, int e, int, int) { d[u][q][t][e] += second[u][q][t][e], d[u][q][t][e + 1] += second[u][q][t][e + 1]; });
  write_scaled<true>(g_d_k, c, at, from, d[0], s.powers + 1);
  write_scaled<true>(g_d_b, c, at, from, d[1], s.powers + 1);
}

// d_log_w of the tokens of half a block in channel p, by one thread.
__device__ inline void to_decays(const GradientShared& s, const Chunk& c, int I, bool late, int p, float* g_d_log_w) {
  constexpr int n = half_block;
  const int top = I * block, at = top + late * n;
  float d_w[n] = {}, key_k[n], key_b[n];
#pragma unroll
  for (int j = 0; j + 1 < n; ++j) {
    key_k[j] = float(s.key[0].at[at + j][p]);
    key_b[j] = float(s.key[1].at[at + j][p]);
  }
#pragma unroll
  for (int i = 1; i < n; ++i) {  // r_i and a_{i+1}, which see the same decays
    const float r = float(s.query[0].at[at + i][p]), a = i + 1 < n ? float(s.query[1].at[at + i + 1][p]) : 0.0f;
    float sum_r = 0, sum_a = 0;
#pragma unroll
    for (int j = 0; j < i; ++j) {
      const float4 d = *reinterpret_cast<const float4*>(s.near[I][late][i][j]);
      sum_r += d.x * key_k[j] + d.y * key_b[j];
      d_w[j + 1] += r * sum_r;
      if (i + 1 < n) {
        sum_a += d.z * key_k[j] + d.w * key_b[j];
        d_w[j + 1] += a * sum_a;
      }
    }
  }
  float over = 0;  // what passes over the half
  if (c.starts == 0)
#pragma unroll
    for (int w = 0; w < 4; ++w) over += s.decays.part[w][p];
#pragma unroll 1
  for (int J = 0; J < I; ++J) over += s.leaving[J][p];
#pragma unroll 1
  for (int J = I + 1; J < blocks; ++J) over += s.passing[J * (J - 1) / 2 + I][p];
  const float(*other)[wide_row] = late ? s.to_right + top : s.from_left + top + n;
#pragma unroll
  for (int i = 0; i < n; ++i) over += other[i][p];
  float sum = 0, crossing[n];
#pragma unroll
  for (int i = 0; i < n; ++i) {
    crossing[i] = s.crossing[at + i][p];
    d_w[i] += over;
    over += s.to_right[at + i][p] + (late ? 0.0f : crossing[i]);
  }
  float* g_to = g_d_log_w + c.at + (at + n - 1) * c.stride + p;
#pragma unroll
  for (int i = n - 1; i >= 0; --i, g_to -= c.stride) {
    sum += s.from_left[at + i][p] + (late ? crossing[i] : 0.0f);
    if (at + i < c.length) *g_to = d_w[i] + sum;
  }
}

__global__ void __launch_bounds__(gradient_threads, 1)
    dplr_scan_gradient_kernel(View v, const bf16* g_d_y,      // [B,T,H,64] or null
                              const bf16* g_states,           // [B,chunks,H,64,64] S~
                              const bf16* g_d_states,         // [chunks of this launch,64,64] Z~
                              Progress progress,
                              bf16* g_d_r, bf16* g_d_k, bf16* g_d_v, bf16* g_d_a, bf16* g_d_b,  // as r k v a b
                              float* g_d_log_w,               // as log_w
                              int64_t first,                  // this launch's first chunk
                              int count) {                    // and its chunks
  extern __shared__ __align__(16) unsigned char s_memory[];
  GradientShared& s = *reinterpret_cast<GradientShared*>(s_memory);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, own = warp % 4 * block;
  // Turns are taken from one counter. The walk comes from the last chunks, and so do the turns: the first of them are made while it
  // goes on. One thread takes a turn, and later asks for its chunk, or that of the next turn whose head is not left out, when its
  // d_states is there; `count`: there is none.
  const auto take = [&] { return cuda::hopper::take_number(progress.g_taken); };
  const auto chunk_of = [&](int turn) {
    const int chunks = int(v.chunks), heads = count / chunks, H = int(v.H);
    for (; turn < count; turn = take()) {
      const int late = turn / heads, head = turn % heads;
      int done;
      while ((done = cuda::hopper::load_acquire(progress.g_done + first / chunks + head)) <= late) __nanosleep(200);
      if (done != Progress::left_out) return (head / H * chunks + chunks - 1 - late) * H + head % H;
    }
    return count;
  };
  constexpr int64_t state = channels * channels;
  Chunk c;
  NV_IF_TARGET(NV_PROVIDES_SM_90, (cuda::hopper::let_next_begin();))
  if (threadIdx.x == 0) s.next = chunk_of(take());
  __syncthreads();
  for (int now = -1, next = s.next;;) {
    if (next < count) {
      fetch(s, v, Chunk(v, first + next, false), g_d_y, g_states + (first + next) * state, g_d_states + int64_t(next) * state);
      cuda::copy_async_commit();
    }
    if (now >= 0) to_decays(s, c, warp / 4, warp / 2 % 2, warp % 2 * 32 + lane, g_d_log_w);
    if (next >= count) break;
    now = next;
    c = Chunk(v, first + now);
    cuda::copy_async_wait<0>();
    __syncthreads();
    const int taken = warp == 4 && lane == 0 ? take() : 0;  // early: it takes a while to come
    scale_operands<16>(Fetched{s}, c, s.decays, s.query[0], s.query[1], &s.key[0], s.key[1], s.powers[0]);
    __syncthreads();

    // The pairs; a kind has four warps.
#pragma unroll 1
    for (int n = warp / 4; n < triangle; n += 4) {
      const int I = row_in_triangle(n), J = column_in_triangle(n);
      const bool of_a = warp / 2 % 2, with_b = warp % 2;
      Sum sum = {};
      pair_block(
          sum, [&](uint32_t (&f)[4], int q) { load_left(f, &s.query[of_a].at[I * block][q * block]); },
          [&](uint32_t (&f)[4], int q) { load_right_turned(f, &s.key[with_b].at[J * block][q * block]); });
      mask(sum, c, I, J, of_a);
      uint32_t f[4];
      pack(f, sum);
      store(&s.pairs[of_a][with_b].at[I * block][J * block], f);
    }
    __syncthreads();

    // M and X, four warps each; meanwhile what they need, and d_v without X.
    {
      const int I[2] = {warp / 4 % 2, 3 - warp / 4 % 2};
      Sum sum[1][blocks] = {}, d_v[2] = {};
      uint32_t x[1][blocks][4];
      if (warp < 4) invert(s.inverse, s.pairs[1][1], warp);
      else if (warp >= 8) right_side(sum[0], s, c, warp >= 12, own);
      else {
        float2 kept{0, 0};
#pragma unroll 8
        for (int p = own; p < own + block; ++p) {
          const float2 before = unpack(*reinterpret_cast<const uint32_t*>(&s.state.at[p][2 * lane]));
          const float2 after = unpack(*reinterpret_cast<const uint32_t*>(&s.d_state.at[p][2 * lane]));
          kept.x += before.x * after.x;
          kept.y += before.y * after.y;
        }
        *reinterpret_cast<float2*>(&s.decays.part[warp % 4][2 * lane]) = kept;
        if (warp == 4 && lane == 0) s.next = chunk_of(taken);
      }
      __syncthreads();
      if (warp < 8) {
        next = s.next;
        if (next < count) prefetch(v, Chunk(v, first + next, false), g_d_y, g_states + (first + next) * state, g_d_states + int64_t(next) * state);
        begin_d_v(d_v, s, c, I, own);
      } else {
        if (warp < 12) substitute(sum, x, s.pairs[1][1], s.inverse);
        else substitute_back(sum[0], x[0], s.pairs[1][1], s.inverse);
#pragma unroll
        for (int J = 0; J < blocks; ++J) store(&s.solved[warp >= 12].at[own][J * block], x[0][J]);
      }
      __syncthreads();
      if (warp < 8) finish_d_v(d_v, s, c, I, own, g_d_v);
    }

    // The pairs' gradients: those of A_k by the warps that had read it, the other kinds meanwhile by the other warps.
    if (warp < 8) cuda::hopper::named_barrier(1, 256);
#pragma unroll 1
    for (int m = warp % 8; m < (warp < 8 ? triangle : 3 * triangle); m += 8) {
      const int n = warp < 8 ? m : m / 3, kind = warp < 8 ? 2 : m % 3 + m % 3 / 2;  // P_k P_b A_k A_b
      const int I = row_in_triangle(n), J = column_in_triangle(n);
      const bool of_a = kind / 2, with_b = kind % 2;
      Sum sum = {};
      pair_block(
          sum,
          [&](uint32_t (&f)[4], int p) {
            if (of_a) load_left_turned(f, &s.solved[1].at[p * block][I * block]);
            else load_left(f, &s.d_y.at[I * block][p * block]);
          },
          [&](uint32_t (&f)[4], int p) {
            if (with_b) load_right(f, &s.solved[0].at[p * block][J * block]);
            else load_right_turned(f, &s.value.at[J * block][p * block]);
          });
      mask(sum, c, I, J, of_a);
      const int i = lane / 4 - of_a;  // of a half
      if (I == J && i >= 0)
#pragma unroll
        for (int late = 0; late < 2; ++late)
#pragma unroll
          for (int e = 0; e < 2; ++e) s.near[I][late][i][column_of(0, e)][2 * of_a + with_b] = sum[late][2 * late + e];
      uint32_t f[4];
      pack(f, sum);
      store(&s.pairs[of_a][with_b].at[I * block][J * block], f);
    }
    __syncthreads();
    if (warp < 8) to_queries(s, c, warp % 4, warp / 4 * 32, g_d_r, g_d_a);
    else to_keys(s, c, warp % 4, warp / 4 % 2 * 32, g_d_k, g_d_b);
    __syncthreads();

    next = s.next;
  }
  NV_IF_TARGET(NV_PROVIDES_SM_90, (cuda::hopper::wait_for_one_before();))
}

}  // namespace taper::kernels::dplr_tiles
