// dplr_scan on tensor cores, last step of the backward: the inputs' gradients, from the states at the chunk's two ends.
// One block of 8 warps per chunk.
//
// In the middle's scale all is plain: with S~ before the chunk and Z~ after it
//   M = U + W S~   X = (I - A_b)^-T (P_b^T dY + b^ Z~)   dV = P_k^T dY + k^ Z~ + A_k^T X
//   d(pairs) = [X; dY] [V; M]^T   dr^ = dY S~^T + dP_k k^ + dP_b b^   dk^ = V Z~^T + dP_k^T r^ + dA_k^T a^   da^, db^ alike
// d_log_w counts what crosses a token, by blocks of 16: inside a block each pair; for the rest sums of what comes from the
// left (query times its gradient so far, from there on) and of what goes right (key times gradient, up to there); and
// what passes over the whole block. A query's gradient is summed from the farthest block to the nearest: each sum so far,
// times the query, is what passes over the next block. Nothing is a difference.
#pragma once
#include "cuda/ops/dplr_scan_tiles.cuh"

namespace taper::kernels::dplr_tiles {

constexpr int gradient_threads = 256, gradient_warps = gradient_threads / 32;

struct GradientShared {
  Tile r, a, k, b;
  Tile value, d_y, state, d_state;  // the last two transposed, [V,K]
  Tile m, x;                        // [V,tokens]
  Triangle P_k, P_b, A_k, A_b;      // then their gradients
  Block inverse[blocks];
  float part[gradient_warps][channels];
  float kept[4][channels];          // by 16 columns of V, the sum of S~ Z~
  float passing[6][channels];       // into block I over block J < I: I (I-1) / 2 + J
  float leaving[blocks][channels];  // from block J to the state
};
// Once the states' part of the gradients is in registers, other tiles take the places of six:
//   value                what the sources left of a block give to it: r^ dr^ + the next token's a^ da^
//   d_y                  what of a block goes right of it: k^ dk^ + b^ db^
//   state d_state m x    dr^ da^ dk^ db^

using Half = Sum[2];  // 16 tokens, 32 channels: blocks 2 half, 2 half + 1 of a tile's columns

// f(q, t, e, row, column) for the pairs of elements e, e + 1 of a Half at block I of a tile's rows.
template <class F>
__device__ void each_pair(int I, int half, F f) {
#pragma unroll
  for (int q = 0; q < 2; ++q)
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int e = 0; e < 4; e += 2) f(q, t, e, I * block + row_of(e), (2 * half + q) * block + column_of(t, 0));
}

// Sums r d_r + a d_a over the tokens of block I, into to[channels].
__device__ inline void sum_over_tokens(float* to, const Tile& r, const Tile& a, const Half& d_r, const Half& d_a, int I, int half) {
  float2 sum[2][2] = {};
  each_pair(I, half, [&](int q, int t, int e, int row, int column) {
    const float2 by_r = unpack(r.as<uint32_t>(row, column)), by_a = unpack(a.as<uint32_t>(row, column));
    sum[q][t].x += by_r.x * d_r[q][t][e] + by_a.x * d_a[q][t][e];
    sum[q][t].y += by_r.y * d_r[q][t][e + 1] + by_a.y * d_a[q][t][e + 1];
  });
#pragma unroll
  for (int q = 0; q < 2; ++q)
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      float2& x = sum[q][t];
#pragma unroll
      for (int apart = 4; apart < 32; apart *= 2) {
        x.x += __shfl_xor_sync(~0u, x.x, apart);
        x.y += __shfl_xor_sync(~0u, x.y, apart);
      }
      if (lane_of() < 4) *reinterpret_cast<float2*>(to + (2 * half + q) * block + column_of(t, 0)) = x;
    }
}

// What M^T, of 16 columns of V, is to be solved from: the state through a^, and v.
__device__ inline void right_side_of_m(Sum (&sum)[blocks], const GradientShared& s, const Chunk& c, int own) {
  uint32_t left[4], f[4];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    load_left(left, s.state, own, q);
#pragma unroll
    for (int I = 0; I < blocks; ++I) {
      load_right_turned(f, s.a, I, q);
      multiply(sum[I], left, f);
    }
  }
  if (c.starts)
