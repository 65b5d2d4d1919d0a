// dplr_scan on tensor cores, last step of the backward: the inputs' gradients, from the states at the chunk's two ends.
// One block of 16 warps per chunk.
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

constexpr int gradient_threads = 512;

struct GradientShared {
  Tile r, a, k, b, value, d_y, state, d_state;  // the last two transposed, [V,K]
  Tile P_k, P_b, A_k, A_b;                      // then their gradients
  Tile m, x;                                    // [V,tokens]
  Inverse inverse;
  Decays<16> decays;                      // `part`: then, of 4 columns of V each, the sum of S~ Z~
  float exponents[tokens + 1][wide_row];  // e, from token -1 on
  float from_left[tokens][wide_row];      // r^ dr^ + the next token's a^ da^, of sources left of the block
  float to_right[tokens][wide_row];       // k^ dk^ + b^ db^, of what lies right of the block
  float passing[6][channels];             // into block I over block J < I: I (I-1) / 2 + J
  float leaving[blocks][channels];        // from block J to the state
  alignas(16) float near[blocks][block][block + 1][4];  // [I][i][j] d of the pairs inside a block: P_k P_b A_k A_b
};

using Half = Sum[2];  // 16 tokens, 32 channels

// Sums query times gradient over the block's 16 tokens: to[channels], of them those from `from` on.
__device__ inline void sum_over_tokens(float* to, const Tile& r, const Tile& a, const Half& d_r, const Half& d_a, int at, int from) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int q = 0; q < 2; ++q)
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      float2 sum{0, 0};
#pragma unroll
      for (int e = 0; e < 4; e += 2) {
        const int i = at + row_of(e), p = from + q * block + column_of(t, 0);
        const float2 by_r = unpack(*reinterpret_cast<const uint32_t*>(&r.at[i][p]));
        const float2 by_a = unpack(*reinterpret_cast<const uint32_t*>(&a.at[i][p]));
        sum.x += by_r.x * d_r[q][t][e] + by_a.x * d_a[q][t][e];
        sum.y += by_r.y * d_r[q][t][e + 1] + by_a.y * d_a[q][t][e + 1];
      }
#pragma unroll
      for (int apart = 4; apart < 32; apart *= 2) {
        sum.x += __shfl_xor_sync(~0u, sum.x, apart);
        sum.y += __shfl_xor_sync(~0u, sum.y, apart);
      }
      if (lane < 4) *reinterpret_cast<float2*>(to + from + q * block + column_of(t, 0)) = sum;
    }
}

// Writes a block of 16 tokens and 16 channels, each row times 2^(sign e).
__device__ inline void write_scaled(bf16* g, const Chunk& c, int at, int from, const Sum& sum, const float (*exponents)[wide_row], float sign) {
#pragma unroll
  for (int t = 0; t < 2; ++t)
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      const int i = at + row_of(e), p = from + column_of(t, 0);
      const float2 by = *reinterpret_cast<const float2*>(&exponents[i][p]);
      if (i < c.length)
        *reinterpret_cast<uint32_t*>(g + c.at + i * c.stride + p) =
            cuda::pack_bf16(sum[t][e] * exp2f(sign * by.x), sum[t][e + 1] * exp2f(sign * by.y));
    }
}

// What M^T, of 16 columns of V, is to be solved from: the state through a^, and v.
__device__ inline void right_side_of_m(Sum (&sum)[blocks], const GradientShared& s, const Chunk& c, int own) {
  uint32_t left[4], f[4];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    load_left(left, &s.state.at[own][q * block]);
#pragma unroll
    for (int I = 0; I < blocks; ++I) {
      load_right_turned(f, &s.a.at[I * block][q * block]);
      multiply(sum[I], left, f);
    }
  }
#pragma unroll
  for (int I = 0; I < blocks; ++I) clear_outside<true>(sum[I], I * block, 0, c.first_start);
#pragma unroll
  for (int J = 0; J < blocks; ++J) {
    load_left_turned(left, &s.value.at[J * block][own]);
#pragma unroll
    for (int I = J; I < blocks; ++I) {
      load_right_turned(f, &s.A_k.at[I * block][J * block]);
      multiply(sum[I], left, f);
    }
  }
}

