// dplr_scan on tensor cores, first step: what each chunk does to a state, whatever that state is. One block per chunk.
//
// With W = (I - A_b)^-1 a^ and U = (I - A_b)^-1 A_k V the chunk's m is U + W S~, and so
//   forward    y = Y + R S~   S' = 2^d (S~ + N + b^^T (W S~))     R = r^ + P_b W   Y = P_k V + P_b U   N = k^^T V + b^^T U
//   backward                  dS = 2^c (Z~ + N + W^T (b^ Z~))                                          N = R^T dY
// Each warp holds 16 channels of W and R and 16 columns of U, Y and N, transposed: then what one product gives is in
// place for the next.
#pragma once
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

constexpr int prepare_threads = 128;

struct BackwardShared {
  Tile r, a;    // then P_b and A_b
  Tile b;
  Tile value;   // v, or dY
  Tile A_k;     // backward: R
  Diagonal diagonal;
  Decays<4> decays;
};
struct ForwardShared : BackwardShared {
  Tile k, P_k;
};
template <bool backward>
using PrepareShared = std::conditional_t<backward, BackwardShared, ForwardShared>;

__device__ inline uint4 as_vector(const uint32_t (&f)[4]) { return {f[0], f[1], f[2], f[3]}; }

template <bool backward>
__global__ void __launch_bounds__(prepare_threads, backward ? 4 : 3)
    dplr_scan_prepare_kernel(View v, const bf16* g_value,  // [B,T,H,64] v, or dY or null
                             std::conditional_t<backward, Step, ForwardStep>* g_steps,
                             int* g_strong,    // [B,chunks,H] 1: the chunk's decays are too strong for this
                             int64_t first) {  // the chunk of block 0
  extern __shared__ __align__(16) unsigned char s_memory[];
  auto& s = *reinterpret_cast<PrepareShared<backward>*>(s_memory);
  const Chunk c(v, first + blockIdx.x);
  auto& step = g_steps[blockIdx.x];
  const int thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32, own = warp * block;

  copy_tile<prepare_threads>(s.value, g_value ? g_value + c.at : nullptr, c.stride, c.length);
  cuda::copy_async_commit();
  Tile* k = nullptr;
  if constexpr (!backward) k = &s.k;
  const bool fits = scale_operands<4>(v, c, s.decays, s.r, s.a, k, s.b);
  cuda::copy_async_wait<0>();
  if (thread == 0) g_strong[c.slot] = !fits;
  if (!fits) return;
  __syncthreads();

  // Pairs: of r^ and a^ with k^ and b^, a kind per warp; backward b^ alone, half a kind per warp. They wait in registers
  // until nobody reads r^ and a^ any more.
  constexpr int own_pairs = backward ? triangle / 2 : triangle;
  const bool of_a = warp / 2, with_b = backward || warp % 2;
  const int before = backward ? warp % 2 * own_pairs : 0;
  uint32_t pairs[own_pairs][4], r_own[blocks][4], a_own[blocks][4];
#pragma unroll
  for (int n = 0; n < own_pairs; ++n) {
    const int I = row_in_triangle(before + n), J = column_in_triangle(before + n);
    Sum sum = {};
    pair_block(
        sum, [&](uint32_t (&f)[4], int q) { load_left(f, &(of_a ? s.a : s.r).at[I * block][q * block]); },
        [&](uint32_t (&f)[4], int q) { load_right_turned(f, &(with_b ? s.b : *k).at[J * block][q * block]); });
    mask(sum, c, I, J, of_a);
    if (of_a && with_b && I == J) keep_diagonal(s.diagonal, I, sum);
    pack(pairs[n], sum);
  }
#pragma unroll
  for (int I = 0; I < blocks; ++I) {
    load_left(r_own[I], &s.r.at[I * block][own]);
    load_left_turned(a_own[I], &s.a.at[I * block][own]);
  }
  __syncthreads();
  Tile &P_b = s.r, &A_b = s.a;
  {
    Tile* to = of_a ? (with_b ? &A_b : &s.A_k) : &P_b;
    if constexpr (!backward)
      if (!of_a && !with_b) to = &s.P_k;
#pragma unroll
    for (int n = 0; n < own_pairs; ++n)
      store(&to->at[row_in_triangle(before + n) * block][column_in_triangle(before + n) * block], pairs[n]);
  }
  invert(s.diagonal, warp);
  if (c.starts)  // what a later document start hides does not reach the state after the chunk
    for (int e = thread; e < tokens * 8; e += prepare_threads) {
      if (c.seen_after(e / 8)) continue;
      *reinterpret_cast<uint4*>(&s.b.at[e / 8][e % 8 * 8]) = uint4{};
      if (k) *reinterpret_cast<uint4*>(&k->at[e / 8][e % 8 * 8]) = uint4{};
    }
  __syncthreads();

  for (int e = thread; e < tokens * 8; e += prepare_threads)
    *reinterpret_cast<uint4*>(&step.b[e / 8][e % 8 * 8]) = *reinterpret_cast<const uint4*>(&s.b.at[e / 8][e % 8 * 8]);
  step.scale[thread / channels][thread % channels] = s.decays.scale[thread / channels][thread % channels];
  if (thread == 0) step.keeps = c.starts == 0;

  // W^T, and U^T: the right sides are a^ and A_k V.
  constexpr int systems = backward ? 1 : 2;
  uint32_t x[systems][blocks][4], value[blocks][4];
#pragma unroll
  for (int J = 0; J < blocks; ++J) load_left_turned(value[J], &s.value.at[J * block][own]);
  {
    Sum sum[systems][blocks] = {};
#pragma unroll
    for (int I = 0; I < blocks; ++I) {
      unpack(sum[0][I], a_own[I]);
      if (c.starts) clear<true>(sum[0][I], I * block, [&](int i) { return c.sees_before(i); });
      if constexpr (!backward)
#pragma unroll
        for (int J = 0; J <= I; ++J) {
          uint32_t f[4];
          load_right_turned(f, &s.A_k.at[I * block][J * block]);
          multiply(sum[1][I], value[J], f);
        }
    }
    substitute(sum, x, A_b, s.diagonal);
  }
  const auto &w = x[0], &u = x[systems - 1];

  // R and Y, not transposed.
#pragma unroll
  for (int I = 0; I < blocks; ++I) {
    Sum r, y = {};
    uint32_t f[4];
    unpack(r, r_own[I]);
    if (c.starts) clear<false>(r, I * block, [&](int i) { return c.sees_before(i); });
#pragma unroll
    for (int J = 0; J <= I; ++J) {
      load_left(f, &P_b.at[I * block][J * block]);
      multiply_turned(r, f, w[J]);
      if constexpr (!backward) {
        multiply_turned(y, f, u[J]);
        load_left(f, &s.P_k.at[I * block][J * block]);
        multiply_turned(y, f, value[J]);
      }
    }
    pack(f, r);
    if constexpr (backward) {
      store(&s.A_k.at[I * block][own], f);
    } else {
      step.r[I][warp][lane] = as_vector(f);
      pack(f, y);
      step.y[warp][I][lane] = as_vector(f);
    }
  }
  __syncthreads();  // A_b was read by all; W^T takes its place

#pragma unroll
  for (int I = 0; I < blocks; ++I) store(&A_b.at[own][I * block], w[I]);
  __syncwarp();
  for (int e = lane; e < block * 8; e += 32)
    *reinterpret_cast<uint4*>(&step.w[own + e / 8][e % 8 * 8]) = *reinterpret_cast<const uint4*>(&A_b.at[own + e / 8][e % 8 * 8]);

  // N^T
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    Sum n = {};
#pragma unroll
    for (int J = 0; J < blocks; ++J) {
      uint32_t f[4];
      load_right(f, &(backward ? s.A_k : *k).at[J * block][q * block]);
      multiply(n, value[J], f);
      if constexpr (!backward) {
        load_right(f, &s.b.at[J * block][q * block]);
        multiply(n, u[J], f);
      }
    }
    uint32_t f[4];
    pack(f, n);
    step.n[warp][q][lane] = as_vector(f);
  }
}

}  // namespace taper::kernels::dplr_tiles
