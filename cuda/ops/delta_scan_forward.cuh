// delta_scan on CUDA in bf16, forward: the state walks the chunks, errors and outputs on its way.
//
// A warp owns 16 columns of the state for good and keeps them transposed, S^T [16,K], in its registers in f32. All of a
// chunk is then a chain of products whose left operand the warp already holds (mma.cuh: D becomes A):
//   r^T = V^T - in (S^T K^T),   e^T = r^T T^T,   S^T <- whole S^T + (sent e)^T K,
// and what it holds is also the right operand of y = scale in (Q S) + P e. Warps meet only where copies arrive.
#pragma once
#include "cuda/ops/delta_scan_prepare.cuh"

namespace taper::kernels::delta_bf16 {

constexpr int most_columns = 128;  // of a state in one block: 8 warps

template <int keys>
struct Stage {  // a chunk in shared memory
  bf16 k[rows][keys + pad], q[rows][keys + pad];
  bf16 values[rows][most_columns + pad];  // v, or d_y
  bf16 inverse[rows][rows + pad], scores[rows][rows + pad];
  float in[rows], sent[rows];
};
struct Turn {  // where a warp turns its [16,64] over: tiles of 8x8
  uint32_t tile[16][32];
};

template <int keys>
constexpr int walk_shared_bytes(int warps) {
  return 2 * int(sizeof(Stage<keys>)) + warps * int(sizeof(Turn));
}

// Asks for a chunk; `width` columns from `left` on of the values, which may be absent.
template <int keys>
__device__ void load_stage(Stage<keys>& s, const View& v, const Prepared& p, const bf16* g_values, const Chunk& c,
                           int64_t left, int width) {
  copy_tile<keys>(s.k, v.k + c.head * v.K, v.H * v.K, c.L, int(v.K));
  copy_tile<keys>(s.q, v.q + c.head * v.K, v.H * v.K, c.L, int(v.K));
  copy_tile<most_columns>(s.values, g_values ? g_values + c.head * v.V + left : v.k, v.H * v.V, g_values ? c.L : 0,
                          width);
  copy_tile<rows>(s.inverse, p.inverse + c.index * rows * rows, rows, rows, rows);
  copy_tile<rows>(s.scores, p.scores + c.index * rows * rows, rows, rows, rows);
  for (int x = threadIdx.x; x < rows / 2; x += blockDim.x) {
    const int at = x % (rows / 4) * 4;
    if (x < rows / 4) cuda::copy_async(s.in + at, p.in + c.index * rows + at);
    else cuda::copy_async(s.sent + at, p.sent + c.index * rows + at);
  }
}

// A warp's [16 columns, 64 tokens], of which a lane holds column g (and g+8) of tokens 8n + 2q, 2q+1, as rows of
// tokens.
__device__ inline void store_turned(Turn& s, const uint32_t (&w)[8][2], bf16* g_rows, int64_t row_stride, int tokens) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    s.tile[2 * n][lane()] = w[n][0];
    s.tile[2 * n + 1][lane()] = w[n][1];
  }
  __syncwarp();
  int t = lane() / 4;
  bf16* row = g_rows + t * row_stride;
#pragma unroll
  for (int n = 0; n < 8; n += 2) {
    uint32_t r[4];
    cuda::ldmatrix_x4_trans(r, &s.tile[2 * n + lane() / 8][lane() % 8 * 4]);
#pragma unroll
    for (int x = 0; x < 4; x += 2, t += 8, row += 8 * row_stride) store_row(row, r[x], r[x + 1], t < tokens);
  }
  __syncwarp();
}

// A state is kept between the passes as tiles of 8 columns by 8 keys, [V/8,K/8,8,8]: fragments as they are.
template <int keys>
__device__ void store_state(bf16* g_state, const uint32_t (&a)[keys / 16][4], int64_t K, int64_t column) {
  uint32_t* to = reinterpret_cast<uint32_t*>(g_state) + column / 8 * (K / 8) * 32 + lane();
#pragma unroll
  for (int s = 0; s < keys / 16; ++s)
    if (16 * s < K) {
      to[2 * s * 32] = a[s][0];
      to[(2 * s + 1) * 32] = a[s][2];
      to[(2 * s + K / 8) * 32] = a[s][1];
      to[(2 * s + 1 + K / 8) * 32] = a[s][3];
    }
}