#pragma unroll
    for (int I = 0; I < blocks; ++I) clear_outside<true>(sum[I], I * block, 0, c.first_start);
#pragma unroll
  for (int J = 0; J < blocks; ++J) {
    load_left_turned(left, s.value, J, own);
#pragma unroll
    for (int I = J; I < blocks; ++I) {
      load_right_turned(f, s.A_k(I, J));
      multiply(sum[I], left, f);
    }
  }
}

// X^T likewise: the state's gradient through b^, and dY.
__device__ inline void right_side_of_x(Sum (&sum)[blocks], const GradientShared& s, const Chunk& c, int own) {
  uint32_t left[4], f[4];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    load_left(left, s.d_state, own, q);
#pragma unroll
    for (int I = 0; I < blocks; ++I) {
      load_right_turned(f, s.b, I, q);
      multiply(sum[I], left, f);
    }
  }
  if (c.starts)
#pragma unroll
    for (int I = 0; I < blocks; ++I) clear_outside<true>(sum[I], I * block, c.last_start, tokens);
#pragma unroll
  for (int J = 0; J < blocks; ++J) {
    load_left_turned(left, s.d_y, J, own);
#pragma unroll
    for (int I = 0; I <= J; ++I) {
      load_right(f, s.P_b(J, I));
      multiply(sum[I], left, f);
    }
  }
}

// d_v of block I and 16 columns: the state's gradient through k^, dY and X.
__device__ inline void to_values(const GradientShared& s, const Chunk& c, int I, int own, bf16* g_d_v) {
  Sum sum = {};
  uint32_t left[4], f[4];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    load_left(left, s.k, I, q);
    load_right_turned(f, s.d_state, own, q);
    multiply(sum, left, f);
  }
  if (c.starts) clear_outside<false>(sum, I * block, c.last_start, tokens);
  for (int J = I; J < blocks; ++J) {
    load_left_turned(left, s.P_k(J, I));
    load_right(f, s.d_y, J, own);
    multiply(sum, left, f);
    load_left_turned(left, s.A_k(J, I));
    load_right_turned(f, s.x, own, J);
    multiply(sum, left, f);
  }
  pack(f, sum);
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int i = I * block + row_of(e % 2 * 2);
    if (i < c.length) *reinterpret_cast<uint32_t*>(g_d_v + c.at + i * c.stride + own * block + column_of(e / 2, 0)) = f[e];
  }
}

// d_r += d_pairs of r times the key, d_a likewise, for one block of each; `turned` takes the pairs' transposes.
template <bool turned>
__device__ void add_pairs(Half& d_r, Half& d_a, const Block& r_pairs, const Block& a_pairs, const Tile& key, int J, int half) {
  uint32_t r[4], a[4], f[4];
  if constexpr (turned) load_left_turned(r, r_pairs), load_left_turned(a, a_pairs);
  else load_left(r, r_pairs), load_left(a, a_pairs);
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    load_right(f, key, J, 2 * half + q);
    multiply(d_r[q], r, f);
    multiply(d_a[q], a, f);
  }
}

// What is left for d_r^ and d_a^ of block I once they hold the state's part: the keys.
__device__ inline void to_queries(GradientShared& s, int I, int half, Half& d_r, Half& d_a) {
  const auto add = [&](int J) {
    add_pairs<false>(d_r, d_a, s.P_k(I, J), s.A_k(I, J), s.k, J, half);
    add_pairs<false>(d_r, d_a, s.P_b(I, J), s.A_b(I, J), s.b, J, half);
  };
  for (int J = 0; J < I; ++J) {
    sum_over_tokens(s.passing[I * (I - 1) / 2 + J], s.r, s.a, d_r, d_a, I, half);
    add(J);
  }
  Half of_r, of_a;
  each_pair(I, half, [&](int q, int t, int e, int row, int column) {
    const float2 r = unpack(s.r.as<uint32_t>(row, column)), a = unpack(s.a.as<uint32_t>(row, column));
    of_r[q][t][e] = r.x * d_r[q][t][e], of_r[q][t][e + 1] = r.y * d_r[q][t][e + 1];
    of_a[q][t][e] = a.x * d_a[q][t][e], of_a[q][t][e + 1] = a.y * d_a[q][t][e + 1];
  });
  // a_i asks before its own decay: it counts where r_{i-1} does. The next token's row is four lanes on.
  const int lane = lane_of(), next = (lane + 4) % 32;
#pragma unroll
  for (int q = 0; q < 2; ++q) {
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float upper = __shfl_sync(~0u, of_a[q][t][e], next), lower = __shfl_sync(~0u, of_a[q][t][e + 2], next);
        of_r[q][t][e] += lane < 28 ? upper : lower;
        of_r[q][t][e + 2] += lane < 28 ? lower : 0.0f;
      }
    uint32_t f[4];
    pack(f, of_r[q]);
    store(s.value, I, 2 * half + q, f);
  }
  add(I);
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    uint32_t f[4];
    pack(f, d_r[q]);
    store(s.state, I, 2 * half + q, f);
    pack(f, d_a[q]);
    store(s.d_state, I, 2 * half + q, f);
  }
}