// X^T likewise: the state's gradient through b^, and dY.
__device__ inline void right_side_of_x(Sum (&sum)[blocks], const GradientShared& s, const Chunk& c, int own) {
  uint32_t left[4], f[4];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    load_left(left, &s.d_state.at[own][q * block]);
#pragma unroll
    for (int I = 0; I < blocks; ++I) {
      load_right_turned(f, &s.b.at[I * block][q * block]);
      multiply(sum[I], left, f);
    }
  }
#pragma unroll
  for (int I = 0; I < blocks; ++I) clear_outside<true>(sum[I], I * block, c.last_start, tokens);
#pragma unroll
  for (int J = 0; J < blocks; ++J) {
    load_left_turned(left, &s.d_y.at[J * block][own]);
#pragma unroll
    for (int I = 0; I <= J; ++I) {
      load_right(f, &s.P_b.at[J * block][I * block]);
      multiply(sum[I], left, f);
    }
  }
}

// d_v of block I and 16 columns: the state's gradient through k^, and dY. What X gives comes with finish_d_v.
__device__ inline void begin_d_v(Sum& sum, const GradientShared& s, const Chunk& c, int I, int own) {
  uint32_t left[4], f[4];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    load_left(left, &s.k.at[I * block][q * block]);
    load_right_turned(f, &s.d_state.at[own][q * block]);
    multiply(sum, left, f);
  }
  clear_outside<false>(sum, I * block, c.last_start, tokens);
  for (int J = I; J < blocks; ++J) {
    load_left_turned(left, &s.P_k.at[J * block][I * block]);
    load_right(f, &s.d_y.at[J * block][own]);
    multiply(sum, left, f);
  }
}
__device__ inline void finish_d_v(Sum& sum, const GradientShared& s, const Chunk& c, int I, int own, bf16* g_d_v) {
  uint32_t left[4], f[4];
  for (int J = I; J < blocks; ++J) {
    load_left_turned(left, &s.A_k.at[J * block][I * block]);
    load_right_turned(f, &s.x.at[own][J * block]);
    multiply(sum, left, f);
  }
  pack(f, sum);
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int i = I * block + row_of(2 * (e % 2));
    if (i < c.length) *reinterpret_cast<uint32_t*>(g_d_v + c.at + i * c.stride + own + column_of(e / 2, 0)) = f[e];
  }
}

// d_r and d_a of the tokens of block I in 32 channels, by one warp.
__device__ inline void to_queries(GradientShared& s, const Chunk& c, int I, int from, bf16* g_d_r, bf16* g_d_a) {
  Half d_r = {}, d_a = {};
  const int at = I * block;
  uint32_t r[4], a[4], f[4];
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    load_left(r, &s.d_y.at[at][p * block]);
    load_left_turned(a, &s.x.at[p * block][at]);
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      load_right(f, &s.state.at[p * block][from + q * block]);
      multiply(d_r[q], r, f);
      multiply(d_a[q], a, f);
    }
  }
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    clear_outside<false>(d_r[q], at, 0, c.first_start);
    clear_outside<false>(d_a[q], at, 0, c.first_start);
  }
  const auto add = [&](int J) {
    const auto both = [&](const Tile& d_r_pairs, const Tile& d_a_pairs, const Tile& key) {
      load_left(r, &d_r_pairs.at[at][J * block]);
      load_left(a, &d_a_pairs.at[at][J * block]);
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        load_right(f, &key.at[J * block][from + q * block]);
        multiply(d_r[q], r, f);
        multiply(d_a[q], a, f);
      }
    };
    both(s.P_k, s.A_k, s.k);
    both(s.P_b, s.A_b, s.b);
  };
  for (int J = 0; J < I; ++J) {
    sum_over_tokens(s.passing[I * (I - 1) / 2 + J], s.r, s.a, d_r, d_a, at, from);
    add(J);
  }
  const auto each = [&](auto f) {
#pragma unroll
    for (int q = 0; q < 2; ++q)
#pragma unroll
      for (int t = 0; t < 2; ++t)
#pragma unroll
        for (int e = 0; e < 4; e += 2) f(q, t, e, row_of(e), from + q * block + column_of(t, 0));
  };
  each([&](int q, int t, int e, int i, int p) {
    const float2 by = unpack(*reinterpret_cast<const uint32_t*>(&s.r.at[at + i][p]));
    *reinterpret_cast<float2*>(&s.from_left[at + i][p]) = {by.x * d_r[q][t][e], by.y * d_r[q][t][e + 1]};
  });
  __syncwarp();
  each([&](int q, int t, int e, int i, int p) {  // a_i asks before its own decay: it counts where r_{i-1} does
    if (i == 0) return;
    const float2 by = unpack(*reinterpret_cast<const uint32_t*>(&s.a.at[at + i][p]));
    float2& to = *reinterpret_cast<float2*>(&s.from_left[at + i - 1][p]);
    to = {to.x + by.x * d_a[q][t][e], to.y + by.y * d_a[q][t][e + 1]};
  });
  add(I);
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    write_scaled(g_d_r, c, at, from + q * block, d_r[q], s.exponents + 1, 1);
    write_scaled(g_d_a, c, at, from + q * block, d_a[q], s.exponents, 1);
  }
}

