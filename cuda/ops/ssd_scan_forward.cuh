// ssd_scan forward with tensor cores: a block walks the chunks of twice 64 columns of x, of one head or of two.
#pragma once
#include "cuda/ops/ssd_scan_tiles.cuh"

namespace taper::kernels::ssd {

// A walk over the chunks: 8 warps in two sides of 4; a side has 64 columns of one head, a warp 16 of them. Its share of
// the state stays in its registers as S^T [16,N]: the accumulators of S^T are the right operand of C S as they lie.
constexpr int walk_threads = 256, side_columns = 64;

struct Side {  // what a side works on
  int64_t h, p0;
  int columns;  // inside P; 0: nothing

  // Unit u of a group: its heads in order, 64 columns at a time. The last side may be left over.
  __device__ Side(const View<bf16>& v, int64_t group, int64_t unit) {
    const int64_t share = v.H / v.G, p_tiles = (v.P + side_columns - 1) / side_columns;
    const bool present = unit < share * p_tiles;
    if (!present) unit = share * p_tiles - 1;
    h = group * share + unit / p_tiles;
    p0 = unit % p_tiles * side_columns;
    columns = present ? int(v.P - p0) : 0;
  }
};
HOST_DEVICE inline int64_t walks_of(const View<bf16>& v) {
  return v.B * v.G * ((v.H / v.G * ((v.P + side_columns - 1) / side_columns) + 1) / 2);
}

// A warp's share of a state in f32 memory [N,P]: f(tile, accumulator, pointer). g_corner is its first column.
template <int N, class F>
__device__ void for_share(float* g_corner, int64_t P, int N_in, int columns_in, F f) {
  const int g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
  float* g_row = g_corner + 2 * q * P + g;
#pragma unroll
  for (int tile = 0; tile < N / 8; ++tile, g_row += 8 * P)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (8 * tile + 2 * q + e % 2 < N_in && g + e / 2 * 8 < columns_in) f(tile, e, g_row + e % 2 * P + e / 2 * 8);
}

template <int N>
struct ForwardMemory {
  alignas(128) bf16 c[2][rows * pitch_of(N)];
  bf16 b[2][rows * pitch_of(N)], x[2][2][rows * pitch_of(side_columns)];  // by stage; x also by side
  bf16 weights[2][16 * (16 + 32 + 48 + 64 + 4 * 8)];  // by side: (M E dt)_ij, each strip up to its diagonal
  ChunkDecays decays[2];                              // by side
  float write[2][2][rows];                            // by stage and side: exp(G_L - G_j) dt_j
};

template <int N>
__global__ void __launch_bounds__(walk_threads, 1) forward_kernel(View<bf16> v, bf16* g_states,  // [B,chunks,H,P,N]
                                                                  bf16* g_y,                     // [B,T,H,P]
                                                                  float* g_final) {              // [B,H,N,P]
  using Memory = ForwardMemory<N>;
  constexpr int tiles = N / 8, b_pitch = pitch_of(N), x_pitch = pitch_of(side_columns), threads = walk_threads;
  extern __shared__ __align__(128) unsigned char s_bytes[];
  Memory& s = *reinterpret_cast<Memory*>(s_bytes);
  const int thread = int(threadIdx.x), warp = thread / 32, g = thread % 32 / 4, q = thread % 4;
  // Of C B^T a warp makes 16 rows by 32 columns; of the state and of y its side's 16 columns from 16 * strip on.
  const int strip = warp % 4, side = warp / 4;
  const int first = 16 * strip + g, second = first + 8;
  Unfold at;
  const int64_t pairs = walks_of(v) / v.B / v.G, pair = at.next(pairs), group = at.next(v.G), n = at.rest;
  const Side sides[2] = {Side(v, group, 2 * pair), Side(v, group, 2 * pair + 1)};
  const Side my = side ? sides[1] : sides[0];
  const bool one_head = sides[0].h == sides[1].h;
  const int64_t x_row = v.H * v.P, b_row = v.G * v.N;
  const int N_in = int(v.N), chunks = int(v.chunks), P_in = my.columns - 16 * strip;
  const int64_t p0 = my.p0 + 16 * strip;
  const bf16 *g_b = v.g_b + v.group(n, 0, group), *g_c = v.g_c + v.group(n, 0, group);

  auto copy = [&](int k) {
    const int L = int(v.length(k));
    copy_tile<rows, N, threads>(s.c[k % 2], g_c + k * rows * b_row, b_row, L, N_in);
    copy_tile<rows, N, threads>(s.b[k % 2], g_b + k * rows * b_row, b_row, L, N_in);
#pragma unroll
    for (int u = 0; u < 2; ++u)
      copy_tile<rows, side_columns, threads>(s.x[k % 2][u], v.g_x + v.head(n, k * rows, sides[u].h) * v.P + sides[u].p0,
                                             x_row, L, sides[u].columns);
    cuda::copy_async_commit();
  };
  copy(0);
  ChunkTokens tokens;  // by the first warp of each side
  auto finish_tokens = [&](int k) {
    tokens.finish(s.decays[side], k);
    const int j = 2 * (thread % 32);
    const float2 out = two(s.decays[side].out, j);
    *reinterpret_cast<float2*>(&s.write[k % 2][side][j]) = make_float2(out.x * tokens.dt.x, out.y * tokens.dt.y);
  };
  if (strip == 0) {
    tokens.read(v, n, my.h, 0);
    finish_tokens(0);
  }
  float r_state[tiles][4] = {};  // S^T: rows p, columns n
  if (v.g_initial)
    for_share<N>(const_cast<float*>(v.g_initial) + (n * v.H + my.h) * v.N * v.P + p0, v.P, N_in, P_in,
                 [&](int tile, int e, const float* g_from) { r_state[tile][e] = *g_from; });
  const float skip = v.g_d ? v.g_d[my.h] : 0.0f;
  auto weights_at = [&](int side, int strip) {  // behind the strips before it
    return s.weights[side] + 128 * strip * (strip + 2);
  };

  for (int k = 0; k < chunks; ++k) {
    const int L = int(v.length(k));
    const bool more = k + 1 < chunks;
    const bf16 *s_b = s.b[k % 2], *s_c = s.c[k % 2], *s_x = s.x[k % 2][side];
    {  // the state before the chunk, for the backward
      bf16* g_to = g_states + v.state(n, k, my.h) + p0 * v.N;
#pragma unroll
      for (int tile = 0; tile < tiles; tile += 4)
        store_wide(&r_state[tile], g_to + 8 * tile, v.N, P_in, N_in - 8 * tile);
    }
    cuda::copy_async_wait<0>();
    __syncthreads();
    if (more) {
      copy(k + 1);
      if (strip == 0) tokens.read(v, n, my.h, k + 1);
    }

    // M = C B^T for this strip and half of the columns, up to the diagonal; times E dt for both sides' heads.
    const int blocks = max(0, min(2, strip + 1 - 2 * side));  // of 16 columns
    float r_m[2][2][4] = {};
    auto multiply_blocks = [&](auto count) {
#pragma unroll
      for (int e = 0; e < N; e += 16) {
        uint32_t left[4], right[4];
        load_left(left, s_c, b_pitch, 16 * strip, e);
#pragma unroll
        for (int block = 0; block < count(); ++block) {
          load_right_transposed(right, s_b, b_pitch, 32 * side + 16 * block, e);
          multiply(r_m[block][0], r_m[block][1], left, right);
        }
      }
    };
    if (blocks == 1) multiply_blocks(std::integral_constant<int, 1>{});
    if (blocks == 2) multiply_blocks(std::integral_constant<int, 2>{});
    for (int u = 0; u < (one_head ? 1 : 2); ++u) {
      const ChunkDecays& decays = s.decays[u];
      bf16* s_to = weights_at(u, strip);
      const PairWeights of(decays, first, second);
#pragma unroll
      for (int block = 0; block < 2; ++block) {
        if (block >= blocks) continue;
        const int j0 = 32 * side + 16 * block;
        float w[2][4];
        if (j0 < 16 * strip) of.before(w, decays, j0);
        else of.diagonal(w, decays, j0);
#pragma unroll
        for (int tile = 0; tile < 2; ++tile)
#pragma unroll
          for (int e = 0; e < 4; e += 2) {
            const float* r = &r_m[block][tile][e];
            *reinterpret_cast<uint32_t*>(&s_to[(g + 4 * e) * pitch_of(16 * (strip + 1)) + j0 + 8 * tile + 2 * q]) =
                cuda::pack_bf16(w[tile][e] * r[0], w[tile][e + 1] * r[1]);
          }
      }
    }

    // exp(G) C S for all rows and this warp's 16 columns.
    float r_y[4][2][4] = {};
#pragma unroll
    for (int e = 0; e < N; e += 16) {
      const float(&r0)[4] = r_state[e / 8], (&r1)[4] = r_state[e / 8 + 1];
      const uint32_t right[4] = {cuda::pack_bf16(r0[0], r0[1]), cuda::pack_bf16(r1[0], r1[1]),
                                 cuda::pack_bf16(r0[2], r0[3]), cuda::pack_bf16(r1[2], r1[3])};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t left[4];
        load_left(left, s_c, b_pitch, 16 * i, e);
        multiply(r_y[i][0], r_y[i][1], left, right);
      }
    }
    const ChunkDecays& decays = s.decays[side];
    const float whole = decays.in[rows - 1];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float in_first = decays.in[16 * i + g], in_second = decays.in[16 * i + g + 8];
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        r_y[i][tile][0] *= in_first, r_y[i][tile][1] *= in_first;
        r_y[i][tile][2] *= in_second, r_y[i][tile][3] *= in_second;
      }
    }
    __syncthreads();
    if (more && strip == 0) finish_tokens(k + 1);

      // The pairs' part of y, the skip, and out.
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      uint32_t left[4], right[4];
      load_right(right, s_x, x_pitch, 16 * e, 16 * strip);
