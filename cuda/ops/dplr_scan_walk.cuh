// dplr_scan on tensor cores, second step: one block per head carries the state through its chunks, in f32 registers.
//
// The state lies transposed, [V,K]: each of the four warps has 16 columns of V and needs no other warp. The boundary
// states are written as S~ (forward) and Z~ (backward), [V,K], for the gradients. A fifth warp of the backward tells how far the
// walk is: the gradients of late chunks begin where nobody walks.
#pragma once
#include "cuda/ops/dplr_scan_prepare.cuh"

namespace taper::kernels::dplr_tiles {

constexpr int walk_threads = 128, stages = 3;
template <bool backward>
constexpr int all_walk_threads = walk_threads + (backward ? 32 : 0);

template <bool backward>
struct WalkShared {
  struct Stage {
    Tile w, b;
    uint4 n[blocks][4][32], r[backward ? 1 : blocks][4][32], y[backward ? 1 : blocks][4][32];
    float scale[2][channels];
    float keeps, unused[3];
  } stage[stages];
};

template <bool backward>
__global__ void __launch_bounds__(all_walk_threads<backward>, 1)
    dplr_scan_walk_kernel(View v, const std::conditional_t<backward, Step, ForwardStep>* g_steps,
                          const int* g_strong,     // [B,chunks,H] as the first step found it
                          int* g_left_out,         // [B,H] is written: 1 where one of the head's chunks is strong
                          Progress progress,       // of the backward: its g_done is written
                          const float* g_initial,  // [B,H,K,V] or null; backward: d_final
                          bf16* g_y,               // [B,T,H,64]; backward: null
                          bf16* g_states,          // [chunks of this launch][64][64], as first counts them
                          float* g_final,          // [B,H,K,V] or null; backward: d_initial
                          int64_t first) {         // the chunk of g_steps[0] and g_states[0]
  extern __shared__ __align__(16) unsigned char s_memory[];
  auto& s = *reinterpret_cast<WalkShared<backward>*>(s_memory);
  const int thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32, row = lane / 4, column = lane % 4 * 2;
  const int64_t bh = first / v.chunks + blockIdx.x, n = bh / v.H, h = bh % v.H, top = n * v.chunks * v.H + h;
  NV_IF_TARGET(NV_PROVIDES_SM_90, (cuda::hopper::wait_for_one_before(); cuda::hopper::let_next_begin();))
  int strong = 0;
  for (int64_t at = thread; at < v.chunks; at += walk_threads) strong |= g_strong[top + at * v.H];
  strong = __syncthreads_or(strong);
  if (thread == 0) {
    g_left_out[bh] = strong;
    if (backward && strong) cuda::hopper::store_release(progress.g_done + bh, Progress::left_out);
  }
  if (strong) return;
  const auto meet = [] { cuda::hopper::named_barrier(1, all_walk_threads<backward>); };
  if (backward && warp == walk_threads / 32) {
    for (int done = 0; done <= v.chunks; ++done) {
      meet();  // what all warps have written before it is seen by who sees the number
      if (done > 0 && lane == 0) cuda::hopper::store_release(progress.g_done + bh, done);
    }
    return;
  }

  const auto slot_of = [&](int64_t turn) { return top + (backward ? v.chunks - 1 - turn : turn) * v.H - first; };
  const auto fetch = [&](int64_t turn) {
    if (turn < v.chunks) {
      const auto& from = g_steps[slot_of(turn)];
      auto& to = s.stage[turn % stages];
      for (int e = thread; e < tokens * 8; e += walk_threads) {
        cuda::copy_async(&to.w.at[e / 8][e % 8 * 8], &from.w[e / 8][e % 8 * 8]);
        cuda::copy_async(&to.b.at[e / 8][e % 8 * 8], &from.b[e / 8][e % 8 * 8]);
        cuda::copy_async(&to.n[0][0][0] + e, &from.n[0][0][0] + e);
        if constexpr (!backward) {
          cuda::copy_async(&to.r[0][0][0] + e, &from.r[0][0][0] + e);
          cuda::copy_async(&to.y[0][0][0] + e, &from.y[0][0][0] + e);
        }
      }
      if (thread < 33) cuda::copy_async(&to.scale[0][0] + thread * 4, &from.scale[0][0] + thread * 4);  // and `keeps`
    }
    cuda::copy_async_commit();
  };

  float S[8][4];  // [V,K]: rows row and row + 8 of the warp's 16; columns 8 t + column, + 1
  const float* initial = g_initial ? g_initial + bh * channels * channels : nullptr;
#pragma unroll
  for (int t = 0; t < 8; ++t)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      S[t][e] = initial ? initial[(t * 8 + column + e % 2) * channels + warp * block + row + e / 2 * 8] : 0.0f;

#pragma unroll
  for (int t = 0; t + 1 < stages; ++t) fetch(t);
  for (int64_t turn = 0; turn < v.chunks; ++turn) {
    cuda::copy_async_wait<stages - 2>();
    meet();  // this chunk has come for all; the stage of the one before is free
    fetch(turn + stages - 1);
    const auto& step = s.stage[turn % stages];

    // S becomes S~; its copy in bf16 is what all products see.
    const float *scale_in = step.scale[backward], *scale_out = step.scale[!backward];
    uint32_t x[4][4];
#pragma unroll
    for (int q = 0; q < 4; ++q) {
#pragma unroll
      for (int t = 2 * q; t < 2 * q + 2; ++t) {
        const float2 by = *reinterpret_cast<const float2*>(scale_in + t * 8 + column);
        S[t][0] *= by.x, S[t][1] *= by.y, S[t][2] *= by.x, S[t][3] *= by.y;
        x[q][t % 2 * 2] = cuda::pack_bf16(S[t][0], S[t][1]);
        x[q][t % 2 * 2 + 1] = cuda::pack_bf16(S[t][2], S[t][3]);
      }
    }
    if (g_states) {
      bf16* to = g_states + (slot_of(turn) * channels + warp * block + row) * channels + column;
#pragma unroll
      for (int q = 0; q < 4; ++q)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          *reinterpret_cast<uint32_t*>(to + i % 2 * 8 * channels + q * block + i / 2 * 8) = x[q][i];
    }

    // (W S~)^T, or (b^ Z~)^T
    uint32_t read[blocks][4];
#pragma unroll
    for (int I = 0; I < blocks; ++I) {
      Sum sum = {};
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        uint32_t f[4];
        if constexpr (backward) load_right_turned(f, &step.b.at[I * block][q * block]);
        else load_right(f, &step.w.at[q * block][I * block]);
        multiply(sum, x[q], f);
      }
      pack(read[I], sum);
    }
    if constexpr (!backward) {
      const int64_t begin = turn * tokens;
      bf16* to = g_y + ((n * v.steps + begin) * v.H + h) * channels + warp * block + column;
#pragma unroll
      for (int I = 0; I < blocks; ++I) {
        const uint4 given = step.y[warp][I][lane];
        const uint32_t f[4] = {given.x, given.y, given.z, given.w};
        Sum y;
        unpack(y, f);
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          const uint4 left = step.r[I][q][lane];
          const uint32_t r[4] = {left.x, left.y, left.z, left.w};
          multiply_turned(y, r, x[q]);
        }
        uint32_t out[4];
        pack(out, y);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int64_t t = I * block + row + i % 2 * 8;
          if (begin + t < v.steps) *reinterpret_cast<uint32_t*>(to + t * v.H * channels + i / 2 * 8) = out[i];
        }
      }
    }

    // The state after the chunk, or its gradient before it.
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const uint4 given = step.n[warp][q][lane];
      const uint32_t f[4] = {given.x, given.y, given.z, given.w};
      Sum next;
      unpack(next, f);
#pragma unroll
      for (int t = 0; t < 2; ++t)
#pragma unroll
        for (int e = 0; e < 4; ++e) next[t][e] += step.keeps * S[2 * q + t][e];
#pragma unroll
      for (int I = 0; I < blocks; ++I) {
        uint32_t b[4];
        if constexpr (backward) load_right_turned(b, &step.w.at[q * block][I * block]);
        else load_right(b, &step.b.at[I * block][q * block]);
        multiply(next, read[I], b);
      }
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        const float2 by = *reinterpret_cast<const float2*>(scale_out + (2 * q + t) * 8 + column);
        S[2 * q + t][0] = next[t][0] * by.x, S[2 * q + t][1] = next[t][1] * by.y;
        S[2 * q + t][2] = next[t][2] * by.x, S[2 * q + t][3] = next[t][3] * by.y;
      }
    }
  }
  if (backward) meet();
  if (!g_final) return;
#pragma unroll
  for (int t = 0; t < 8; ++t)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      g_final[(bh * channels + t * 8 + column + e % 2) * channels + warp * block + row + e / 2 * 8] = S[t][e];
}

}  // namespace taper::kernels::dplr_tiles
