// ssd_scan forward with tensor cores: a block walks the chunks of one head and 64 or 128 columns of its state.
#pragma once
#include "cuda/ops/ssd_scan_tiles.cuh"

namespace taper::kernels::ssd {

// How the warps share a state [N,columns]: 16 rows by 8 * tiles columns each.
template <int N>
struct StateShare {
  static constexpr int columns = N == 256 ? 128 : 64;  // what B C S and two blocks, or one, leave of a multiprocessor's memory
  static constexpr int threads = 4 * columns, blocks = N == 256 ? 1 : 2;
  static constexpr int tiles = N * columns / 128 / (threads / 32);
  __device__ static int row(int warp) { return 16 * (warp % (N / 16)); }
  __device__ static int column(int warp) { return 8 * tiles * (warp / (N / 16)); }
};

// A share's elements in f32 memory, by pairs: f(tile, first accumulator of the pair, pointer) inside N_in x P_in. g_corner is
// the share's first row and column, offset by this thread's place in a tile.
template <int tiles, class F>
__device__ void for_share(float* g_corner, int64_t P, int rows_in, int columns_in, F f) {
  const int g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
#pragma unroll
  for (int e = 0; e < 4; e += 2) {
    float* g_row = g_corner + (g + 4 * e) * P + 2 * q;
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile)
      if (g + 4 * e < rows_in && 8 * tile + 2 * q < columns_in) f(tile, e, g_row + 8 * tile);
  }
}

template <int N>
struct ForwardMemory {
  static constexpr int columns = StateShare<N>::columns, b_stages = N == 256 ? 1 : 2;
  alignas(128) bf16 c[2][rows * pitch_of(N)];
  bf16 b[b_stages][rows * pitch_of(N)], x[2][rows * pitch_of(columns)];
  bf16 state[N * pitch_of(columns)];         // [N,columns] before the chunk
  bf16 weights[16 * (16 + 32 + 48 + 64 + 4 * 8)];  // (M E dt)_ij, each strip of 16 rows up to its diagonal
  ChunkDecays decays;
  float write[2][rows];                      // exp(G_L - G_j) dt_j
};

