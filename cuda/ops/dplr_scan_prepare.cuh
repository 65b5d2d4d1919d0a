// dplr_scan on tensor cores, first step: what each chunk does to a state, whatever that state is. One block per chunk.
//
// With W = (I - A_b)^-1 a^ and U = (I - A_b)^-1 A_k V the chunk's m is U + W S~, and so
//   forward    y = Y + R S~   S' = 2^d (S~ + N + b^^T (W S~))     R = r^ + P_b W   Y = P_k V + P_b U   N = k^^T V + b^^T U
//   backward                  dS = 2^c (Z~ + N + W^T (b^ Z~))                                          N = R^T dY
// A warp holds 16 channels of W and R, or 16 columns of U and Y, transposed: then what one product gives is in place for
// the next.
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

constexpr int prepare_threads = 256, prepare_warps = prepare_threads / 32;

struct BackwardShared {
  Tile r, a, b;  // a: then W^T
  Tile value;    // v, or dY
  Tile result;   // U^T; backward: R
  Triangle P_b, A_b;
  Block inverse[blocks];
  float part[prepare_warps][channels], scale[2][channels];
};
struct ForwardShared : BackwardShared {
  Tile k;
  Triangle P_k, A_k;
};
template <bool backward>
using PrepareShared = std::conditional_t<backward, BackwardShared, ForwardShared>;

__device__ inline uint4 as_vector(const uint32_t (&f)[4]) { return {f[0], f[1], f[2], f[3]}; }

// A tile to memory, row by row.
__device__ inline void write_tile(bf16* g, const Tile& t) {
  for (int e = int(threadIdx.x); e < tokens * 8; e += prepare_threads) *reinterpret_cast<uint4*>(g + e * 8) = t.as<uint4>(e / 8, e % 8 * 8);
}
__device__ inline void clear_rows(Tile& t, int rows) {
  for (int e = int(threadIdx.x); e < rows * 8; e += prepare_threads) t.as<uint4>(e / 8, e % 8 * 8) = uint4{};
}