// The running state of a warp, S^T: lane 4g + q has columns g and g + 8 of keys 8n + 2q, 2q+1.
template <int keys>
__device__ void load_running(float (&s)[keys / 8][4], const float* g_state, int64_t K,
                             int64_t V) {  // [K,V] from the warp's column
#pragma unroll
  for (int n = 0; n < keys / 8; ++n)
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      const int key = 8 * n + lane() % 4 * 2 + x % 2, column = lane() / 4 + x / 2 * 8;
      s[n][x] = g_state && key < K ? g_state[key * V + column] : 0.0f;
    }
}
template <int keys>
__device__ void store_running(const float (&s)[keys / 8][4], float* g_state, int64_t K, int64_t V) {
#pragma unroll
  for (int n = 0; n < keys / 8; ++n)
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      const int key = 8 * n + lane() % 4 * 2 + x % 2, column = lane() / 4 + x / 2 * 8;
      if (key < K) g_state[key * V + column] = s[n][x];
    }
}

template <int keys>
__global__ void __launch_bounds__(256, 1) forward_kernel(View v, Prepared p, int splits,
                                                         bf16* g_y,       // [B,T,H,V]
                                                         float* g_final,  // [B,H,K,V]
                                                         bf16* g_states,  // [B,chunks,H] of tiles
                                                         bf16* g_errors)  // [B,T,H,V]
{
  extern __shared__ __align__(16) unsigned char s_bytes[];
  Stage<keys>* s_stages = reinterpret_cast<Stage<keys>*>(s_bytes);
  Turn& s_turn = reinterpret_cast<Turn*>(s_stages + 2)[warp()];
  const unsigned bh = blockIdx.x / splits, n = bh / unsigned(v.H), h = bh % unsigned(v.H);
  const int64_t left = int64_t(blockIdx.x % splits) * (blockDim.x / 2);
  const int width = int(min(int64_t(blockDim.x / 2), v.V - left)), mine = 16 * warp();
  const int64_t column = left + mine;
  const int g = lane() / 4, q = lane() % 4;
  const bool works = mine < width;
  const float scale = float(v.scale);

  float state[keys / 8][4];
  load_running<keys>(state, works && v.initial ? v.initial + bh * v.KV + column : nullptr, v.K, v.V);
  load_stage(s_stages[0], v, p, v.v, Chunk(v, n, 0, h), left, width);
  cuda::copy_async_commit();

  for (int64_t at = 0; at < v.chunks; ++at) {
    const Chunk c(v, n, at, h);
    const Stage<keys>& s = s_stages[at % 2];
    cuda::copy_async_wait<0>();
    __syncthreads();  // this chunk is here, and the other place is read
    if (at + 1 < v.chunks) load_stage(s_stages[(at + 1) % 2], v, p, v.v, Chunk(v, n, at + 1, h), left, width);
    cuda::copy_async_commit();
    if (!works) continue;

    uint32_t before[keys / 16][4];
#pragma unroll
    for (int x = 0; x < keys / 16; ++x) to_a(before[x], state[2 * x], state[2 * x + 1]);
    store_state<keys>(g_states + c.index * v.KV, before, v.K, column);

    // r^T, e^T: columns g and g + 8 of tokens 8m + 2q, 2q+1.
    float r[8][4] = {}, e[8][4] = {};
#pragma unroll
    for (int x = 0; x < keys / 16; ++x)
#pragma unroll
      for (int m = 0; m < 8; m += 2) {
        uint32_t b[4];
        load_b_transposed(b, s.k, 8 * m, 16 * x);
        multiply(r[m], r[m + 1], before[x], b);
      }
#pragma unroll
    for (int m = 0; m < 8; m += 2) {
      uint32_t value[4];
      load_a_transposed(value, s.values, 8 * m, mine);
#pragma unroll
      for (int x = 0; x < 2; ++x) {
        const float in[2] = {s.in[8 * (m + x) + 2 * q], s.in[8 * (m + x) + 2 * q + 1]};
        r[m + x][0] = low(value[2 * x]) - in[0] * r[m + x][0];
        r[m + x][1] = high(value[2 * x]) - in[1] * r[m + x][1];
        r[m + x][2] = low(value[2 * x + 1]) - in[0] * r[m + x][2];
        r[m + x][3] = high(value[2 * x + 1]) - in[1] * r[m + x][3];
      }
    }
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      uint32_t a[4], b[4];
      to_a(a, r[2 * x], r[2 * x + 1]);
#pragma unroll
      for (int m = 2 * x; m < 8; m += 2) {  // the inverse is lower triangular
        load_b_transposed(b, s.inverse, 8 * m, 16 * x);
        multiply(e[m], e[m + 1], a, b);
      }
    }
    uint32_t error[8][2];
#pragma unroll
    for (int m = 0; m < 8; ++m) {
      error[m][0] = cuda::pack_bf16(e[m][0], e[m][1]);
      error[m][1] = cuda::pack_bf16(e[m][2], e[m][3]);
    }
    store_turned(s_turn, error, g_errors + c.head * v.V + column, v.H * v.V, c.L);

    // y: tokens 16m + g (and g + 8) of columns 2q, 2q+1 (and 2q+8, 2q+9).
    float d[4][2][4] = {};
#pragma unroll
    for (int x = 0; x < keys / 16; ++x) {
      const uint32_t b[4] = {before[x][0], before[x][2], before[x][1], before[x][3]};
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        uint32_t a[4];
        load_a(a, s.q, 16 * m, 16 * x);
        multiply(d[m][0], d[m][1], a, b);
      }
    }
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const float in[2] = {scale * s.in[16 * m + g], scale * s.in[16 * m + 8 + g]};
#pragma unroll
      for (int x = 0; x < 4; ++x) {
        d[m][0][x] *= in[x / 2];
        d[m][1][x] *= in[x / 2];
      }
    }
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      const uint32_t b[4] = {error[2 * x][0], error[2 * x + 1][0], error[2 * x][1], error[2 * x + 1][1]};
#pragma unroll
      for (int m = x; m < 4; ++m) {
        uint32_t a[4];
        load_a(a, s.scores, 16 * m, 16 * x);
        multiply(d[m][0], d[m][1], a, b);
      }
    }
    int t = g;
    bf16* y = g_y + (c.head + t * v.H) * v.V + column;
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
      for (int x = 0; x < 4; x += 2, t += 8, y += 8 * v.H * v.V)
        store_row(y, cuda::pack_bf16(d[m][0][x], d[m][0][x + 1]), cuda::pack_bf16(d[m][1][x], d[m][1][x + 1]), t < c.L);

    const float whole = s.in[rows - 1];
