// gla_scan on CUDA in bf16: the pass that walks the chunks with the state, forward or backward. Every element of a state
// has its own recurrence from chunk to chunk, so a state is cut along K and along V.
//   S <- diag(D_L-) S + sum_j (k_j * D_Lj) v_j^T        backward: Z <- diag(D_L-) Z + sum_i (q_i * D_i-) dy_i^T
// Between two barriers three chunks are at work: the first multiplies, the second gets its decays, of the third log_a is
// summed; the fourth is on its way. A thread has 8 tokens of two channels; a warp keeps [16,32] of the state in f32.
#pragma once
#include "cuda/ops/gla_scan_chunk.cuh"

namespace taper::kernels::gla_bf16 {

constexpr int stages = 3;                        // chunks of v or d_y in shared memory
constexpr int run = 8, runs = tokens / run;      // tokens of a thread; runs of a chunk

template <int parts>  // of 16 channels each
struct StatesShared {
  bf16 x[2][tokens][16 * parts + pad];  // the decayed k or q
  bf16 y[stages][tokens][columns + pad];
  float total[2][runs][16 * parts], whole[2][16 * parts];
  int sees_from[2][tokens];
};

template <int parts, bool backwards>
__global__ void __launch_bounds__(64 * parts, 2) states_kernel(const bf16* g_x,       // [B,T,H,K] k, or q
                                                            const float* g_log_a,  // [B,T,H,K]
                                                            const bf16* g_y,       // [B,T,H,V] v, or d_y
                                                            const float* g_first,  // [B,H,K,V]; absent: 0
                                                            bf16* g_states,        // [B,count,H,K,V] before, or after each chunk
                                                            float* g_last,         // [B,H,K,V]; absent: not wanted
                                                            Window z) {
  constexpr int width = 16 * parts;
  extern __shared__ __align__(16) unsigned char s_bytes[];
  StatesShared<parts>& s = *reinterpret_cast<StatesShared<parts>*>(s_bytes);
  const int64_t k_tiles = (z.K + width - 1) / width, v_tiles = (z.V + columns - 1) / columns;
  const int64_t head = blockIdx.x / (k_tiles * v_tiles), n0 = blockIdx.x / v_tiles % k_tiles * width;
  const int64_t p0 = blockIdx.x % v_tiles * columns, KV = z.K * z.V;
  const int n = int(threadIdx.x) % (width / 2) * 2, first = int(threadIdx.x) / (width / 2) * run;  // of this thread
  const int part = warp() / 2, half = warp() % 2, g = lane() / 4, q = lane() % 4;  // of this warp's piece of the state
  const int64_t row = n0 + part * 16, left = p0 + half * 32;
  const bool packed = z.packing.start != nullptr, inside = n0 + n < z.K;
  const int stride = int(z.H * z.K);

  float r_S[4][4];  // [n, p] of tile t: mma.cuh's D
#pragma unroll
  for (int t = 0; t < 4; ++t)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t k = row + g + e / 2 * 8, p = left + 8 * t + 2 * q + e % 2;
      r_S[t][e] = g_first && k < z.K && p < z.V ? g_first[head * KV + k * z.V + p] : 0.0f;
    }

  const auto chunk = [&](int64_t step) {
    return Chunk(z, head / z.H, backwards ? z.count - 1 - step : step, head % z.H);
  };
  float2 r_log_a[run], r_sum[run];  // of the chunk on its way; towards the chunk's end, or from its begin, inside the run
  uint32_t r_asked[run], r_x[run];
  int r_sees_from = -1;
  const auto ask = [&](int64_t step) {
    if (step >= z.count) return;
    const Chunk c = chunk(step);
    const float* log_a = g_log_a + c.first * z.K + n0 + n;
    const bf16* x = g_x + c.first * z.K + n0 + n;
#pragma unroll
    for (int i = 0; i < run; ++i) {
      const bool present = first + i < c.length && inside;
      r_log_a[i] = present ? floats_at(log_a + (first + i) * stride) : float2{0, 0};
      r_asked[i] = present ? pair_at(x + (first + i) * stride) : 0;
    }
    if (packed && threadIdx.x < tokens) r_sees_from = c.sees_from(z, int(threadIdx.x));
  };
  const auto ask_y = [&](int64_t step) {
    if (step < z.count) {
      const Chunk c = chunk(step);
      copy_columns<tokens, 64 * parts>(s.y[step % stages][0], g_y ? g_y + c.first * z.V : g_x, z.H * z.V,
                   g_y ? c.length : 0, p0, z.V);
    }
    cuda::copy_async_commit();
  };
  const auto sum = [&](int64_t step) {
    float2 total = {0, 0};
#pragma unroll
    for (int e = 0; e < run; ++e) {
      const int i = backwards ? e : run - 1 - e;
      const float2 next = {total.x + r_log_a[i].x, total.y + r_log_a[i].y};
      r_sum[i] = backwards ? next : total;
      r_x[i] = r_asked[i];
      total = next;
    }
    *reinterpret_cast<float2*>(&s.total[step % 2][first / run][n]) = total;
    if (packed && threadIdx.x < tokens) s.sees_from[step % 2][threadIdx.x] = r_sees_from;
  };
  const auto decay = [&](int64_t step) {
    const int now = int(step % 2);
    float2 beyond = {0, 0}, within = {0, 0};  // log_a of the runs up to the chunk's end, or begin; of the others
#pragma unroll
    for (int other = 0; other < runs; ++other) {
      const float2 total = floats_at(&s.total[now][other][n]);
      const bool between = backwards ? other < first / run : other > first / run;
      beyond = {beyond.x + (between ? total.x : 0), beyond.y + (between ? total.y : 0)};
      within = {within.x + total.x, within.y + total.y};
    }
    const int last = packed ? s.sees_from[now][chunk(step).length - 1] : -1;
#pragma unroll
    for (int i = 0; i < run; ++i) {
      float2 by = {__expf(r_sum[i].x + beyond.x), __expf(r_sum[i].y + beyond.y)};
      if (backwards) by = {by.x * z.scale, by.y * z.scale};
      const bool seen = !packed || (backwards ? s.sees_from[now][first + i] < 0 : first + i >= last);
      *reinterpret_cast<uint32_t*>(&s.x[now][first + i][n]) = seen ? scaled(r_x[i], by) : 0;
    }
    if (first == 0) {
      const float2 whole = {math::exp(within.x), math::exp(within.y)};
      *reinterpret_cast<float2*>(&s.whole[now][n]) = last < 0 ? whole : float2{0, 0};
    }
  };

