// gla_scan on CUDA in bf16, forward: the outputs of a chunk, given the state before it. All chunks are independent.
//   y = A V + (q * D_i-) S, 64 values at a time; the copies of the first stages run while the operands are made.
#pragma once
#include "cuda/ops/gla_scan_chunk.cuh"

namespace taper::kernels::gla_bf16 {

template <int keys>
struct OutputStage {
  bf16 v[tokens][columns + pad], S[keys][columns + pad];
};
template <int keys>
struct OutputShared {
  static constexpr int stages = keys <= 96 ? 3 : 2;
  OutputStage<keys> stage[stages];
  Operands<keys> operands;
};

template <int keys>
__global__ void __launch_bounds__(threads, keys <= 128 ? 2 : 1) outputs_kernel(const bf16* g_q,        // [B,T,H,K]
                                                                               const bf16* g_k,        // [B,T,H,K]
                                                                               const bf16* g_v,        // [B,T,H,V]
                                                                               const float* g_log_a,   // [B,T,H,K]
                                                                               const bf16* g_states,   // [B,count,H,K,V]
                                                                               bf16* g_y,              // [B,T,H,V]
                                                                               Window z) {
  extern __shared__ __align__(16) unsigned char s_bytes[];
  OutputShared<keys>& shared = *reinterpret_cast<OutputShared<keys>*>(s_bytes);
  Operands<keys>& s = shared.operands;
  constexpr int stages = OutputShared<keys>::stages, pitch = columns + pad;
  const Chunk c(z, blockIdx.x);
  const int tiles = int((z.V + columns - 1) / columns);
  const auto ask = [&](int tile) {
    if (tile < tiles) {
      OutputStage<keys>& to = shared.stage[tile % stages];
      copy_tile<tokens, columns, threads>(to.v[0], g_v + c.first * z.V, z.H * z.V, c.length, tile * columns, z.V, int(threadIdx.x));
      copy_tile<keys, columns, threads>(to.S[0], g_states + int64_t(blockIdx.x) * z.K * z.V, z.V, int(z.K), tile * columns, z.V, int(threadIdx.x));
    }
    cuda::copy_async_commit();
  };
  const bool middle = load_operands(s, c, g_q, g_k, g_log_a, z, [&] {
#pragma unroll
    for (int tile = 0; tile < stages; ++tile) ask(tile);
  });
  __syncthreads();
  make_pairs(s, middle, c, g_q, g_k, g_log_a, z);

  // A warp has the rows of a block, and half of the values.
  const int I = warp() % blocks, half = warp() / blocks, g = lane() / 4, q = lane() % 4;
  uint32_t r_q[keys / 16][4];  // q * D_i-
  const bool sees_upper = s.sees_from[I * rows + g] < 0, sees_lower = s.sees_from[I * rows + g + 8] < 0;
#pragma unroll
  for (int step = 0; step < keys / 16; ++step) {
    load_a(r_q[step], &s.q[I * rows][step * 16], keys + pad);
    const float* s_way = &s.between[way(0, I + 1)][step * 16 + 2 * q];
    const float2 left = floats_at(s_way), right = floats_at(s_way + 8);
    r_q[step][0] = sees_upper ? scaled(r_q[step][0], left) : 0;
    r_q[step][1] = sees_lower ? scaled(r_q[step][1], left) : 0;
    r_q[step][2] = sees_upper ? scaled(r_q[step][2], right) : 0;
    r_q[step][3] = sees_lower ? scaled(r_q[step][3], right) : 0;
  }

  for (int tile = 0; tile < tiles; ++tile) {
    cuda::copy_async_wait<stages - 1>();
    __syncthreads();  // the tile is there, and before the first the pairs are
    const OutputStage<keys>& from = shared.stage[tile % stages];
    float r_y[4][4] = {};
#pragma unroll
    for (int step = 0; step < keys / 16; ++step)
#pragma unroll
      for (int two = 0; two < 2; ++two) {
        uint32_t b[2][2];
        load_b_of_rows(b, &from.S[step * 16][half * 32 + two * 16], pitch);
        cuda::mma_bf16(r_y[2 * two], r_q[step], b[0]);
        cuda::mma_bf16(r_y[2 * two + 1], r_q[step], b[1]);
      }
    for (int J = 0; J <= I; ++J) {
      uint32_t a[4];
      load_a(a, s.pairs[pair_number(I, J)][0], rows + pad);
#pragma unroll
      for (int two = 0; two < 2; ++two) {
        uint32_t b[2][2];
        load_b_of_rows(b, &from.v[J * rows][half * 32 + two * 16], pitch);
        cuda::mma_bf16(r_y[2 * two], a, b[0]);
        cuda::mma_bf16(r_y[2 * two + 1], a, b[1]);
      }
    }
    store_tile(r_y, g_y + (c.first + I * rows * z.H) * z.V, z.H * z.V, c.length - I * rows, tile * columns + half * 32, z.V);
    if (tile + stages < tiles) __syncthreads();  // before the stage is written again
    ask(tile + stages);
  }
}

template <int keys>
void launch_outputs_of(const Window& z, const GlaScanForward& a, cudaStream_t stream) {
  constexpr int bytes = int(sizeof(OutputShared<keys>));
  cuda::allow_shared(outputs_kernel<keys>, bytes);
  outputs_kernel<keys><<<cuda::blocks_for(z.B * z.count * z.H, 1), threads, bytes, stream>>>(
      a.in.q.data<bf16>(), a.in.k.data<bf16>(), a.in.v.data<bf16>(), a.in.log_a.data<float>(), a.states.data<bf16>(),
      a.y.data<bf16>(), z);
  cuda::cuda_check(cudaGetLastError());
}

}  // namespace taper::kernels::gla_bf16