// d_k and d_b of the tokens of block J in 32 channels, by one warp.
__device__ inline void to_keys(GradientShared& s, const Chunk& c, int J, int from, bf16* g_d_k, bf16* g_d_b) {
  Half d_k = {}, d_b = {};
  const int at = J * block;
  uint32_t k[4], b[4], f[4];
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    load_left(k, &s.value.at[at][p * block]);
    load_left_turned(b, &s.m.at[p * block][at]);
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      load_right(f, &s.d_state.at[p * block][from + q * block]);
      multiply(d_k[q], k, f);
      multiply(d_b[q], b, f);
    }
  }
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    clear_outside<false>(d_k[q], at, c.last_start, tokens);
    clear_outside<false>(d_b[q], at, c.last_start, tokens);
  }
  sum_over_tokens(s.leaving[J], s.k, s.b, d_k, d_b, at, from);
  const auto add = [&](int I) {
    const auto both = [&](const Tile& d_k_pairs, const Tile& d_b_pairs, const Tile& query) {
      load_left_turned(k, &d_k_pairs.at[I * block][at]);
      load_left_turned(b, &d_b_pairs.at[I * block][at]);
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        load_right(f, &query.at[I * block][from + q * block]);
        multiply(d_k[q], k, f);
        multiply(d_b[q], b, f);
      }
    };
    both(s.P_k, s.P_b, s.r);
    both(s.A_k, s.A_b, s.a);
  };
  for (int I = blocks - 1; I > J; --I) add(I);
#pragma unroll
  for (int q = 0; q < 2; ++q)
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int e = 0; e < 4; e += 2) {
        const int i = at + row_of(e), p = from + q * block + column_of(t, 0);
        const float2 by_k = unpack(*reinterpret_cast<const uint32_t*>(&s.k.at[i][p]));
        const float2 by_b = unpack(*reinterpret_cast<const uint32_t*>(&s.b.at[i][p]));
        *reinterpret_cast<float2*>(&s.to_right[i][p]) = {by_k.x * d_k[q][t][e] + by_b.x * d_b[q][t][e],
                                                         by_k.y * d_k[q][t][e + 1] + by_b.y * d_b[q][t][e + 1]};
      }
  add(J);
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    write_scaled(g_d_k, c, at, from + q * block, d_k[q], s.exponents + 1, -1);
    write_scaled(g_d_b, c, at, from + q * block, d_b[q], s.exponents + 1, -1);
  }
}

// What the pairs inside block I give to d_log_w in channel p, those of the queries i from `first` to `last`.
template <int first, int last>
__device__ void near_to_decays(float (&d_w)[block], const GradientShared& s, int I, int p) {
  const int at = I * block;
  float key_k[last], key_b[last];
#pragma unroll
  for (int j = 0; j < last; ++j) {
    key_k[j] = float(s.k.at[at + j][p]);
    key_b[j] = float(s.b.at[at + j][p]);
  }
#pragma unroll
  for (int i = first; i <= last; ++i) {  // r_i and a_{i+1}, which see the same decays
    const float r = float(s.r.at[at + i][p]), a = i + 1 < block ? float(s.a.at[at + i + 1][p]) : 0.0f;
    float sum_r = 0, sum_a = 0;
#pragma unroll
    for (int j = 0; j < i; ++j) {
      const float4 of_r = *reinterpret_cast<const float4*>(s.near[I][i][j]);
      sum_r += of_r.x * key_k[j] + of_r.y * key_b[j];
      if (i + 1 < block) {
        const float4 of_a = *reinterpret_cast<const float4*>(s.near[I][i + 1][j]);
        sum_a += of_a.z * key_k[j] + of_a.w * key_b[j];
      }
      d_w[j + 1] += r * sum_r + a * sum_a;
    }
  }
}

