// delta_scan on CUDA in bf16, backward: d state walks the chunks from the last to the first, as in forward; then the
// rest of every chunk at once. With T the inverse of I + B diag(beta) that the forward pass uses, l needs no other:
//   l = T^T (beta w'),  w' = P^T dY + exp(G_L - G_j) K Z      (T^T diag(beta) = diag(beta) (I + diag(beta) B)^-T)
#pragma once
#include <algorithm>

#include "cuda/ops/delta_scan_forward.cuh"
#include "cuda/ops/delta_scan_gradients.cuh"

namespace taper::kernels::delta_bf16 {

template <int keys>
__global__ void __launch_bounds__(256, 1) d_states_kernel(View v, Prepared p, int splits,
                                                          const bf16* g_d_y,       // [B,T,H,V] or absent
                                                          const float* g_d_final,  // [B,H,K,V] or absent
                                                          bf16* g_d_states,  // [B,chunks,H] of tiles: after each chunk
                                                          bf16* g_d_v,       // [B,T,H,V]: l
                                                          float* g_d_initial)  // [B,H,K,V] or absent
{
  extern __shared__ __align__(16) unsigned char s_bytes[];
  Stage<keys>* s_stages = reinterpret_cast<Stage<keys>*>(s_bytes);
  Turn& s_turn = reinterpret_cast<Turn*>(s_stages + 2)[warp()];
  const unsigned bh = blockIdx.x / splits, n = bh / unsigned(v.H), h = bh % unsigned(v.H);
  const int64_t left = int64_t(blockIdx.x % splits) * (blockDim.x / 2);
  const int width = int(min(int64_t(blockDim.x / 2), v.V - left)), mine = 16 * warp();
  const int64_t column = left + mine;
  const int q = lane() % 4;
  const bool works = mine < width;
  const float scale = float(v.scale);

  float state[keys / 8][4];  // Z^T
  load_running<keys>(state, works && g_d_final ? g_d_final + bh * v.KV + column : nullptr, v.K, v.V);
  load_stage(s_stages[0], v, p, g_d_y, Chunk(v, n, v.chunks - 1, h), left, width);
  cuda::copy_async_commit();

  for (int64_t at = v.chunks - 1; at >= 0; --at) {
    const Chunk c(v, n, at, h);
    const Stage<keys>& s = s_stages[(v.chunks - 1 - at) % 2];
    cuda::copy_async_wait<0>();
    __syncthreads();  // this chunk is here, and the other place is read
    if (at > 0) load_stage(s_stages[(v.chunks - at) % 2], v, p, g_d_y, Chunk(v, n, at - 1, h), left, width);
    cuda::copy_async_commit();
    if (!works) continue;

    // beta w'^T, then l^T: columns g and g + 8 of tokens 8m + 2q, 2q+1.
    float w[8][4] = {}, l[8][4] = {};
    {
      uint32_t after[keys / 16][4];
#pragma unroll
      for (int x = 0; x < keys / 16; ++x) to_a(after[x], state[2 * x], state[2 * x + 1]);
      store_state<keys>(g_d_states + c.index * v.KV, after, v.K, column);
#pragma unroll
      for (int x = 0; x < keys / 16; ++x)
#pragma unroll
        for (int m = 0; m < 8; m += 2) {
          uint32_t b[4];
          load_b_transposed(b, s.k, 8 * m, 16 * x);
          multiply(w[m], w[m + 1], after[x], b);
        }
    }
#pragma unroll
    for (int m = 0; m < 8; ++m) {
      const float sent[2] = {s.sent[8 * m + 2 * q], s.sent[8 * m + 2 * q + 1]};
#pragma unroll
      for (int x = 0; x < 4; ++x) w[m][x] *= sent[x % 2];
    }
    uint32_t dy[4][4];
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      load_a_transposed(dy[x], s.values, 16 * x, mine);
#pragma unroll
      for (int m = 0; m < 2 * x + 2; m += 2) {  // scores and inverse are lower triangular
        uint32_t b[4];
        load_b(b, s.scores, 16 * x, 8 * m);
        multiply(w[m], w[m + 1], dy[x], b);
      }
    }
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      uint32_t a[4], b[4];
      to_a(a, w[2 * x], w[2 * x + 1]);
#pragma unroll
      for (int m = 0; m < 2 * x + 2; m += 2) {
        load_b(b, s.inverse, 16 * x, 8 * m);
        multiply(l[m], l[m + 1], a, b);
      }
    }
    uint32_t sent[8][2];
#pragma unroll
    for (int m = 0; m < 8; ++m) {
      sent[m][0] = cuda::pack_bf16(l[m][0], l[m][1]);
      sent[m][1] = cuda::pack_bf16(l[m][2], l[m][3]);
    }
    store_turned(s_turn, sent, g_d_v + c.head * v.V + column, v.H * v.V, c.L);