#pragma unroll
      for (int i = e; i < 4; ++i) {
        load_left(left, weights_at(one_head ? 0 : side, i), pitch_of(16 * (i + 1)), 0, 16 * e);
        multiply(r_y[i][0], r_y[i][1], left, right);
      }
    }
    if (v.g_d) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int tile = 0; tile < 2; ++tile)
#pragma unroll
          for (int e = 0; e < 4; e += 2) {
            const uint32_t x = *reinterpret_cast<const uint32_t*>(
                &s_x[(16 * i + g + 4 * e) * x_pitch + 16 * strip + 8 * tile + 2 * q]);
            r_y[i][tile][e] += skip * low_of(x);
            r_y[i][tile][e + 1] += skip * high_of(x);
          }
    }
    bf16* y = g_y + v.head(n, k * rows, my.h) * v.P + p0;
#pragma unroll
    for (int i = 0; i < 4; ++i) store_narrow(r_y[i], y + 16 * i * x_row, x_row, L - 16 * i, P_in);

      // S^T = exp(G_L) S^T + X^T diag(exp(G_L - G_j) dt_j) B
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
      for (int e = 0; e < 4; ++e) r_state[tile][e] *= whole;
#pragma unroll
    for (int e = 0; e < rows; e += 16) {
      uint32_t left[4], right[4];
      load_left_transposed(left, s_x, x_pitch, e, 16 * strip);
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const float2 by = two(s.write[k % 2][side], e + 2 * q + u / 2 * 8);
        left[u] = scaled(left[u], by.x, by.y);
      }
#pragma unroll
      for (int tile = 0; tile < tiles; tile += 2) {
        load_right(right, s_b, b_pitch, e, 8 * tile);
        multiply(r_state[tile], r_state[tile + 1], left, right);
      }
    }
  }
  for_share<N>(g_final + (n * v.H + my.h) * v.N * v.P + p0, v.P, N_in, P_in,
               [&](int tile, int e, float* g_to) { *g_to = r_state[tile][e]; });
}

template <int N>
void launch_forward(const SsdScanForward& a) {
  constexpr int bytes = int(sizeof(ForwardMemory<N>));
  const View<bf16> v(a.in, a.chunk);
  take_shared(forward_kernel<N>, bytes);
  forward_kernel<N><<<cuda::blocks_for(walks_of(v), 1), walk_threads, bytes, cuda::stream_of(a.device())>>>(
      v, a.states.data<bf16>(), a.y.data<bf16>(), a.final.data<float>());
  cuda::cuda_check(cudaGetLastError());
}

}  // namespace taper::kernels::ssd