// d_log_w of the tokens of block I in channel p, by two threads; `late` has the pairs of the last four tokens.
__device__ inline void to_decays(GradientShared& s, const Chunk& c, int I, int p, bool late, float* g_d_log_w) {
  const int at = I * block;
  float(*s_late)[wide_row] = reinterpret_cast<float(*)[wide_row]>(&s.m);  // [tokens], over m and x
  static_assert(2 * sizeof(Tile) == tokens * wide_row * sizeof(float));
  float d_w[block] = {};
  if (late) {
    near_to_decays<12, block - 1>(d_w, s, I, p);
#pragma unroll
    for (int i = 0; i < block; ++i) s_late[at + i][p] = d_w[i];
  } else {
    near_to_decays<1, 11>(d_w, s, I, p);
  }
  __syncthreads();
  if (late) return;
  float over = 0;  // what passes over the block
  if (c.starts == 0)
#pragma unroll
    for (int w = 0; w < 8; ++w) over += s.decays.part[w][p];
  for (int J = 0; J < I; ++J) over += s.leaving[J][p];
  for (int J = I + 1; J < blocks; ++J) over += s.passing[J * (J - 1) / 2 + I][p];
#pragma unroll
  for (int i = 0; i < block; ++i) {
    d_w[i] += over + s_late[at + i][p];
    over += s.to_right[at + i][p];
  }
  float sum = 0;
#pragma unroll
  for (int i = block - 1; i >= 0; --i) {
    sum += s.from_left[at + i][p];
    if (at + i < c.length) g_d_log_w[c.at + (at + i) * c.stride + p] = d_w[i] + sum;
  }
}

// Three or two blocks of a triangular matrix, a quarter of it: f(I, J).
template <class F>
__device__ void each_of_quarter(int quarter, F f) {
#pragma unroll
  for (int n = 0; n < 3; ++n)
    if (quarter + 4 * n < triangle) f(row_in_triangle(quarter + 4 * n), column_in_triangle(quarter + 4 * n));
}