#pragma unroll
    for (int m = 0; m < keys / 8; ++m)
#pragma unroll
      for (int x = 0; x < 4; ++x) state[m][x] *= whole;
#pragma unroll
    for (int x = 0; x < 4; ++x) {
#pragma unroll
      for (int m = 2 * x; m < 2 * x + 2; ++m) {
        const float sent[2] = {s.sent[8 * m + 2 * q], s.sent[8 * m + 2 * q + 1]};
#pragma unroll
        for (int y = 0; y < 4; ++y) e[m][y] *= sent[y % 2];
      }
      uint32_t a[4], b[4];
      to_a(a, e[2 * x], e[2 * x + 1]);
#pragma unroll
      for (int m = 0; m < keys / 8; m += 2) {
        load_b(b, s.k, 16 * x, 8 * m);
        multiply(state[m], state[m + 1], a, b);
      }
    }
  }
  if (works) store_running<keys>(state, g_final + bh * v.KV + column, v.K, v.V);
}

// How the columns of a state are shared out: so few heads that most of the GPU would rest get narrow blocks.
struct Split {
  int count, warps;
  explicit Split(const View& v) {
    int64_t columns = most_columns;
    while (columns > 32 && v.B * v.H * ((v.V + columns - 1) / columns) < 72) columns /= 2;
    count = int((v.V + columns - 1) / columns);
    warps = int((v.V / 16 + count - 1) / count);
    count = int((v.V / 16 + warps - 1) / warps);
  }
};

template <int keys>
void forward(const DeltaScanForward& a, const View& v) {
  Device& device = a.device();
  const Preparation p = prepare<keys>(device, v);
  const Split split(v);
  launch(forward_kernel<keys>, v.B * v.H * split.count, 32 * split.warps, walk_shared_bytes<keys>(split.warps), device,
         v, p.parts, split.count, a.y.data<bf16>(), a.final.data<float>(), a.states.data<bf16>(),
         a.errors.data<bf16>());
}

}  // namespace taper::kernels::delta_bf16