  for (int step = 0; step < stages - 1; ++step) ask_y(step);
  ask(0);
  sum(0);
  ask(1);
  __syncthreads();
  decay(0);
  if (1 < z.count) sum(1);
  ask(2);
  cuda::copy_async_wait<stages - 2>();
  __syncthreads();
  for (int64_t step = 0; step < z.count; ++step) {
    ask_y(step + stages - 1);
    if (step + 1 < z.count) decay(step + 1);

    const Chunk c = chunk(step);
    const int64_t number = (c.b * z.count + c.begin / tokens) * z.H + c.h;
    store_tile(r_S, g_states + number * KV + row * z.V, z.V, int(z.K - row), left, z.V);
    const float upper = s.whole[step % 2][part * 16 + g], lower = s.whole[step % 2][part * 16 + g + 8];
#pragma unroll
    for (int t = 0; t < 4; ++t) r_S[t][0] *= upper, r_S[t][1] *= upper, r_S[t][2] *= lower, r_S[t][3] *= lower;
    const bf16* s_values = s.y[step % stages][0];
#pragma unroll
    for (int t = 0; t < tokens; t += 16) {
      uint32_t a[4];
      load_a_transposed(a, &s.x[step % 2][t][part * 16], width + pad);
#pragma unroll
      for (int two = 0; two < 2; ++two) {
        uint32_t b[2][2];
        load_b_of_rows(b, s_values + t * (columns + pad) + half * 32 + two * 16, columns + pad);
        cuda::mma_bf16(r_S[2 * two], a, b[0]);
        cuda::mma_bf16(r_S[2 * two + 1], a, b[1]);
      }
    }

    if (step + 2 < z.count) sum(step + 2);
    ask(step + 3);
    cuda::copy_async_wait<stages - 2>();
    __syncthreads();
  }
  if (!g_last) return;
#pragma unroll
  for (int t = 0; t < 4; ++t)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t k = row + g + r * 8, p = left + 8 * t + 2 * q;
      if (k < z.K && p < z.V) *reinterpret_cast<float2*>(g_last + head * KV + k * z.V + p) = {r_S[t][2 * r], r_S[t][2 * r + 1]};
    }
}

// Channels of a block of threads: at most 64; fewer where the heads alone would not fill a GPU.
inline int parts_of(const Window& z) {
  const int64_t v_tiles = (z.V + columns - 1) / columns;
  for (int parts = 4; parts > 1; --parts) {
    const int64_t k_tiles = (z.K + 16 * parts - 1) / (16 * parts);
    const bool wasteful = k_tiles * 16 * parts > z.K && (z.K / 16 + k_tiles - 1) / k_tiles < parts;
    if (!wasteful && z.B * z.H * k_tiles * v_tiles >= 128) return parts;
  }
  return 1;
}

template <int parts, bool backwards>
void launch_states_of(const Window& z, const Tensor& x, const Tensor& log_a, const Tensor& y, const Tensor& first,
                      const Tensor& states, const Tensor& last, cudaStream_t stream) {
  const int64_t k_tiles = (z.K + 16 * parts - 1) / (16 * parts), v_tiles = (z.V + columns - 1) / columns;
  constexpr int bytes = int(sizeof(StatesShared<parts>));
  const auto kernel = states_kernel<parts, backwards>;
  cuda::cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  kernel<<<cuda::blocks_for(z.B * z.H * k_tiles * v_tiles, 1), 64 * parts, bytes, stream>>>(
      x.data<bf16>(), log_a.data<float>(), y ? y.data<bf16>() : nullptr, first ? first.data<float>() : nullptr,
      states.data<bf16>(), last ? last.data<float>() : nullptr, z);
  cuda::cuda_check(cudaGetLastError());
}

template <bool backwards>
void launch_states(const Window& z, const Tensor& x, const Tensor& log_a, const Tensor& y, const Tensor& first,
                   const Tensor& states, const Tensor& last, cudaStream_t stream) {
  const int parts = parts_of(z);
  if (parts == 4) launch_states_of<4, backwards>(z, x, log_a, y, first, states, last, stream);
  else if (parts == 3) launch_states_of<3, backwards>(z, x, log_a, y, first, states, last, stream);
  else if (parts == 2) launch_states_of<2, backwards>(z, x, log_a, y, first, states, last, stream);
  else launch_states_of<1, backwards>(z, x, log_a, y, first, states, last, stream);
}

}  // namespace taper::kernels::gla_bf16