__global__ void __launch_bounds__(gradient_threads, 1)
    dplr_scan_gradient_kernel(View v, const bf16* g_d_y,      // [B,T,H,64] or null
                              const bf16* g_states,           // [B,chunks,H,64,64] S~
                              const bf16* g_d_states,         // [chunks of this launch,64,64] Z~
                              const int* g_left_out,          // [B,H]
                              bf16* g_d_r, bf16* g_d_k, bf16* g_d_v, bf16* g_d_a, bf16* g_d_b,  // as r k v a b
                              float* g_d_log_w,               // as log_w
                              int64_t first) {                // the chunk of block 0
  extern __shared__ __align__(16) unsigned char s_memory[];
  GradientShared& s = *reinterpret_cast<GradientShared*>(s_memory);
  const Chunk c(v, first + blockIdx.x);
  if (g_left_out[c.n * v.H + c.h]) return;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;

  copy_tile<gradient_threads>(s.value, v.g_v + c.at, c.stride, c.length);
  copy_tile<gradient_threads>(s.d_y, g_d_y ? g_d_y + c.at : nullptr, c.stride, c.length);
  copy_tile<gradient_threads>(s.state, g_states + c.slot * channels * channels, channels, channels);
  copy_tile<gradient_threads>(s.d_state, g_d_states + int64_t(blockIdx.x) * channels * channels, channels, channels);
  cuda::copy_async_commit();
  scale_operands<16>(v, c, s.decays, s.r, s.a, &s.k, s.b, s.exponents[0]);
  cuda::copy_async_wait<0>();
  __syncthreads();

  // The pairs; a kind has four warps.
  const bool of_a = warp / 2 % 2, with_b = warp % 2;
  Tile& pairs = of_a ? (with_b ? s.A_b : s.A_k) : with_b ? s.P_b : s.P_k;
  each_of_quarter(warp / 4, [&](int I, int J) {
    Sum sum = {};
    pair_block(
        sum, [&](uint32_t (&f)[4], int q) { load_left(f, &(of_a ? s.a : s.r).at[I * block][q * block]); },
        [&](uint32_t (&f)[4], int q) { load_right_turned(f, &(with_b ? s.b : s.k).at[J * block][q * block]); });
    mask(sum, c, I, J, of_a);
    uint32_t f[4];
    pack(f, sum);
    store(&pairs.at[I * block][J * block], f);
  });
  __syncthreads();

  // M and X, four warps each; meanwhile what they need, and d_v without X.
  const int own = warp % 4 * block, I_of[2] = {warp / 4 % 2, 3 - warp / 4 % 2};
  {
    Sum sum[1][blocks] = {}, d_v[2] = {};
    uint32_t x[1][blocks][4];
    if (warp < 4) invert(s.inverse, s.A_b, warp);
    else if (warp >= 12) right_side_of_x(sum[0], s, c, own);
    else if (warp >= 8) right_side_of_m(sum[0], s, c, own);
    if (warp < 8) {
      float2 r_sum{0, 0};
      for (int p = warp * 8; p < warp * 8 + 8; ++p) {
        const float2 before = unpack(*reinterpret_cast<const uint32_t*>(&s.state.at[p][2 * lane]));
        const float2 after = unpack(*reinterpret_cast<const uint32_t*>(&s.d_state.at[p][2 * lane]));
        r_sum.x += before.x * after.x;
        r_sum.y += before.y * after.y;
      }
      *reinterpret_cast<float2*>(&s.decays.part[warp][2 * lane]) = r_sum;
    }
    __syncthreads();
    if (warp < 8) {
#pragma unroll
      for (int u = 0; u < 2; ++u) begin_d_v(d_v[u], s, c, I_of[u], own);
    } else if (warp < 12) {
      substitute(sum, x, s.A_b, s.inverse);
#pragma unroll
      for (int I = 0; I < blocks; ++I) store(&s.m.at[own][I * block], x[0][I]);
    } else {
      substitute_back(sum[0], x[0], s.A_b, s.inverse);
#pragma unroll
      for (int I = 0; I < blocks; ++I) store(&s.x.at[own][I * block], x[0][I]);
    }
    __syncthreads();
    if (warp < 8)
#pragma unroll
      for (int u = 0; u < 2; ++u) finish_d_v(d_v[u], s, c, I_of[u], own, g_d_v);
  }
  __syncthreads();

  each_of_quarter(warp / 4, [&](int I, int J) {
    Sum sum = {};
    pair_block(
        sum,
        [&](uint32_t (&f)[4], int p) {
          if (of_a) load_left_turned(f, &s.x.at[p * block][I * block]);
          else load_left(f, &s.d_y.at[I * block][p * block]);
        },
        [&](uint32_t (&f)[4], int p) {
          if (with_b) load_right(f, &s.m.at[p * block][J * block]);
          else load_right_turned(f, &s.value.at[J * block][p * block]);
        });
    mask(sum, c, I, J, of_a);
    if (I == J)
#pragma unroll
      for (int t = 0; t < 2; ++t)
#pragma unroll
        for (int e = 0; e < 4; ++e) s.near[I][row_of(e)][column_of(t, e)][2 * of_a + with_b] = sum[t][e];
    uint32_t f[4];
    pack(f, sum);
    store(&pairs.at[I * block][J * block], f);
  });
  __syncthreads();
  if (warp < 8) to_queries(s, c, warp % 4, warp / 4 * 32, g_d_r, g_d_a);
  else to_keys(s, c, warp % 4, warp / 4 % 2 * 32, g_d_k, g_d_b);
  __syncthreads();
  to_decays(s, c, warp / 2 % 4, warp % 2 * 32 + lane, warp >= 8, g_d_log_w);
}

}  // namespace taper::kernels::dplr_tiles
