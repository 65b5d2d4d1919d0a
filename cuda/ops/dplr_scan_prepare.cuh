// dplr_scan on tensor cores, first step: what each chunk does to a state, whatever that state is. One block per chunk.
//
// With W = (I - A_b)^-1 a^ and U = (I - A_b)^-1 A_k V the chunk's m is U + W S~, and so
//   forward    y = Y + R S~   S' = 2^d (S~ + N + b^^T (W S~))     R = r^ + P_b W   Y = P_k V + P_b U   N = k^^T V + b^^T U
//   backward                  dS = 2^c (Z~ + N + W^T (b^ Z~))                                          N = R^T dY
// A warp holds 16 channels of W and R, or 16 columns of U and Y, transposed: then what one product gives is in place for
// the next.
#pragma once
#include <nv/target>

#include "cuda/hopper.cuh"
#include "cuda/ops/dplr_scan_tiles.cuh"

namespace taper::kernels::dplr_tiles {

// What the walk reads of a chunk. Packed blocks lie as the lanes of a warp hold them.
struct alignas(16) Step {
  bf16 w[channels][tokens];    // W^T
  bf16 b[tokens][channels];    // b^, 0 where a later document start hides the token from the state
  uint4 n[blocks][4][32];      // N^T [V,K]: by 16 columns, by 16 channels
  float scale[2][channels];    // 2^c, 2^d
  float keeps, unused[3];      // 0: a document starts inside, the old state goes
};
struct alignas(16) ForwardStep : Step {
  uint4 r[blocks][4][32];  // R [tokens,K]: by 16 tokens, by 16 channels
  uint4 y[blocks][4][32];  // Y [tokens,V]: by 16 columns, by 16 tokens
};

constexpr int prepare_threads = 256, prepare_warps = prepare_threads / 32;

struct BackwardShared {
  Tile r, a;   // then P_b and A_b, then P_b and W^T
  Tile b;
  Tile value;  // v, or dY
  Tile A_k;    // then U^T; backward: R
  Inverse inverse;
  Decays<prepare_warps> decays;
};
struct ForwardShared : BackwardShared {
  Tile k, P_k;
};
template <bool backward>
using PrepareShared = std::conditional_t<backward, BackwardShared, ForwardShared>;

__device__ inline void store_tile(bf16 (&to)[tokens][channels], const Tile& s) {
#pragma unroll
  for (int n = 0; n < tokens * 8 / prepare_threads; ++n) {
    const int e = int(threadIdx.x) + n * prepare_threads;
    *reinterpret_cast<uint4*>(&to[e / 8][e % 8 * 8]) = *reinterpret_cast<const uint4*>(&s.at[e / 8][e % 8 * 8]);
  }
}
__device__ inline uint4 as_vector(const uint32_t (&f)[4]) { return {f[0], f[1], f[2], f[3]}; }

template <bool backward>
__global__ void __launch_bounds__(prepare_threads, 3)
    dplr_scan_prepare_kernel(View v, const bf16* g_value,  // [B,T,H,64] v, or dY or null
                             std::conditional_t<backward, Step, ForwardStep>* g_steps,
                             int* g_strong,    // [B,chunks,H] 1: the chunk's decays are too strong for this
                             Progress progress,  // of the backward: set to 0, for the steps after this
                             int64_t first) {  // the chunk of block 0
  extern __shared__ __align__(16) unsigned char s_memory[];
  auto& s = *reinterpret_cast<PrepareShared<backward>*>(s_memory);
  NV_IF_TARGET(NV_PROVIDES_SM_90, (cuda::hopper::wait_for_one_before(); cuda::hopper::let_next_begin();))
  const Chunk c(v, first + blockIdx.x);
  auto& step = g_steps[blockIdx.x];
  const int thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32, own = warp % 4 * block;
  const bool for_w = warp < 4;  // these four warps solve for W, the others for U

  copy_tile<prepare_threads>(s.value, g_value ? g_value + c.at : nullptr, c.stride, c.length);
  cuda::copy_async_commit();
  Tile *k = nullptr, *P_k = nullptr;
  if constexpr (!backward) k = &s.k, P_k = &s.P_k;
  const bool fits = scale_operands<prepare_warps>(Given{v, c}, c, s.decays, s.r, s.a, k, s.b);
  cuda::copy_async_wait<0>();
  if (thread == 0) {
    g_strong[c.slot] = !fits;
    if (backward && c.begin == 0) progress.g_done[c.n * v.H + c.h] = 0;
    if (backward && c.slot == first) *progress.g_taken = 0;
  }
  if (!fits) return;
  __syncthreads();

  // Pairs: of r^ and a^ with k^ and b^, half a kind per warp; backward b^ alone, a quarter per warp. They wait in registers
  // until nobody reads r^ and a^ any more.
  constexpr int most_pairs = backward ? 3 : 5;
  const bool of_a = warp / 4, with_b = backward || warp / 2 % 2;
  const auto number = [&](int m) { return backward ? warp % 4 + 4 * m : warp % 2 * most_pairs + m; };
  uint32_t pairs[most_pairs][4], r_own[blocks][4], x[blocks][4];
#pragma unroll
  for (int m = 0; m < most_pairs; ++m) {
    if (backward && m == 2 && number(m) >= triangle) continue;
    const int I = row_in_triangle(number(m)), J = column_in_triangle(number(m));
    Sum sum = {};
    pair_block(
        sum, [&](uint32_t (&f)[4], int q) { load_left(f, &(of_a ? s.a : s.r).at[I * block][q * block]); },
        [&](uint32_t (&f)[4], int q) { load_right_turned(f, &(with_b ? s.b : *k).at[J * block][q * block]); });
    mask(sum, c, I, J, of_a);
    pack(pairs[m], sum);
  }
  if (for_w)
#pragma unroll
    for (int I = 0; I < blocks; ++I) {
      load_left(r_own[I], &s.r.at[I * block][own]);
      load_left_turned(x[I], &s.a.at[I * block][own]);
    }
  __syncthreads();
  Tile &P_b = s.r, &A_b = s.a;
  {
    Tile& to = of_a ? (with_b ? A_b : s.A_k) : with_b ? P_b : *P_k;
#pragma unroll
    for (int m = 0; m < most_pairs; ++m) {
      if (backward && m == 2 && number(m) >= triangle) continue;
      store(&to.at[row_in_triangle(number(m)) * block][column_in_triangle(number(m)) * block], pairs[m]);
    }
  }
  if (c.starts)  // what a later document start hides does not reach the state after the chunk
    for (int e = thread; e < c.last_start() * 8; e += prepare_threads) {
      *reinterpret_cast<uint4*>(&s.b.at[e / 8][e % 8 * 8]) = uint4{};
      if (k) *reinterpret_cast<uint4*>(&k->at[e / 8][e % 8 * 8]) = uint4{};
    }
  __syncthreads();

  // W^T and U^T: the right sides are a^ and A_k V.
  Sum sum[1][blocks] = {};
  if (for_w) {
    invert(s.inverse, A_b, warp);
#pragma unroll
    for (int I = 0; I < blocks; ++I) {
      unpack(sum[0][I], x[I]);
      if (c.starts) clear_outside<true>(sum[0][I], I * block, 0, c.first_start());
    }
  } else if (!backward) {
#pragma unroll
    for (int J = 0; J < blocks; ++J) {
      uint32_t left[4], f[4];
      load_left_turned(left, &s.value.at[J * block][own]);
#pragma unroll
      for (int I = J; I < blocks; ++I) {
        load_right_turned(f, &s.A_k.at[I * block][J * block]);
        multiply(sum[0][I], left, f);
      }
    }
  }
  __syncthreads();
  store_tile(step.b, s.b);
  if (thread < 2 * channels) (&step.scale[0][0])[thread] = (&s.decays.scale[0][0])[thread];
  if (thread == 0) step.keeps = c.starts == 0;
  if (for_w || !backward) {
    uint32_t solved[1][blocks][4];
    substitute(sum, solved, A_b, s.inverse);
#pragma unroll
    for (int I = 0; I < blocks; ++I)
#pragma unroll
      for (int e = 0; e < 4; ++e) x[I][e] = solved[0][I][e];
  }
  __syncthreads();  // A_b and A_k were read by all; W^T and U^T take their places

  // R and Y, not transposed.
  if (for_w) {
#pragma unroll
    for (int I = 0; I < blocks; ++I) {
      Sum r;
      uint32_t f[4];
      unpack(r, r_own[I]);
      if (c.starts) clear_outside<false>(r, I * block, 0, c.first_start());
#pragma unroll
      for (int J = 0; J <= I; ++J) {
        load_left(f, &P_b.at[I * block][J * block]);
        multiply_turned(r, f, x[J]);
      }
      pack(f, r);
      if constexpr (backward) store(&s.A_k.at[I * block][own], f);
      else step.r[I][warp][lane] = as_vector(f);
      store(&A_b.at[own][I * block], x[I]);
    }
  } else if constexpr (!backward) {
    uint32_t value[blocks][4];
#pragma unroll
    for (int J = 0; J < blocks; ++J) load_right(value[J], &s.value.at[J * block][own]);
#pragma unroll
    for (int I = 0; I < blocks; ++I) {
      Sum y = {};
      uint32_t f[4];
#pragma unroll
      for (int J = 0; J <= I; ++J) {
        load_left(f, &P_b.at[I * block][J * block]);
        multiply_turned(y, f, x[J]);
        load_left(f, &P_k->at[I * block][J * block]);
        multiply(y, f, value[J]);
      }
      pack(f, y);
      step.y[warp % 4][I][lane] = as_vector(f);
      store(&s.A_k.at[own][I * block], x[I]);
    }
  }
  __syncthreads();

  store_tile(step.w, A_b);
  // N^T, 16 columns of V and 32 channels per warp
  Sum n[2] = {};
#pragma unroll
  for (int J = 0; J < blocks; ++J) {
    uint32_t value[4], u[4], f[4];
    load_left_turned(value, &s.value.at[J * block][own]);
    if constexpr (!backward) load_left(u, &s.A_k.at[own][J * block]);
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      const int at = (warp / 4 * 2 + q) * block;
      load_right(f, &(backward ? s.A_k : *k).at[J * block][at]);
      multiply(n[q], value, f);
      if constexpr (!backward) {
        load_right(f, &s.b.at[J * block][at]);
        multiply(n[q], u, f);
      }
    }
  }
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    uint32_t f[4];
    pack(f, n[q]);
    step.n[warp % 4][warp / 4 * 2 + q][lane] = as_vector(f);
  }
}

}  // namespace taper::kernels::dplr_tiles
