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

struct PrepareShared {
  Tile r, a, k, b;          // k: forward only
  Tile value;               // v, or dY
  Tile P_k, P_b, A_k, A_b;  // P_k, A_k: forward only; the backward keeps R in A_k
  Diagonal diagonal;
  Decays decays;
};

__device__ inline uint4 as_vector(const uint32_t (&f)[4]) { return {f[0], f[1], f[2], f[3]}; }

template <bool backward>
__global__ void __launch_bounds__(prepare_threads, 2)
    dplr_scan_prepare_kernel(View v, const bf16* g_value,  // [B,T,H,64] v, or dY or null
                             std::conditional_t<backward, Step, ForwardStep>* g_steps,
                             int* g_strong,    // [B,chunks,H] 1: the chunk's decays are too strong for this
                             int64_t first) {  // the chunk of block 0
  extern __shared__ __align__(16) unsigned char s_memory[];
  PrepareShared& s = *reinterpret_cast<PrepareShared*>(s_memory);
  const Chunk c(v, first + blockIdx.x);
  auto& step = g_steps[blockIdx.x];
  const int thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32, own = warp * block;

  copy_tile<prepare_threads>(s.value, g_value ? g_value + c.at : nullptr, c.stride, c.length);
  cuda::copy_async_commit();
  const bool fits = scale_operands<4>(v, c, s.decays, s.r, s.a, backward ? nullptr : &s.k, s.b);
  cuda::copy_async_wait<0>();
  if (thread == 0) g_strong[c.slot] = !fits;
  if (!fits) return;
  __syncthreads();

  // Pairs: of r^ and a^ with k^ and b^, a kind per warp; backward b^ alone, half a kind per warp.
  {
    const bool of_a = warp / 2, with_b = backward || warp % 2;
    const Tile &query = of_a ? s.a : s.r, &key = with_b ? s.b : s.k;
    Tile& to = of_a ? (with_b ? s.A_b : s.A_k) : with_b ? s.P_b : s.P_k;
    lower_blocks(
        !backward ? 15u : warp % 2 ? 6u : 9u, [&](uint32_t (&f)[4], int I, int k) { load_left(f, &query.at[I * block][k * block]); },
        [&](uint32_t (&f)[4], int J, int k) { load_right_turned(f, &key.at[J * block][k * block]); },
        [&](int I, int J, Sum& sum) {
          mask(sum, c, I, J, of_a);
          if (of_a && with_b && I == J) keep_diagonal(s.diagonal, I, sum);
          uint32_t f[4];
          pack(f, sum);
          store(&to.at[I * block][J * block], f);
        });
  }
  __syncthreads();
  invert(s.diagonal, warp);
  if (c.starts)  // from here on queries ask the state before the chunk, keys go to the state after it
    for (int e = thread; e < tokens * 8; e += prepare_threads) {
      const int i = e / 8, q = e % 8 * 8;
      const auto clear = [&](Tile& t) { *reinterpret_cast<uint4*>(&t.at[i][q]) = uint4{}; };
      if (!c.sees_before(i)) clear(s.r), clear(s.a);
      if (!c.seen_after(i)) clear(s.b);
      if (!backward && !c.seen_after(i)) clear(s.k);
    }
  __syncthreads();

  for (int e = thread; e < tokens * 8; e += prepare_threads)
    *reinterpret_cast<uint4*>(&step.b[e / 8][e % 8 * 8]) = *reinterpret_cast<const uint4*>(&s.b.at[e / 8][e % 8 * 8]);
  step.scale[thread / channels][thread % channels] = s.decays.scale[thread / channels][thread % channels];
  if (thread == 0) step.keeps = c.starts == 0;

  // W^T, and U^T: the right sides are a^ and A_k V.
  uint32_t w[blocks][4], u[blocks][4], value[blocks][4];
#pragma unroll
  for (int J = 0; J < blocks; ++J) load_left_turned(value[J], &s.value.at[J * block][own]);
  {
    Sum sum[blocks];
#pragma unroll
    for (int I = 0; I < blocks; ++I) {
      uint32_t f[4];
      load_left_turned(f, &s.a.at[I * block][own]);
      unpack(sum[I], f);
    }
    substitute(sum, w, s.A_b, s.diagonal);
  }
  if constexpr (!backward) {
    Sum sum[blocks] = {};
#pragma unroll
    for (int I = 0; I < blocks; ++I)
#pragma unroll
      for (int J = 0; J <= I; ++J) {
        uint32_t f[4];
        load_right_turned(f, &s.A_k.at[I * block][J * block]);
        multiply(sum[I], value[J], f);
      }
    substitute(sum, u, s.A_b, s.diagonal);
  }

  // R and Y, not transposed.
#pragma unroll
  for (int I = 0; I < blocks; ++I) {
    Sum r, y = {};
    uint32_t f[4];
    load_left(f, &s.r.at[I * block][own]);
    unpack(r, f);
#pragma unroll
    for (int J = 0; J <= I; ++J) {
      load_left(f, &s.P_b.at[I * block][J * block]);
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
  for (int I = 0; I < blocks; ++I) store(&s.A_b.at[own][I * block], w[I]);
  __syncwarp();
  for (int e = lane; e < block * 8; e += 32)
    *reinterpret_cast<uint4*>(&step.w[own + e / 8][e % 8 * 8]) = *reinterpret_cast<const uint4*>(&s.A_b.at[own + e / 8][e % 8 * 8]);

  // N^T
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    Sum n = {};
#pragma unroll
    for (int J = 0; J < blocks; ++J) {
      uint32_t f[4];
      load_right(f, backward ? &s.A_k.at[J * block][q * block] : &s.k.at[J * block][q * block]);
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