template <int N>
__global__ void __launch_bounds__(StateShare<N>::threads, StateShare<N>::blocks)
    forward_kernel(View<bf16> v, const double* g_sum,  // [B,H,T]
                   bf16* g_states,                     // [B,chunks,H,N,P]
                   bf16* g_y,                          // [B,T,H,P]
                   float* g_final) {                   // [B,H,N,P]
  using Share = StateShare<N>;
  using Memory = ForwardMemory<N>;
  constexpr int columns = Share::columns, threads = Share::threads, tiles = Share::tiles;
  constexpr int m_blocks = 128 / columns;  // of 16 columns of C B^T, to each warp
  constexpr int b_pitch = pitch_of(N), x_pitch = pitch_of(columns);
  extern __shared__ __align__(128) unsigned char s_bytes[];
  Memory& s = *reinterpret_cast<Memory*>(s_bytes);
  const int thread = int(threadIdx.x), warp = thread / 32, g = thread % 32 / 4, q = thread % 4;
  const int strip = warp % 4, part = warp / 4, state_row = Share::row(warp), state_column = Share::column(warp);
  const int first = 16 * strip + g, second = first + 8;  // this thread's rows of the chunk
  Unfold at;
  const int64_t p0 = at.next((v.P + columns - 1) / columns) * columns, h = at.next(v.H), n = at.rest;
  const int64_t x_row = v.H * v.P, b_row = v.G * v.N;
  const int P_in = int(v.P - p0), N_in = int(v.N), chunks = int(v.chunks);
  const bf16 *g_b = v.g_b + v.group(n, 0, h * v.G / v.H), *g_c = v.g_c + v.group(n, 0, h * v.G / v.H);
  const bf16* g_x = v.g_x + v.head(n, 0, h) * v.P + p0;

  auto copy_b = [&](int k) { copy_tile<rows, N, threads>(s.b[k % Memory::b_stages], g_b + k * rows * b_row, b_row, int(v.length(k)), N_in); };
  auto copy_c = [&](int k) { copy_tile<rows, N, threads>(s.c[k % 2], g_c + k * rows * b_row, b_row, int(v.length(k)), N_in); };
  auto copy_x = [&](int k) { copy_tile<rows, columns, threads>(s.x[k % 2], g_x + k * rows * x_row, x_row, int(v.length(k)), P_in); };
  copy_b(0);
  copy_c(0);
  copy_x(0);
  cuda::copy_async_commit();
  TokenDecay token;
  auto finish_token = [&](int k) {
    token.finish(s.decays, k, thread);
    s.write[k % 2][thread] = s.decays.out[thread] * token.dt;
  };
  if (thread < rows) {
    token.read(v, g_sum, n, h, 0, thread);
    finish_token(0);
  }

  float r_state[tiles][4] = {};  // S, this warp's share
  auto for_r_state = [&](const float* g_state, auto f) {  // [B,H,N,P]
    for_share<tiles>(const_cast<float*>(g_state) + (n * v.H + h) * v.N * v.P + state_row * v.P + p0 + state_column, v.P,
                     N_in - state_row, P_in - state_column, f);
  };
  if (v.g_initial)
    for_r_state(v.g_initial, [&](int tile, int e, const float* g_from) {
      const float2 pair = *reinterpret_cast<const float2*>(g_from);
      r_state[tile][e] = pair.x, r_state[tile][e + 1] = pair.y;
    });
  auto publish = [&] {
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
      for (int e = 0; e < 4; e += 2)
        *reinterpret_cast<uint32_t*>(&s.state[(state_row + g + 4 * e) * x_pitch + state_column + 8 * tile + 2 * q]) =
            cuda::pack_bf16(r_state[tile][e], r_state[tile][e + 1]);
  };
  publish();
  const float skip = v.g_d ? v.g_d[h] : 0.0f;
  bf16* s_weights = s.weights + 128 * strip * (strip + 2);  // the strips before it
  const int weights_pitch = pitch_of(16 * (strip + 1));

  for (int k = 0; k < chunks; ++k) {
    const int L = int(v.length(k));
    const bool more = k + 1 < chunks;
    const bf16 *s_b = s.b[k % Memory::b_stages], *s_c = s.c[k % 2], *s_x = s.x[k % 2];
    cuda::copy_async_wait<0>();
    __syncthreads();
    if (more) {
      copy_c(k + 1);
      copy_x(k + 1);
      if constexpr (Memory::b_stages == 2) copy_b(k + 1);
      if (thread < rows) token.read(v, g_sum, n, h, k + 1, thread);
    }
    cuda::copy_async_commit();

    {  // the state before the chunk, for the backward
      constexpr int pieces = columns / 8;
      const int i0 = thread / pieces, p = thread % pieces * 8;
      bf16* g_to = g_states + v.state(n, k, h) + p0 + p + i0 * v.P;
#pragma unroll
      for (int i = 0; i < N; i += threads / pieces) {
        if (i0 + i < N_in && p < P_in) *reinterpret_cast<uint4*>(g_to) = *reinterpret_cast<const uint4*>(&s.state[(i0 + i) * x_pitch + p]);
        g_to += threads / pieces * v.P;
      }
    }

    // C B^T for the strip's rows and this warp's columns up to the diagonal; C S for the strip's rows and 32 columns.
    const int blocks = max(0, min(m_blocks, strip + 1 - m_blocks * part));  // of 16 columns
    float r_m[2 * m_blocks][4] = {}, r_y[4][4] = {};
#pragma unroll 2
    for (int e = 0; e < N; e += 16) {
      uint32_t left[4], right[4];
      load_left(left, s_c, b_pitch, 16 * strip, e);
#pragma unroll
      for (int block = 0; block < m_blocks; ++block)
        if (block < blocks) {
          load_right_transposed(right, s_b, b_pitch, 16 * (m_blocks * part + block), e);
          multiply(r_m[2 * block], r_m[2 * block + 1], left, right);
        }
#pragma unroll
      for (int block = 0; block < 2; ++block) {
        load_right(right, s.state, x_pitch, e, 32 * part + 16 * block);
        multiply(r_y[2 * block], r_y[2 * block + 1], left, right);
      }
    }
    const float in_first = s.decays.in[first], in_second = s.decays.in[second], whole = s.decays.in[rows - 1];
#pragma unroll
    for (int tile = 0; tile < 4; ++tile) {
      r_y[tile][0] *= in_first, r_y[tile][1] *= in_first;
      r_y[tile][2] *= in_second, r_y[tile][3] *= in_second;
    }
#pragma unroll
    for (int block = 0; block < m_blocks; ++block) {
      if (block >= blocks) continue;
      const int j0 = 16 * (m_blocks * part + block);
      const bool diagonal = j0 == 16 * strip;
      const float by_first = diagonal ? 0 : s.decays.row(first, j0 + 15), by_second = diagonal ? 0 : s.decays.row(second, j0 + 15);
#pragma unroll
      for (int tile = 0; tile < 2; ++tile)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          const int i = e ? second : first, j = j0 + 8 * tile + 2 * q;
          const float by = e ? by_second : by_first, *m = &r_m[2 * block + tile][e];
          const float w0 = diagonal ? s.decays.pair(i, j) : by * s.decays.column[j];
          const float w1 = diagonal ? s.decays.pair(i, j + 1) : by * s.decays.column[j + 1];
          *reinterpret_cast<uint32_t*>(&s_weights[(g + 4 * e) * weights_pitch + j]) = cuda::pack_bf16(w0 * m[0], w1 * m[1]);
        }
    }
    __syncthreads();
    if (more && thread < rows) finish_token(k + 1);

    // The pairs' part of y, the skip, and out.
#pragma unroll
    for (int e = 0; e < rows; e += 16) {
      if (e > 16 * strip) continue;
      uint32_t left[4], right[4];
      load_left(left, s_weights, weights_pitch, 0, e);
#pragma unroll
      for (int block = 0; block < 2; ++block) {
        load_right(right, s_x, x_pitch, e, 32 * part + 16 * block);
        multiply(r_y[2 * block], r_y[2 * block + 1], left, right);
      }
    }
    if (v.g_d) {
#pragma unroll
      for (int tile = 0; tile < 4; ++tile)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          const uint32_t x = *reinterpret_cast<const uint32_t*>(&s_x[(first + 4 * e) * x_pitch + 32 * part + 8 * tile + 2 * q]);
          r_y[tile][e] += skip * low_of(x);
          r_y[tile][e + 1] += skip * high_of(x);
        }
    }
    store_columns<4>(r_y, g_y + v.head(n, k * rows + 16 * strip, h) * v.P + p0 + 32 * part, x_row, L - 16 * strip, P_in - 32 * part);

    // S = exp(G_L) S + B^T diag(exp(G_L - G_j) dt_j) X
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
      for (int e = 0; e < 4; ++e) r_state[tile][e] *= whole;
    const float* s_write = s.write[k % 2];