    const float whole = s.in[rows - 1];
#pragma unroll
    for (int m = 0; m < keys / 8; ++m)
#pragma unroll
      for (int x = 0; x < 4; ++x) state[m][x] *= whole;
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      uint32_t b[4], from_y[4], from_e[4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {  // dy[x][2m], [2m+1]: tokens 16x + 8m + 2q, 2q+1
        const int t = 16 * x + 8 * m + 2 * q;
        const float in[2] = {s.in[t], s.in[t + 1]};
#pragma unroll
        for (int y = 0; y < 2; ++y) {
          from_y[2 * m + y] =
              cuda::pack_bf16(scale * in[0] * low(dy[x][2 * m + y]), scale * in[1] * high(dy[x][2 * m + y]));
          from_e[2 * m + y] = cuda::pack_bf16(-in[0] * l[2 * x + m][2 * y], -in[1] * l[2 * x + m][2 * y + 1]);
        }
      }
#pragma unroll
      for (int m = 0; m < keys / 8; m += 2) {
        load_b(b, s.q, 16 * x, 8 * m);
        multiply(state[m], state[m + 1], from_y, b);
        load_b(b, s.k, 16 * x, 8 * m);
        multiply(state[m], state[m + 1], from_e, b);
      }
    }
  }
  if (works && g_d_initial) store_running<keys>(state, g_d_initial + bh * v.KV + column, v.K, v.V);
}

// What a block of either pass needs at most.
template <int keys>
constexpr int64_t shared_bytes() {
  return std::max<int64_t>({prepare_shared_bytes<keys>(), walk_shared_bytes<keys>(most_columns / 16),
                            int64_t(sizeof(GradientsShared<keys>))});
}

template <int keys>
void backward(const DeltaScanBackward& a, const View& v) {
  Device& device = a.device();
  const Preparation p = prepare<keys>(device, v);
  const Tensor d_states = empty_like(a.states);
  const Split split(v);
  // What the caller hands over may lie anywhere; copies want 16 bytes.
  const bool aligned = !a.d_y || cuda::vector_fits<bf16>(8, v.V, {a.d_y.data<bf16>()});
  const Tensor d_y = aligned ? a.d_y : clone(a.d_y);
  const bf16* g_d_y = d_y ? d_y.data<bf16>() : nullptr;
  launch(d_states_kernel<keys>, v.B * v.H * split.count, 32 * split.warps, walk_shared_bytes<keys>(split.warps), device,
         v, p.parts, split.count, g_d_y, a.d_final ? a.d_final.data<float>() : nullptr, d_states.data<bf16>(),
         a.d_v.data<bf16>(), a.d_initial ? a.d_initial.data<float>() : nullptr);
  launch(gradients_kernel<keys>, v.B * v.chunks * v.H, 256, sizeof(GradientsShared<keys>), device, v,
         a.states.data<bf16>(), d_states.data<bf16>(), a.errors.data<bf16>(), a.d_v.data<bf16>(), g_d_y,
         a.d_q.data<bf16>(), a.d_k.data<bf16>(), a.d_log_a.data<float>(), a.d_beta.data<float>());
}

}  // namespace taper::kernels::delta_bf16