// The same for d_k^ and d_b^ of block J: the queries.
__device__ inline void to_keys(GradientShared& s, int J, int half, Half& d_k, Half& d_b) {
  const auto add = [&](int I) {
    add_pairs<true>(d_k, d_b, s.P_k(I, J), s.P_b(I, J), s.r, I, half);
    add_pairs<true>(d_k, d_b, s.A_k(I, J), s.A_b(I, J), s.a, I, half);
  };
  sum_over_tokens(s.leaving[J], s.k, s.b, d_k, d_b, J, half);
  for (int I = blocks - 1; I > J; --I) add(I);
  Half right;
  each_pair(J, half, [&](int q, int t, int e, int row, int column) {
    const float2 k = unpack(s.k.as<uint32_t>(row, column)), b = unpack(s.b.as<uint32_t>(row, column));
    right[q][t][e] = k.x * d_k[q][t][e] + b.x * d_b[q][t][e];
    right[q][t][e + 1] = k.y * d_k[q][t][e + 1] + b.y * d_b[q][t][e + 1];
  });
  add(J);
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    uint32_t f[4];
    pack(f, right[q]);
    store(s.d_y, J, 2 * half + q, f);
    pack(f, d_k[q]);
    store(s.m, J, 2 * half + q, f);
    pack(f, d_b[q]);
    store(s.x, J, 2 * half + q, f);
  }
}

