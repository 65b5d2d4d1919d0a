// gla_scan on CUDA in bf16: the pass that walks the chunks with the state, forward or backward. Every element of a state
// has its own recurrence from chunk to chunk, so a state is cut along K and along V.
//   S <- diag(D_L-) S + sum_j (k_j * D_Lj) v_j^T        backward: Z <- diag(D_L-) Z + sum_i (q_i * D_i-) dy_i^T
// A thread has 16 tokens of one channel: it sums log_a towards the chunk's end (backward: from its begin) and asks for the
// next chunk's numbers before it works on this one's. A warp keeps [16,32] of the state in its registers, in f32.
#pragma once
#include "cuda/ops/gla_scan_chunk.cuh"

namespace taper::kernels::gla_bf16 {

constexpr int stages = 3;  // chunks of v or d_y in shared memory

template <int parts, bool backwards>  // parts: of 16 channels each
__global__ void __launch_bounds__(64 * parts) states_kernel(const bf16* g_x,       // [B,T,H,K] k, or q
                                                            const float* g_log_a,  // [B,T,H,K]
                                                            const bf16* g_y,       // [B,T,H,V] v, or d_y
                                                            const float* g_first,  // [B,H,K,V]; absent: 0
                                                            bf16* g_states,        // [B,count,H,K,V] before, or after each chunk
                                                            float* g_last,         // [B,H,K,V]; absent: not wanted
                                                            Window z) {
  constexpr int width = 16 * parts;
  __shared__ __align__(16) uint16_t s_x[tokens][width + pad];             // the decayed k or q
  __shared__ __align__(16) uint16_t s_y[stages][tokens][columns + pad];
  __shared__ float s_total[blocks][width], s_whole[width];
  __shared__ int s_sees_from[tokens];
  const int64_t k_tiles = (z.K + width - 1) / width, v_tiles = (z.V + columns - 1) / columns;
  const int64_t head = blockIdx.x / (k_tiles * v_tiles), n0 = blockIdx.x / v_tiles % k_tiles * width;
  const int64_t p0 = blockIdx.x % v_tiles * columns, KV = z.K * z.V;
  const int column = int(threadIdx.x) % width, block = int(threadIdx.x) / width;  // of this thread's tokens
  const int part = warp() / 2, half = warp() % 2, g = lane() / 4, q = lane() % 4;  // of this warp's piece of the state
  const int64_t row = n0 + part * 16, left = p0 + half * 32;

  float r_S[4][4];  // [n, p] of tile t: mma.cuh's D
#pragma unroll
  for (int t = 0; t < 4; ++t)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t n = row + g + e / 2 * 8, p = left + 8 * t + 2 * q + e % 2;
      r_S[t][e] = g_first && n < z.K && p < z.V ? g_first[head * KV + n * z.V + p] : 0.0f;
    }

  const auto chunk = [&](int64_t step) {
    return Chunk(z, head / z.H, backwards ? z.count - 1 - step : step, head % z.H);
  };
  float r_log_a[rows];
  bf16 r_x[rows];
  int r_sees_from = -1;
  const auto ask = [&](int64_t step) {
    const Chunk c = chunk(step);
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const int t = block * rows + i;
      const bool inside = t < c.length && n0 + column < z.K;
      const int64_t at = (c.first + t * z.H) * z.K + n0 + column;
      r_log_a[i] = inside ? g_log_a[at] : 0.0f;
      r_x[i] = inside ? g_x[at] : bf16(0.0f);
    }
    if (threadIdx.x < tokens) r_sees_from = c.sees_from(z, int(threadIdx.x));
  };
  const auto ask_y = [&](int64_t step) {
    if (step < z.count) {
      const Chunk c = chunk(step);
      copy_columns(reinterpret_cast<bf16*>(s_y[step % stages]), tokens, g_y ? g_y + c.first * z.V : g_x, z.H * z.V,
                   g_y ? c.length : 0, p0, z.V);
    }
    cuda::copy_async_commit();
  };
  for (int step = 0; step < stages - 1; ++step) ask_y(step);
  ask(0);

  for (int64_t step = 0; step < z.count; ++step) {
    const Chunk c = chunk(step);
    float r_sum[rows], total = 0;
    bf16 r_now[rows];
#pragma unroll
    for (int e = 0; e < rows; ++e) {
      const int i = backwards ? e : rows - 1 - e;
      if (!backwards) r_sum[i] = total;
      total += r_log_a[i];
      if (backwards) r_sum[i] = total;
      r_now[i] = r_x[i];
    }
    s_total[block][column] = total;
    if (threadIdx.x < tokens) s_sees_from[threadIdx.x] = r_sees_from;
    __syncthreads();  // and the products of the step before are done: s_x and one s_y are free
    ask_y(step + stages - 1);
    if (step + 1 < z.count) ask(step + 1);

    float beyond = 0;  // log_a of the blocks between this one and the chunk's end, or begin
#pragma unroll
    for (int other = 0; other < blocks; ++other)
      if (backwards ? other < block : other > block) beyond += s_total[other][column];
    const int last = s_sees_from[c.length - 1];
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const int t = block * rows + i;
      const bool seen = backwards ? s_sees_from[t] < 0 : t >= last;
      const float decay = seen ? __expf(r_sum[i] + beyond) * (backwards ? z.scale : 1.0f) : 0.0f;
      s_x[t][column] = uint16_t(cuda::pack_bf16(float(r_now[i]) * decay, 0.0f));
    }
    if (block == 0) {
      const float sum = s_total[0][column] + s_total[1][column] + s_total[2][column] + s_total[3][column];
      s_whole[column] = last < 0 ? math::exp(sum) : 0.0f;
    }
    cuda::copy_async_wait<stages - 1>();
    __syncthreads();

    const int64_t number = (c.b * z.count + c.begin / tokens) * z.H + c.h;
    store_tile(r_S, g_states + number * KV + row * z.V, z.V, int(z.K - row), left, z.V);
    const float upper = s_whole[part * 16 + g], lower = s_whole[part * 16 + g + 8];
#pragma unroll
    for (int t = 0; t < 4; ++t) r_S[t][0] *= upper, r_S[t][1] *= upper, r_S[t][2] *= lower, r_S[t][3] *= lower;
    const bf16* s_values = reinterpret_cast<const bf16*>(s_y[step % stages]);
#pragma unroll
    for (int t = 0; t < tokens; t += 16) {
      uint32_t a[4];
      load_a_transposed(a, reinterpret_cast<const bf16*>(&s_x[t][part * 16]), width + pad);
#pragma unroll
      for (int two = 0; two < 2; ++two) {
        uint32_t b[2][2];
        load_b_of_rows(b, s_values + t * (columns + pad) + half * 32 + two * 16, columns + pad);
        cuda::mma_bf16(r_S[2 * two], a, b[0]);
        cuda::mma_bf16(r_S[2 * two + 1], a, b[1]);
      }
    }
  }
  if (!g_last) return;
#pragma unroll
  for (int t = 0; t < 4; ++t)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t n = row + g + r * 8, p = left + 8 * t + 2 * q;
      if (n < z.K && p < z.V) *reinterpret_cast<float2*>(g_last + head * KV + n * z.V + p) = {r_S[t][2 * r], r_S[t][2 * r + 1]};
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
  states_kernel<parts, backwards><<<cuda::blocks_for(z.B * z.H * k_tiles * v_tiles, 1), 64 * parts, 0, stream>>>(
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