#pragma unroll
    for (int e = 0; e < rows; e += 16) {
      uint32_t left[4], right[4];
      load_left_transposed(left, s_b, b_pitch, e, state_row);
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const float2 by = *reinterpret_cast<const float2*>(&s_write[e + 2 * q + u / 2 * 8]);
        left[u] = scaled(left[u], by.x, by.y);
      }
#pragma unroll
      for (int tile = 0; tile < tiles; tile += 2) {
        load_right(right, s_x, x_pitch, e, state_column + 8 * tile);
        multiply(r_state[tile], r_state[tile + 1], left, right);
      }
    }
    if (more) publish();
    if constexpr (Memory::b_stages == 1) {
      __syncthreads();  // b is read no more
      if (more) copy_b(k + 1);
      cuda::copy_async_commit();
    }
  }
  for_r_state(g_final, [&](int tile, int e, float* g_to) {
    *reinterpret_cast<float2*>(g_to) = make_float2(r_state[tile][e], r_state[tile][e + 1]);
  });
}

template <int N>
void launch_forward(Device& device, const View<bf16>& v, const double* g_sum, const SsdScanForward& a) {
  using Share = StateShare<N>;
  constexpr int bytes = int(sizeof(ForwardMemory<N>));
  cuda::cuda_check(cudaFuncSetAttribute(forward_kernel<N>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  const int64_t blocks = v.B * v.H * ((v.P + Share::columns - 1) / Share::columns);
  forward_kernel<N><<<cuda::blocks_for(blocks, 1), Share::threads, bytes, cuda::stream_of(device)>>>(
      v, g_sum, a.states.data<bf16>(), a.y.data<bf16>(), a.final.data<float>());
  cuda::cuda_check(cudaGetLastError());
}

}  // namespace taper::kernels::ssd
