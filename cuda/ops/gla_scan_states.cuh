// gla_scan on CUDA in bf16: the pass that walks the chunks with the state, forward or backward. Every element of a state
// has its own recurrence from chunk to chunk, so a state is cut along K and along V.
//   S <- diag(D_L-) S + sum_j (k_j * D_Lj) v_j^T        backward: Z <- diag(D_L-) Z + sum_i (q_i * D_i-) dy_i^T
// Two groups of four warps make the operands k * D_Lj, a chunk each in turn: in one step the sums of log_a over runs of 8
// tokens, in the next the decays. The other warps keep [16,32] of the state each, in f32, copy v and multiply. All meet once a
// chunk; log_a and k are asked for four chunks ahead.
#pragma once
#include "cuda/hopper.cuh"
#include "cuda/ops/gla_scan_chunk.cuh"

namespace taper::kernels::gla_bf16 {

constexpr int stages = 3;                    // chunks of v or d_y in shared memory
constexpr int run = 8, runs = tokens / run;  // tokens of a thread; runs of a chunk
constexpr int channels = 32;                 // of a block of threads
constexpr int group = channels / 2 * runs;   // threads that make one chunk's operand

template <int strips>  // of 32 values
struct StatesShared {
  bf16 x[2][tokens][channels + pad];  // the decayed k or q
  bf16 y[stages][tokens][32 * strips + pad];
  float total[2][runs][channels], whole[2][channels];
  int sees_from[2][tokens];
};

template <int strips, bool backwards>
__global__ void __launch_bounds__(2 * group + 64 * strips, 1)
    states_kernel(const bf16* g_x,       // [B,T,H,K] k, or q
                  const float* g_log_a,  // [B,T,H,K]
                  const bf16* g_y,       // [B,T,H,V] v, or d_y; absent: 0
                  const float* g_first,  // [B,H,K,V]; absent: 0
                  bf16* g_states,        // [B,count,H,K,V] before, or after each chunk
                  float* g_last,         // [B,H,K,V]; absent: not wanted
                  Window z) {
  constexpr int values = 32 * strips;
  extern __shared__ __align__(16) unsigned char s_bytes[];
  StatesShared<strips>& s = *reinterpret_cast<StatesShared<strips>*>(s_bytes);
  const int64_t k_tiles = (z.K + channels - 1) / channels, v_tiles = (z.V + values - 1) / values;
  const int64_t head = blockIdx.x / (k_tiles * v_tiles), n0 = blockIdx.x / v_tiles % k_tiles * channels;
  const int64_t p0 = blockIdx.x % v_tiles * values;
  const int count = int(z.count);
  const auto chunk = [&](int step) {
    return Chunk(z, head / z.H, backwards ? count - 1 - step : step, head % z.H);
  };

  // All of the block, from two places of the program. The instruction is older than Hopper.
  const auto meet = [] { cuda::hopper::named_barrier(1, 2 * group + 64 * strips); };

  if (int(threadIdx.x) < 2 * group) {
    // One of the two groups: it makes the operands of the steps of its parity.
    const int mine = int(threadIdx.x) / group % 2, n = int(threadIdx.x) % (channels / 2) * 2;
    const int first = int(threadIdx.x) % group / (channels / 2) * run;
    const bool packed = z.packing.start != nullptr, inside = n0 + n < z.K;
    const int stride = int(z.H * z.K);
    float2 r_log_a[run], r_sum[run];  // of the chunk on its way; towards the chunk's end, or from its begin, inside the run
    uint32_t r_asked[run], r_x[run];
    int r_sees_from = -1;
    const auto ask = [&](int step) {
      if (step >= count) return;
      const Chunk c = chunk(step);
      const float* log_a = g_log_a + c.first * z.K + n0 + n;
      const bf16* x = g_x + c.first * z.K + n0 + n;
#pragma unroll
      for (int i = 0; i < run; ++i) {
        const bool present = first + i < c.length && inside;
        r_log_a[i] = present ? floats_at(log_a + (first + i) * stride) : float2{0, 0};
        r_asked[i] = present ? pair_at(x + (first + i) * stride) : 0;
      }
      const int t = int(threadIdx.x) % group;
      if (packed && t < tokens) r_sees_from = c.sees_from(z, t);
    };
    const auto sum = [&](int step) {
      if (step >= count) return;
      float2 total = {0, 0};
#pragma unroll
      for (int e = 0; e < run; ++e) {
        const int i = backwards ? e : run - 1 - e;
        const float2 next = {total.x + r_log_a[i].x, total.y + r_log_a[i].y};
        r_sum[i] = backwards ? next : total;
        r_x[i] = r_asked[i];
        total = next;
      }
      *reinterpret_cast<float2*>(&s.total[mine][first / run][n]) = total;
      const int t = int(threadIdx.x) % group;
      if (packed && t < tokens) s.sees_from[mine][t] = r_sees_from;
    };
    const auto decay = [&](int step) {
      if (step >= count) return;
      float2 beyond = {0, 0}, within = {0, 0};  // log_a of the runs up to the chunk's end, or begin; of all
#pragma unroll
      for (int other = 0; other < runs; ++other) {
        const float2 total = floats_at(&s.total[mine][other][n]);
        const bool between = backwards ? other < first / run : other > first / run;
        beyond = {beyond.x + (between ? total.x : 0), beyond.y + (between ? total.y : 0)};
        within = {within.x + total.x, within.y + total.y};
      }
      const int last = packed ? s.sees_from[mine][chunk(step).length - 1] : -1;
#pragma unroll
      for (int i = 0; i < run; ++i) {
        float2 by = {fast_exp(r_sum[i].x + beyond.x), fast_exp(r_sum[i].y + beyond.y)};
        if (backwards) by = {by.x * z.scale, by.y * z.scale};
        const bool seen = !packed || (backwards ? s.sees_from[mine][first + i] < 0 : first + i >= last);
        *reinterpret_cast<uint32_t*>(&s.x[mine][first + i][n]) = seen ? scaled(r_x[i], by) : 0;
      }
      if (first == 0) {
        const float2 whole = {math::exp(within.x), math::exp(within.y)};
        *reinterpret_cast<float2*>(&s.whole[mine][n]) = last < 0 ? whole : float2{0, 0};
      }
    };

    ask(mine);
    sum(mine);
    ask(mine + 2);
    meet();
    if (mine == 0) decay(0);
    meet();
    for (int step = 0; step < count; ++step) {
      if (step % 2 != mine) decay(step + 1);
      else {
        sum(step + 2);
        ask(step + 4);
      }
      meet();
    }
    return;
  }

  // One of the warps that hold the state: rows `row` on, columns `left` on.
  const int thread = int(threadIdx.x) - 2 * group, part = warp() % 2, strip = thread / 64, g = lane() / 4, q = lane() % 4;
  const int64_t row = n0 + part * 16, left = p0 + strip * 32, KV = z.K * z.V;
  float r_S[4][4] = {};  // [n, p] of tile t: mma.cuh's D
  const auto ask_y = [&](int step) {
    if (step < count) {
      const Chunk c = chunk(step);
      copy_tile<tokens, values, 64 * strips>(s.y[step % stages][0], g_y ? g_y + c.first * z.V : g_x, z.H * z.V,
                                             g_y ? c.length : 0, p0, z.V, thread);
    }
    cuda::copy_async_commit();
  };

  for (int step = 0; step < stages - 1; ++step) ask_y(step);
#pragma unroll
  for (int t = 0; t < 4; ++t)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t k = row + g + e / 2 * 8, p = left + 8 * t + 2 * q + e % 2;
      if (g_first && k < z.K && p < z.V) r_S[t][e] = g_first[head * KV + k * z.V + p];
    }
  meet();
  cuda::copy_async_wait<stages - 2>();
  meet();
  for (int step = 0; step < count; ++step) {
    ask_y(step + stages - 1);
    const Chunk c = chunk(step);
    const int64_t number = (c.b * z.count + c.begin / tokens) * z.H + c.h;
    store_tile(r_S, g_states + number * KV + row * z.V, z.V, int(z.K - row), left, z.V);
    const float upper = s.whole[step % 2][part * 16 + g], lower = s.whole[step % 2][part * 16 + g + 8];
#pragma unroll
    for (int t = 0; t < 4; ++t) r_S[t][0] *= upper, r_S[t][1] *= upper, r_S[t][2] *= lower, r_S[t][3] *= lower;
    const bf16* s_values = s.y[step % stages][0] + strip * 32;
#pragma unroll
    for (int t = 0; t < tokens; t += 16) {
      uint32_t a[4];
      load_a_transposed(a, &s.x[step % 2][t][part * 16], channels + pad);
#pragma unroll
      for (int two = 0; two < 2; ++two) {
        uint32_t b[2][2];
        load_b_of_rows(b, s_values + t * (values + pad) + two * 16, values + pad);
        cuda::mma_bf16(r_S[2 * two], a, b[0]);
        cuda::mma_bf16(r_S[2 * two + 1], a, b[1]);
      }
    }
    cuda::copy_async_wait<stages - 2>();
    meet();
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

template <int strips, bool backwards>
void launch_states_of(const Window& z, const Tensor& x, const Tensor& log_a, const Tensor& y, const Tensor& first,
                      const Tensor& states, const Tensor& last, cudaStream_t stream) {
  const int64_t k_tiles = (z.K + channels - 1) / channels, v_tiles = (z.V + 32 * strips - 1) / (32 * strips);
  constexpr int bytes = int(sizeof(StatesShared<strips>));
  const auto kernel = states_kernel<strips, backwards>;
  cuda::allow_shared(kernel, bytes);
  kernel<<<cuda::blocks_for(z.B * z.H * k_tiles * v_tiles, 1), 2 * group + 64 * strips, bytes, stream>>>(
      x.data<bf16>(), log_a.data<float>(), y ? y.data<bf16>() : nullptr, first ? first.data<float>() : nullptr,
      states.data<bf16>(), last ? last.data<float>() : nullptr, z);
  cuda::cuda_check(cudaGetLastError());
}

// The more values share a chunk's operand the better, as long as few are none at all and the blocks fill most of a GPU.
template <bool backwards>
void launch_states(const Window& z, const Tensor& x, const Tensor& log_a, const Tensor& y, const Tensor& first,
                   const Tensor& states, const Tensor& last, cudaStream_t stream) {
  const auto fits = [&](int strips, size_t bytes) {
    const int64_t v_tiles = (z.V + 32 * strips - 1) / (32 * strips);
    return v_tiles * 32 * strips - z.V < 64 && z.B * z.H * ((z.K + channels - 1) / channels) * v_tiles >= 96 &&
           int64_t(bytes) <= cuda::most_shared_memory();
  };
  if (fits(8, sizeof(StatesShared<8>))) launch_states_of<8, backwards>(z, x, log_a, y, first, states, last, stream);
  else if (fits(6, sizeof(StatesShared<6>))) launch_states_of<6, backwards>(z, x, log_a, y, first, states, last, stream);
  else if (fits(4, sizeof(StatesShared<4>))) launch_states_of<4, backwards>(z, x, log_a, y, first, states, last, stream);
  else launch_states_of<2, backwards>(z, x, log_a, y, first, states, last, stream);
}

}  // namespace taper::kernels::gla_bf16