// Eight numbers of a row of a block, the same for all lanes.
__device__ inline void read_eight(float (&x)[8], const Block& b, int row, int column) {
  const uint4 eight = *reinterpret_cast<const uint4*>(b.at + Block::place(row, column));
  const uint32_t pairs[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
  for (int u = 0; u < 4; ++u) {
    const float2 p = unpack(pairs[u]);
    x[2 * u] = p.x, x[2 * u + 1] = p.y;
  }
}

// d_log_w of the tokens of block I in channel p, by one thread.
__device__ inline void to_decays(const GradientShared& s, const Chunk& c, int I, int p, float* g_d_log_w) {
  const int at = I * block;
  float key_k[block - 1], key_b[block - 1], d_w[block] = {};
#pragma unroll
  for (int j = 0; j + 1 < block; ++j) {
    key_k[j] = float(s.k(at + j, p));
    key_b[j] = float(s.b(at + j, p));
  }
#pragma unroll
  for (int i = 1; i < block; ++i) {  // the pairs inside the block of r_i and a_{i+1}, which see the same decays
    const float r = float(s.r(at + i, p)), a = i + 1 < block ? float(s.a(at + i + 1, p)) : 0.0f;
    float sum_r = 0, sum_a = 0;
#pragma unroll
    for (int from = 0; from < i; from += 8) {
      float rk[8], rb[8], ak[8], ab[8];
      read_eight(rk, s.P_k(I, I), i, from);
      read_eight(rb, s.P_b(I, I), i, from);
      if (i + 1 < block) read_eight(ak, s.A_k(I, I), i + 1, from), read_eight(ab, s.A_b(I, I), i + 1, from);
#pragma unroll
      for (int u = 0; u < 8; ++u) {
        const int j = from + u;
        if (j >= i) continue;
        sum_r += rk[u] * key_k[j] + rb[u] * key_b[j];
        if (i + 1 < block) sum_a += ak[u] * key_k[j] + ab[u] * key_b[j];
        d_w[j + 1] += r * sum_r + a * sum_a;
      }
    }
  }
  float over = 0;  // what passes over the block, and what of its tokens so far goes right
  if (c.starts == 0)
#pragma unroll
    for (int u = 0; u < 4; ++u) over += s.kept[u][p];
  for (int J = 0; J < I; ++J) over += s.leaving[J][p];
  for (int J = I + 1; J < blocks; ++J) over += s.passing[J * (J - 1) / 2 + I][p];
#pragma unroll
  for (int i = 0; i < block; ++i) {
    d_w[i] += over;
    over += float(s.d_y(at + i, p));
  }
  float sum = 0;  // from the left
#pragma unroll
  for (int i = block - 1; i >= 0; --i) {
    sum += float(s.value(at + i, p));
    if (at + i < c.length) g_d_log_w[c.at + (at + i) * c.stride + p] = d_w[i] + sum;
  }
}

__global__ void __launch_bounds__(gradient_threads, 2)
    dplr_scan_gradient_kernel(View v, const bf16* g_d_y,  // [B,T,H,64] or null
                              const bf16* g_states,       // [B,chunks,H,64,64] S~
                              const bf16* g_d_states,     // [chunks of this launch,64,64] Z~
                              const int* g_left_out,      // [B,H]
                              bf16* g_d_r, bf16* g_d_k, bf16* g_d_v, bf16* g_d_a, bf16* g_d_b,  // as r k v a b
                              float* g_d_log_w,           // as log_w
                              int64_t first) {            // the chunk of block 0
  extern __shared__ __align__(16) unsigned char s_memory[];
  GradientShared& s = *reinterpret_cast<GradientShared*>(s_memory);
  const Chunk c(v, first + blockIdx.x);
  if (g_left_out[c.n * v.H + c.h]) return;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, own = warp % 4, half = warp / 4;

  copy_tile<gradient_threads>(s.value, v.g_v + c.at, c.stride, c.length);
  copy_tile<gradient_threads>(s.d_y, g_d_y ? g_d_y + c.at : nullptr, c.stride, c.length);
  copy_tile<gradient_threads>(s.state, g_states + c.slot * channels * channels, channels, channels);
  copy_tile<gradient_threads>(s.d_state, g_d_states + int64_t(blockIdx.x) * channels * channels, channels, channels);
  cuda::copy_async_commit();
  scale_operands(v, c, s.part, nullptr, s.r, s.a, &s.k, s.b);
  cuda::copy_async_wait<0>();
  __syncthreads();

  // The pairs; a kind has two warps.
  constexpr int share = triangle / 2;
  const bool of_a = warp / 2 % 2, with_b = warp % 2;
  Triangle& pairs = of_a ? (with_b ? s.A_b : s.A_k) : with_b ? s.P_b : s.P_k;
  const auto number = [&](int m) { return half * share + m; };
  {
    const Tile &query = of_a ? s.a : s.r, &key = with_b ? s.b : s.k;
    Sum sum[share] = {};
#pragma unroll
    for (int m = 0; m < share; ++m)
      pair_block(
          sum[m], [&](uint32_t (&f)[4], int q) { load_left(f, query, row_in_triangle(number(m)), q); },
          [&](uint32_t (&f)[4], int q) { load_right_turned(f, key, column_in_triangle(number(m)), q); });
#pragma unroll
    for (int m = 0; m < share; ++m) {
      uint32_t f[4];
      mask(sum[m], c, row_in_triangle(number(m)), column_in_triangle(number(m)), of_a);
      pack(f, sum[m]);
      store(pairs.at[number(m)], f);
    }
  }
  __syncthreads();

  // M and X, four warps each.
  {
    Sum sum[blocks] = {};
    uint32_t x[blocks][4];
    if (half == 0) {
      invert(s.inverse[own], s.A_b(own, own));
      right_side_of_m(sum, s, c, own);
    } else {
      right_side_of_x(sum, s, c, own);
      float2 kept{0, 0};
#pragma unroll 4
      for (int p = own * block; p < (own + 1) * block; ++p) {
        const float2 before = unpack(s.state.as<uint32_t>(p, 2 * lane)), after = unpack(s.d_state.as<uint32_t>(p, 2 * lane));
        kept.x += before.x * after.x, kept.y += before.y * after.y;
      }
      *reinterpret_cast<float2*>(&s.kept[own][2 * lane]) = kept;
    }
    __syncthreads();
    if (half == 0) substitute(sum, x, s.A_b, s.inverse);
    else substitute_back(sum, x, s.A_b, s.inverse);
#pragma unroll
    for (int I = 0; I < blocks; ++I) store(half == 0 ? s.m : s.x, own, I, x[I]);
  }
  __syncthreads();

  // The pairs' gradients; they take the pairs' places when d_v has been made with those.
  {
    uint32_t gradient[share][4];
    {
      Sum sum[share] = {};
#pragma unroll
      for (int m = 0; m < share; ++m)
        pair_block(
            sum[m],
            [&](uint32_t (&f)[4], int p) {
              if (of_a) load_left_turned(f, s.x, p, row_in_triangle(number(m)));
              else load_left(f, s.d_y, row_in_triangle(number(m)), p);
            },
            [&](uint32_t (&f)[4], int p) {
              if (with_b) load_right(f, s.m, p, column_in_triangle(number(m)));
              else load_right_turned(f, s.value, column_in_triangle(number(m)), p);
            });
#pragma unroll
      for (int m = 0; m < share; ++m) {
        mask(sum[m], c, row_in_triangle(number(m)), column_in_triangle(number(m)), of_a);
        pack(gradient[m], sum[m]);
      }
    }
    to_values(s, c, half, own, g_d_v);
    to_values(s, c, 3 - half, own, g_d_v);
    __syncthreads();
#pragma unroll
    for (int m = 0; m < share; ++m) store(pairs.at[number(m)], gradient[m]);
  }

  // d_r^ d_a^ d_k^ d_b^ of 16 tokens in 32 channels: first what the states give.
  Half d_r = {}, d_a = {}, d_k = {}, d_b = {};
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    uint32_t r[4], a[4], k[4], b[4], f[4];
    load_left(r, s.d_y, own, p);
    load_left_turned(a, s.x, p, own);
    load_left(k, s.value, own, p);
    load_left_turned(b, s.m, p, own);
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      load_right(f, s.state, p, 2 * half + q);
      multiply(d_r[q], r, f);
      multiply(d_a[q], a, f);
      load_right(f, s.d_state, p, 2 * half + q);
      multiply(d_k[q], k, f);
      multiply(d_b[q], b, f);
    }
  }
  if (c.starts)
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      clear_outside<false>(d_r[q], own * block, 0, c.first_start);
      clear_outside<false>(d_a[q], own * block, 0, c.first_start);
      clear_outside<false>(d_k[q], own * block, c.last_start, tokens);
      clear_outside<false>(d_b[q], own * block, c.last_start, tokens);
    }
  __syncthreads();
  to_queries(s, own, half, d_r, d_a);
  to_keys(s, own, half, d_k, d_b);
  constexpr int rows = tokens / gradient_warps;
  float2 w[rows];
  load_decays(w, v, c, warp * rows);
  __syncthreads();

  // Back to the inputs' scale.
  float2 e = Exponents<gradient_warps>(s.part, warp * rows).before, before = {exp2f(e.x), exp2f(e.y)};
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    const int t = warp * rows + i;
    e.x += w[i].x, e.y += w[i].y;
    const float2 up = {exp2f(e.x), exp2f(e.y)}, down = {exp2f(-e.x), exp2f(-e.y)};
    const auto write = [&](bf16* g, const Tile& from, float2 by) {
      const float2 x = unpack(from.as<uint32_t>(t, 2 * lane));
      if (t < c.length) *reinterpret_cast<uint32_t*>(g + c.at + t * c.stride + 2 * lane) = cuda::pack_bf16(x.x * by.x, x.y * by.y);
    };
    write(g_d_r, s.state, up);
    write(g_d_a, s.d_state, before);
    write(g_d_k, s.m, down);
    write(g_d_b, s.x, down);
    before = up;
  }
  to_decays(s, c, warp / 2, warp % 2 * 32 + lane, g_d_log_w);
}

}  // namespace taper::kernels::dplr_tiles