template <bool backward>
__global__ void __launch_bounds__(prepare_threads, 3)
    dplr_scan_prepare_kernel(View v, const bf16* g_value,  // [B,T,H,64] v, or dY or null
                             std::conditional_t<backward, Step, ForwardStep>* g_steps,
                             int* g_strong,    // [B,chunks,H] 1: the chunk's decays are too strong for this
                             int64_t first) {  // the chunk of block 0
  extern __shared__ __align__(16) unsigned char s_memory[];
  auto& s = *reinterpret_cast<PrepareShared<backward>*>(s_memory);
  const Chunk c(v, first + blockIdx.x);
  auto& step = g_steps[blockIdx.x];
  const int thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32, own = warp % 4;
  const bool for_w = warp < 4;  // these four warps solve for W, the others for U

  copy_tile<prepare_threads>(s.value, g_value ? g_value + c.at : nullptr, c.stride, c.length);
  cuda::copy_async_commit();
  Tile* k = nullptr;
  if constexpr (!backward) k = &s.k;
  const bool fits = scale_operands(v, c, s.part, s.scale, s.r, s.a, k, s.b);
  cuda::copy_async_wait<0>();
  if (thread == 0) g_strong[c.slot] = !fits;
  if (!fits) return;
  __syncthreads();

  // Pairs: of r^ and a^ with k^ and b^, half a kind per warp; backward b^ alone, a quarter per warp.
  {
    constexpr int most = backward ? 3 : 5;
    const bool of_a = warp / 4, with_b = backward || warp / 2 % 2;
    const auto number = [&](int m) { return backward ? warp % 4 + 4 * m : warp % 2 * most + m; };
    const auto here = [&](int m) { return !backward || m < 2 || number(m) < triangle; };
    const Tile &query = of_a ? s.a : s.r, &key = with_b ? s.b : *k;
    Triangle* to = of_a ? &s.A_b : &s.P_b;
    if constexpr (!backward)
      if (!with_b) to = of_a ? &s.A_k : &s.P_k;
    Sum sum[most] = {};
#pragma unroll
    for (int m = 0; m < most; ++m)
      if (here(m))
        pair_block(
            sum[m], [&](uint32_t (&f)[4], int q) { load_left(f, query, row_in_triangle(number(m)), q); },
            [&](uint32_t (&f)[4], int q) { load_right_turned(f, key, column_in_triangle(number(m)), q); });
#pragma unroll
    for (int m = 0; m < most; ++m)
      if (here(m)) {
        uint32_t f[4];
        mask(sum[m], c, row_in_triangle(number(m)), column_in_triangle(number(m)), of_a);
        pack(f, sum[m]);
        store(to->at[number(m)], f);
      }
  }
  __syncthreads();

  // W^T and U^T: the right sides are a^ and A_k V.
  Sum sum[blocks] = {};
  uint32_t x[blocks][4];
  if (for_w) {
    invert(s.inverse[warp], s.A_b(warp, warp));
#pragma unroll
    for (int I = 0; I < blocks; ++I) {
      load_left_turned(x[I], s.a, I, own);
      unpack(sum[I], x[I]);
    }
    if (c.starts)
#pragma unroll
      for (int I = 0; I < blocks; ++I) clear_outside<true>(sum[I], I * block, 0, c.first_start);
  } else if constexpr (!backward) {
#pragma unroll
    for (int J = 0; J < blocks; ++J) {
      uint32_t left[4], f[4];
      load_left_turned(left, s.value, J, own);
#pragma unroll
      for (int I = J; I < blocks; ++I) {
        load_right_turned(f, s.A_k(I, J));
        multiply(sum[I], left, f);
      }
    }
  }
  clear_rows(s.b, c.last_start);  // a later document start hides them from the state
  if constexpr (!backward) clear_rows(s.k, c.last_start);
  __syncthreads();
  if (for_w || !backward) substitute(sum, x, s.A_b, s.inverse);
  write_tile(&step.b[0][0], s.b);
  if (thread < 2 * channels) (&step.scale[0][0])[thread] = (&s.scale[0][0])[thread];
  if (thread == 0) step.keeps = c.starts == 0;

  // R and Y, not transposed.
  if (for_w) {
#pragma unroll
    for (int I = 0; I < blocks; ++I) {
      Sum r;
      uint32_t f[4];
      load_left(f, s.r, I, own);
      unpack(r, f);
      if (c.starts) clear_outside<false>(r, I * block, 0, c.first_start);
#pragma unroll
      for (int J = 0; J <= I; ++J) {
        load_left(f, s.P_b(I, J));
        multiply_turned(r, f, x[J]);
      }
      pack(f, r);
      if constexpr (backward) store(s.result, I, own, f);
      else step.r[I][own][lane] = as_vector(f);
      store(s.a, own, I, x[I]);
    }
  } else if constexpr (!backward) {
    uint32_t value[blocks][4];
#pragma unroll
    for (int J = 0; J < blocks; ++J) load_right(value[J], s.value, J, own);
#pragma unroll
    for (int I = 0; I < blocks; ++I) {
      Sum y = {};
      uint32_t f[4];
#pragma unroll
      for (int J = 0; J <= I; ++J) {
        load_left(f, s.P_b(I, J));
        multiply_turned(y, f, x[J]);
        load_left(f, s.P_k(I, J));
        multiply(y, f, value[J]);
      }
      pack(f, y);
      step.y[own][I][lane] = as_vector(f);
      store(s.result, own, I, x[I]);
    }
  }
  __syncthreads();

  write_tile(&step.w[0][0], s.a);
  // N^T, 16 columns of V and 32 channels per warp
  Sum n[2] = {};
#pragma unroll
  for (int J = 0; J < blocks; ++J) {
    uint32_t value[4], u[4], f[4];
    load_left_turned(value, s.value, J, own);
    if constexpr (!backward) load_left(u, s.result, own, J);
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      load_right(f, backward ? s.result : *k, J, warp / 4 * 2 + q);
      multiply(n[q], value, f);
      if constexpr (!backward) {
        load_right(f, s.b, J, warp / 4 * 2 + q);
        multiply(n[q], u, f);
      }
    }
  }
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    uint32_t f[4];
    pack(f, n[q]);
    step.n[own][warp / 4 * 2 + q][lane] = as_vector(f);
  }
}

}  // namespace taper::kernels::dplr_tiles
