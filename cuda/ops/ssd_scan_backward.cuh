// ssd_scan backward with tensor cores: d states walk back through the chunks; then everything else, all chunks at once.
#pragma once
#include "cuda/ops/ssd_scan_forward.cuh"

namespace taper::kernels::ssd {

// ---- d states: a block walks back through the chunks of one head and 64 or 128 columns ----

template <int N>
struct ReverseMemory {
  static constexpr int stages = 3;
  alignas(128) bf16 c[stages][rows * pitch_of(N)];
  bf16 dy[stages][rows * pitch_of(StateShare<N>::columns)];
  float in[2][rows];  // exp(G_i), 0 where a document start hides the state before the chunk
};

template <int N>
__global__ void __launch_bounds__(StateShare<N>::threads, StateShare<N>::blocks)
    reverse_kernel(View<bf16> v, const double* g_sum,  // [B,H,T]
                   const bf16* g_d_y,                  // [B,T,H,P]
                   const float* g_d_final,             // [B,H,N,P] or absent: 0
                   bf16* g_d_states,                   // [B,chunks,H,N,P], d of the state after each chunk
                   float* g_d_initial) {               // [B,H,N,P] or absent
  using Share = StateShare<N>;
  using Memory = ReverseMemory<N>;
  constexpr int columns = Share::columns, threads = Share::threads, tiles = Share::tiles, stages = Memory::stages;
  constexpr int c_pitch = pitch_of(N), y_pitch = pitch_of(columns);
  extern __shared__ __align__(128) unsigned char s_bytes[];
  Memory& s = *reinterpret_cast<Memory*>(s_bytes);
  const int thread = int(threadIdx.x), warp = thread / 32, q = thread % 4;
  const int state_row = Share::row(warp), state_column = Share::column(warp);
  Unfold at;
  const int64_t p0 = at.next((v.P + columns - 1) / columns) * columns, h = at.next(v.H), n = at.rest;
  const int64_t y_row = v.H * v.P, c_row = v.G * v.N;
  const int P_in = int(v.P - p0), N_in = int(v.N), chunks = int(v.chunks);
  const bf16 *g_c = v.g_c + v.group(n, 0, h * v.G / v.H), *g_dy = g_d_y + v.head(n, 0, h) * v.P + p0;

  auto copy = [&](int k) {
    if (k >= 0) {
      copy_tile<rows, N, threads>(s.c[k % stages], g_c + k * rows * c_row, c_row, int(v.length(k)), N_in);
      copy_tile<rows, columns, threads>(s.dy[k % stages], g_dy + k * rows * y_row, y_row, int(v.length(k)), P_in);
    }
    cuda::copy_async_commit();
  };
  double sum = 0;
  int64_t start = 0;
  auto read_token = [&](int k) {
    const int64_t begin = int64_t(k) * rows, t = begin + min(thread, int(v.length(k)) - 1);
    sum = g_sum[v.by_head(n, h, t)];
    start = v.packing.start_of(n, t);
  };
  auto finish_token = [&](int k) {
    const int64_t begin = int64_t(k) * rows;
    s.in[k % 2][thread] = (begin == 0 ? start == 0 : start < begin) ? __expf(float(sum)) : 0.0f;
  };
  for (int k = 1; k < stages; ++k) copy(chunks - k);
  if (thread < rows) {
    read_token(chunks - 1);
    finish_token(chunks - 1);
  }
  float r_state[tiles][4] = {};  // d S, this warp's share
  auto for_r_state = [&](const float* g_state, auto f) {  // [B,H,N,P]
    for_share<tiles>(const_cast<float*>(g_state) + (n * v.H + h) * v.N * v.P + state_row * v.P + p0 + state_column, v.P, N_in - state_row,
                     P_in - state_column, f);
  };
  if (g_d_final)
    for_r_state(g_d_final, [&](int tile, int e, const float* g_from) {
      const float2 pair = *reinterpret_cast<const float2*>(g_from);
      r_state[tile][e] = pair.x, r_state[tile][e + 1] = pair.y;
    });

  for (int k = chunks - 1; k >= 0; --k) {
    cuda::copy_async_wait<stages - 2>();
    __syncthreads();
    copy(k - (stages - 1));
    if (k > 0 && thread < rows) read_token(k - 1);
    const bf16 *s_c = s.c[k % stages], *s_dy = s.dy[k % stages];
    const float* s_in = s.in[k % 2];
    bf16* g_to = g_d_states + v.state(n, k, h) + p0 + state_row * v.P + state_column;
#pragma unroll
    for (int tile = 0; tile < tiles; tile += 4)
      store_columns<4>(&r_state[tile], g_to + 8 * tile, v.P, N_in - state_row, P_in - state_column - 8 * tile);

    // dS = exp(G_L) dS + C^T diag(exp(G_i)) dY
    const float whole = s_in[rows - 1];
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
      for (int e = 0; e < 4; ++e) r_state[tile][e] *= whole;
#pragma unroll
    for (int e = 0; e < rows; e += 16) {
      uint32_t left[4], right[4];
      load_left_transposed(left, s_c, c_pitch, e, state_row);
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const float2 by = *reinterpret_cast<const float2*>(&s_in[e + 2 * q + u / 2 * 8]);
        left[u] = scaled(left[u], by.x, by.y);
      }
#pragma unroll
      for (int tile = 0; tile < tiles; tile += 2) {
        load_right(right, s_dy, y_pitch, e, state_column + 8 * tile);
        multiply(r_state[tile], r_state[tile + 1], left, right);
      }
    }
    if (k > 0 && thread < rows) finish_token(k - 1);
  }
  if (g_d_initial)
    for_r_state(g_d_initial, [&](int tile, int e, float* g_to) {
      *reinterpret_cast<float2*>(g_to) = make_float2(r_state[tile][e], r_state[tile][e + 1]);
    });
}

// ---- everything else: a block takes one chunk and the heads of a group, in their order ----

constexpr int gradient_threads = 256;

// What one head leaves for d_log_a, d_dt and d_d, R = (dY X^T M E)_ij dt_j for tokens j <= i of the chunk.
struct HeadSums {
  float column_sums[4][rows];  // by block of 16 j: sum over its j of R_ij, for i in later blocks
  float row_sums[2][rows];     // by half of the i: sum over i in later blocks of R_ij
  float diagonal[rows];        // for t: sum of R_ij over j < t <= i, both in t's block
  float d_dt[2][rows];         // by half of the i: sum of R_ij / dt_j
  float dot_u[2][rows], dot_v[2][rows];  // by half of the N: c.U, b.V
  float xy[rows];              // x.dy
  float kept[8];               // by warp: <S, dS>
};

template <int N>
struct GradientMemory {
  static constexpr int columns = N == 256 ? 32 : 64;  // of x, dy and the states at a time
  alignas(128) bf16 b[rows * pitch_of(N)];
  bf16 c[rows * pitch_of(N)];
  bf16 x[2][rows * pitch_of(columns)], dy[2][rows * pitch_of(columns)], state[2][N * pitch_of(columns)], d_state[2][N * pitch_of(columns)];
  bf16 weights[rows * pitch_of(rows)];  // [j][i]: (M E dt)_ij, at the end dM
  ChunkDecays decays[2];
  HeadSums sums[2];
};

struct Gradients {  // where the results go
  const double* g_sum;     // [B,H,T]
  const bf16* g_states;    // [B,chunks,H,N,P], the state before each chunk
  const bf16* g_d_states;  // [B,chunks,H,N,P], d of the state after it
  const bf16* g_d_y;       // [B,T,H,P]
  bf16* g_d_x;             // [B,T,H,P]
  float *g_d_log_a, *g_d_dt;           // [B,T,H], the latter may be absent
  float* g_d_d;                        // [B,chunks,H]
  bf16 *g_d_b, *g_d_c;                 // [B,T,G,N]: by one split
  float *g_d_b_parts, *g_d_c_parts;    // [splits,B,T,G,N]: by several
  int splits;                          // of a group's heads
};

__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ inline float sixteen_sum(float x) {
  for (int mask = 8; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}
__device__ inline float warp_sum(float x) {
  x = sixteen_sum(x);
  return x + __shfl_xor_sync(0xffffffffu, x, 16);
}

// Sums 2^k values over the lanes that differ in g: lane gets the value numbered by the upper k bits of its g.
template <int count>
__device__ float scatter_sum(float (&x)[count]) {
  const int lane = int(threadIdx.x) % 32;
  int mask = 16;
#pragma unroll
  for (int half = count / 2; half > 0; half /= 2, mask /= 2)
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const bool upper = lane & mask;
      const float sent = upper ? x[i] : x[i + half], own = upper ? x[i + half] : x[i];
      x[i] = own + __shfl_xor_sync(0xffffffffu, sent, mask);
    }
#pragma unroll
  for (; mask >= 4; mask /= 2) x[0] += __shfl_xor_sync(0xffffffffu, x[0], mask);
  return x[0];
}

// A block of R on the diagonal, [16 j][16 i], as accumulators of two tiles of 8 i: to s_out the sums over j < t <= i.
__device__ inline void diagonal_sums(const float (&r)[2][4], float* s_out) {
  const int lane = int(threadIdx.x) % 32, g = lane / 4, q = lane % 4;
  float column[4] = {0, 0, 0, 0};  // [tile][column]: over this thread's rows j < t
#pragma unroll
  for (int e = 0; e < 4; e += 2) {
    const int j = g + 4 * e;
    float behind = 0;  // sum over i of later tiles
#pragma unroll
    for (int tile = 1; tile >= 0; --tile) {
      const float own = r[tile][e] + r[tile][e + 1];
      float later = own, other = __shfl_down_sync(0xffffffffu, later, 1, 4);  // own and later columns of the tile
      if (q < 3) later += other;
      other = __shfl_down_sync(0xffffffffu, later, 2, 4);
      if (q < 2) later += other;
      other = __shfl_down_sync(0xffffffffu, later, 1, 4);
      const float after = behind + (q < 3 ? other : 0.0f), last = r[tile][e + 1] + after, first = r[tile][e] + last;
      const int t = 8 * tile + 2 * q;
      if (j < t) column[2 * tile] += first;
      if (j < t + 1) column[2 * tile + 1] += last;
      behind += __shfl_sync(0xffffffffu, later, 0, 4);
    }
  }
  const float sum = scatter_sum(column);
  if (g % 2 == 0) s_out[8 * (g / 4) + 2 * q + g / 2 % 2] = sum;
}

// d_log_a, d_dt and d_d of one head of the chunk: a warp for each 16 tokens t adds up what crosses t (docs/scans.md, 1.5).
__device__ inline void finish_head(const View<bf16>& v, const Gradients& to, const HeadSums& s, const ChunkDecays& decays, int64_t n, int64_t k, int64_t h) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, column = lane % 16, t = 16 * warp + column;
  if (warp >= 4) return;
  auto dot_u = [&](int i) { return s.dot_u[0][i] + s.dot_u[1][i]; };
  auto dot_v = [&](int j) { return s.dot_v[0][j] + s.dot_v[1][j]; };
  // To t and later: pairs from earlier blocks, and the state's.
  float upward = dot_u(t), beyond = 0;
  for (int block = 0; block < warp; ++block) upward += s.column_sums[block][t];
  for (int i = t + 16; i < rows; i += 16) {
    beyond += dot_u(i);
    for (int block = 0; block < warp; ++block) beyond += s.column_sums[block][i];
  }
  // From before t: pairs to later blocks, and to the state.
  const float own = s.row_sums[0][t] + s.row_sums[1][t] + decays.dt[t] * dot_v(t);
  float downward = own, before = 0;
  for (int j = column; j < 16 * warp; j += 16) before += decays.dt[j] * dot_v(j);
#pragma unroll
  for (int distance = 1; distance < 16; distance *= 2) {
    const float above = __shfl_down_sync(0xffffffffu, upward, distance, 16), below = __shfl_up_sync(0xffffffffu, downward, distance, 16);
    if (column + distance < 16) upward += above;
    if (column >= distance) downward += below;
  }
  const float earlier = __shfl_up_sync(0xffffffffu, downward, 1, 16);
  beyond = sixteen_sum(beyond);
  before = sixteen_sum(before);
  float kept = 0;
  for (float part : s.kept) kept += part;
  if (lane < 16 && t < v.length(k)) {
    const int64_t i = v.head(n, k * rows + t, h);
    to.g_d_log_a[i] = upward + beyond + (column ? earlier : 0.0f) + before + s.diagonal[t] + decays.in[rows - 1] * kept;
    if (to.g_d_dt) to.g_d_dt[i] = s.d_dt[0][t] + s.d_dt[1][t] + dot_v(t);
  }
  if (warp > 0) return;
  const float d_d = warp_sum(s.xy[lane] + s.xy[lane + 32]);
  if (lane == 0) to.g_d_d[(n * v.chunks + k) * v.H + h] = d_d;
}

// `many`: a head's P has several tiles of columns, whose sums must wait for the last. With N = 256 a block takes one head:
// registers do not hold the sums of d_b and d_c beside the head's own.
template <int N, bool many>
__global__ void __launch_bounds__(gradient_threads, 1) gradient_kernel(View<bf16> v, Gradients to) {
  using Memory = GradientMemory<N>;
  constexpr int columns = Memory::columns, threads = gradient_threads, tiles = N / 16;  // tiles of 8 to each half of N
  constexpr int x_blocks = columns / 32;                                                 // of 16 columns of x to each half
  constexpr int steps = columns / 16;                                                    // of the depth of a tile
  constexpr int pitch = pitch_of(columns), b_pitch = pitch_of(N);
  extern __shared__ __align__(128) unsigned char s_bytes[];
  Memory& s = *reinterpret_cast<Memory*>(s_bytes);
  const int thread = int(threadIdx.x), warp = thread / 32, g = thread % 32 / 4, q = thread % 4;
  const int strip = warp % 4, half = warp / 4, first = 16 * strip + g, second = first + 8;  // rows: j or i
  Unfold at;
  const int64_t split = at.next(to.splits), group = at.next(v.G), k = at.next(v.chunks), n = at.rest, share = v.H / v.G;
  const int64_t h0 = group * share + split * share / to.splits;
  const int heads = N == 256 ? 1 : int((split + 1) * share / to.splits - split * share / to.splits);
  const int64_t begin = k * rows, x_row = v.H * v.P, b_row = v.G * v.N;
  const int L = int(v.length(k)), N_in = int(v.N), p_tiles = many ? int((v.P + columns - 1) / columns) : 1;

  auto copy_rows = [&](int64_t h, int p_tile, int stage) {
    const int64_t offset = v.head(n, begin, h) * v.P + p_tile * columns;
    copy_tile<rows, columns, threads>(s.x[stage], v.g_x + offset, x_row, L, int(v.P) - p_tile * columns);
    copy_tile<rows, columns, threads>(s.dy[stage], to.g_d_y + offset, x_row, L, int(v.P) - p_tile * columns);
  };
  auto copy_state = [&](bf16* s_to, const bf16* g_from, int64_t h, int p_tile) {
    copy_tile<N, columns, threads>(s_to, g_from + v.state(n, k, h) + p_tile * columns, v.P, N_in, int(v.P) - p_tile * columns);
  };
  copy_tile<rows, N, threads>(s.b, v.g_b + v.group(n, begin, group), b_row, L, N_in);
  copy_tile<rows, N, threads>(s.c, v.g_c + v.group(n, begin, group), b_row, L, N_in);
  copy_rows(h0, 0, 0);
  copy_state(s.state[0], to.g_states, h0, 0);
  copy_state(s.d_state[0], to.g_d_states, h0, 0);
  cuda::copy_async_commit();
  TokenDecay token;
  if (thread < rows) {
    token.read(v, to.g_sum, n, h0, k, thread);
    token.finish(s.decays[0], k, thread);
  }
  cuda::copy_async_wait<0>();
  __syncthreads();

  // Rows j of this strip by the half's 32 i; blocks of 16 i before the strip's own are never touched.
  auto for_blocks = [&](auto f) {
#pragma unroll
    for (int block = 0; block < 2; ++block)
      if (2 * half + block >= strip) f(block, 32 * half + 16 * block);
  };
  float r_m[4][4] = {};  // M_ij
#pragma unroll 2
  for (int e = 0; e < N; e += 16) {
    uint32_t left[4], right[4];
    load_left(left, s.b, b_pitch, 16 * strip, e);
    for_blocks([&](int block, int i0) {
      load_right_transposed(right, s.c, b_pitch, i0, e);
      multiply(r_m[2 * block], r_m[2 * block + 1], left, right);
    });
  }

  float r_d_m[4][4] = {}, r_d_b[tiles][4] = {}, r_d_c[tiles][4] = {};
  int stage = 0, parity = 0;
  for (int head = 0; head < heads; ++head, parity ^= 1) {
    const int64_t h = h0 + head;
    const ChunkDecays& decays = s.decays[parity];
    HeadSums& sums = s.sums[parity];
    float r_xy[4][4] = {}, r_u[tiles][4] = {}, r_v[tiles][4] = {}, r_kept = 0;
    // The weights (M E dt)_ij to shared memory, and the sums of X dY^T times them.
    auto for_pairs = [&](auto with_weights, auto with_sums) {
      const int m = 16 * strip + 15;
      const float dt[2] = {decays.dt[first], decays.dt[second]};
      // E_ij = by_i by_j in the blocks behind the diagonal's.
      const float by_j[2] = {first >= decays.from[m] ? decays.between(m, first) : 0.0f, second >= decays.from[m] ? decays.between(m, second) : 0.0f};
      float row_sums[2] = {}, d_dt[2] = {}, column_sums[8] = {}, diagonal_block[2][4];
      for_blocks([&](int block, int i0) {
        const bool diagonal = i0 == 16 * strip;
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
          const int i = i0 + 8 * tile + 2 * q;
          const float by_i[2] = {diagonal ? 0.0f : decays.row(i, m), diagonal ? 0.0f : decays.row(i + 1, m)};
#pragma unroll
          for (int lower = 0; lower < 2; ++lower) {
            const int j = lower ? second : first;
            float weights[2];
#pragma unroll
            for (int odd = 0; odd < 2; ++odd) {
              const int a = 2 * lower + odd;
              const bool seen = j <= i + odd && j >= decays.from[i + odd];
              const float e = diagonal ? (seen ? decays.between(i + odd, j) : 0.0f) : by_i[odd] * by_j[lower];
              const float m_e = r_m[2 * block + tile][a] * e;
              weights[odd] = m_e * dt[lower];
              if (!with_sums) continue;
              const float xy = r_xy[2 * block + tile][a], pair = xy * m_e, r = pair * dt[lower];
              d_dt[lower] += pair;
              r_d_m[2 * block + tile][a] += xy * e * dt[lower];
              if (diagonal) {
                diagonal_block[tile][a] = r;
                if (i + odd == j) sums.xy[j] = xy;
              } else {
                row_sums[lower] += r;
                column_sums[4 * block + 2 * tile + odd] += r;
              }
            }
            if (with_weights) *reinterpret_cast<uint32_t*>(&s.weights[j * pitch_of(rows) + i]) = cuda::pack_bf16(weights[0], weights[1]);
          }
        }
      });
      if constexpr (decltype(with_sums)::value) {
#pragma unroll
        for (int lower = 0; lower < 2; ++lower) {
          row_sums[lower] = quad_sum(row_sums[lower]);
          d_dt[lower] = quad_sum(d_dt[lower]);
          if (q == 0) {
            sums.row_sums[half][first + 8 * lower] = row_sums[lower];
            sums.d_dt[half][first + 8 * lower] = d_dt[lower];
          }
        }
        const float column_sum = scatter_sum(column_sums);
        sums.column_sums[strip][32 * half + 8 * (g / 2) + 2 * q + g % 2] = column_sum;
        if (half == strip / 2) diagonal_sums(diagonal_block, &sums.diagonal[16 * strip]);
      }
    };
    // Adds rows scaled by `into` to a sum, and hands out the rows' dots with b or c, scaled by `dot_by`.
    auto add_rows = [&](const float (&r)[tiles][4], float (&r_sum)[tiles][4], const bf16* s_rows, const float (&into)[2], const float (&dot_by)[2], float* s_dot) {
      float dot[2] = {};
#pragma unroll
      for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
        for (int lower = 0; lower < 2; ++lower) {
          const uint32_t pair = *reinterpret_cast<const uint32_t*>(&s_rows[(first + 8 * lower) * b_pitch + half * (N / 2) + 8 * tile + 2 * q]);
          dot[lower] += low_of(pair) * r[tile][2 * lower] + high_of(pair) * r[tile][2 * lower + 1];
          r_sum[tile][2 * lower] += into[lower] * r[tile][2 * lower];
          r_sum[tile][2 * lower + 1] += into[lower] * r[tile][2 * lower + 1];
        }
#pragma unroll
      for (int lower = 0; lower < 2; ++lower) {
        dot[lower] = quad_sum(dot[lower]) * dot_by[lower];
        if (q == 0) s_dot[first + 8 * lower] = dot[lower];
      }
    };
    auto add_u = [&] {
      const float in[2] = {decays.in[first], decays.in[second]};
      add_rows(r_u, r_d_c, s.c, in, in, sums.dot_u[half]);
      r_kept = warp_sum(r_kept);
      if (thread % 32 == 0) sums.kept[warp] = r_kept;
    };
    auto add_v = [&] {
      const float out[2] = {decays.out[first], decays.out[second]}, write[2] = {out[0] * decays.dt[first], out[1] * decays.dt[second]};
      add_rows(r_v, r_d_b, s.b, write, out, sums.dot_v[half]);
    };
    for (int p_tile = 0; p_tile < p_tiles; ++p_tile, stage ^= 1) {
      const bool last_tile = p_tile == p_tiles - 1, more = !last_tile || head + 1 < heads;
      const int64_t next_h = last_tile ? h + 1 : h;
      const int next_tile = last_tile ? 0 : p_tile + 1;
      const bf16 *s_x = s.x[stage], *s_dy = s.dy[stage], *s_state = s.state[stage], *s_d_state = s.d_state[stage];
      cuda::copy_async_wait<0>();
      __syncthreads();
      if (more) {
        copy_rows(next_h, next_tile, stage ^ 1);
        copy_state(s.state[stage ^ 1], to.g_states, next_h, next_tile);
        copy_state(s.d_state[stage ^ 1], to.g_d_states, next_h, next_tile);
        if (last_tile && thread < rows) token.read(v, to.g_sum, n, next_h, k, thread);
      }
      cuda::copy_async_commit();
      if (p_tile == 0 && head > 0) finish_head(v, to, s.sums[parity ^ 1], s.decays[parity ^ 1], n, k, h - 1);

      // X dY^T
#pragma unroll
      for (int e = 0; e < columns; e += 16) {
        uint32_t left[4], right[4];
        load_left(left, s_x, pitch, 16 * strip, e);
        for_blocks([&](int block, int i0) {
          load_right_transposed(right, s_dy, pitch, i0, e);
          multiply(r_xy[2 * block], r_xy[2 * block + 1], left, right);
        });
      }

      if constexpr (!many) for_pairs(std::true_type{}, std::true_type{});
      else if (p_tile == 0) for_pairs(std::true_type{}, std::false_type{});

      // U = dY S^T for rows i, before exp(G_i); and <S, dS>, its fragments shared out among the strips
#pragma unroll
      for (int e = 0; e < columns; e += 16) {
        uint32_t left[4], right[4], other[4];
        load_left(left, s_dy, pitch, 16 * strip, e);
#pragma unroll
        for (int tile = 0; tile < tiles; tile += 2) {
          load_right_transposed(right, s_state, pitch, half * (N / 2) + 8 * tile, e);
          multiply(r_u[tile], r_u[tile + 1], left, right);
          if (e / 16 == strip % steps && tile / 2 % (4 / steps) == strip / steps) {
            load_right_transposed(other, s_d_state, pitch, half * (N / 2) + 8 * tile, e);
#pragma unroll
            for (int i = 0; i < 4; ++i) r_kept += low_of(right[i]) * low_of(other[i]) + high_of(right[i]) * high_of(other[i]);
          }
        }
      }
      if constexpr (!many) add_u();
      __syncthreads();
      if (more && last_tile && thread < rows) token.finish(s.decays[parity ^ 1], k, thread);

      // V = X dS^T for rows j, before exp(G_L - G_j)
#pragma unroll
      for (int e = 0; e < columns; e += 16) {
        uint32_t left[4], right[4];
        load_left(left, s_x, pitch, 16 * strip, e);
#pragma unroll
        for (int tile = 0; tile < tiles; tile += 2) {
          load_right_transposed(right, s_d_state, pitch, half * (N / 2) + 8 * tile, e);
          multiply(r_v[tile], r_v[tile + 1], left, right);
        }
      }
      if constexpr (!many) add_v();

      // dX = exp(G_L - G_j) dt_j (B dS)_j + (M E dt_j)^T dY + d dy for rows j and the half's columns
      float r_d_x[2 * x_blocks][4] = {};
#pragma unroll 2
      for (int e = 0; e < N; e += 16) {
        uint32_t left[4], right[4];
        load_left(left, s.b, b_pitch, 16 * strip, e);
#pragma unroll
        for (int block = 0; block < x_blocks; ++block) {
          load_right(right, s_d_state, pitch, e, 16 * (x_blocks * half + block));
          multiply(r_d_x[2 * block], r_d_x[2 * block + 1], left, right);
        }
      }
      const float skip = v.g_d ? v.g_d[h] : 0.0f, write[2] = {decays.out[first] * decays.dt[first], decays.out[second] * decays.dt[second]};
#pragma unroll
      for (int tile = 0; tile < 2 * x_blocks; ++tile)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          const uint32_t dy = *reinterpret_cast<const uint32_t*>(&s_dy[(first + 4 * e) * pitch + 16 * x_blocks * half + 8 * tile + 2 * q]);
          r_d_x[tile][e] = r_d_x[tile][e] * write[e / 2] + skip * low_of(dy);
          r_d_x[tile][e + 1] = r_d_x[tile][e + 1] * write[e / 2] + skip * high_of(dy);
        }
#pragma unroll
      for (int e = 0; e < rows; e += 16) {
        if (e < 16 * strip) continue;
        uint32_t left[4], right[4];
        load_left(left, s.weights, pitch_of(rows), 16 * strip, e);
#pragma unroll
        for (int block = 0; block < x_blocks; ++block) {
          load_right(right, s_dy, pitch, e, 16 * (x_blocks * half + block));
          multiply(r_d_x[2 * block], r_d_x[2 * block + 1], left, right);
        }
      }
      const int p0 = p_tile * columns + 16 * x_blocks * half;
      store_columns<2 * x_blocks>(r_d_x, to.g_d_x + v.head(n, begin + 16 * strip, h) * v.P + p0, x_row, L - 16 * strip, int(v.P) - p0);
    }
    if constexpr (many) {
      add_u();
      add_v();
      for_pairs(std::false_type{}, std::true_type{});
    }
  }

  __syncthreads();
  finish_head(v, to, s.sums[parity ^ 1], s.decays[parity ^ 1], n, k, h0 + heads - 1);

  // dB += dM^T C, dC += dM B
  for_blocks([&](int block, int i0) {
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
#pragma unroll
      for (int e = 0; e < 4; e += 2)
        *reinterpret_cast<uint32_t*>(&s.weights[(first + 4 * e) * pitch_of(rows) + i0 + 8 * tile + 2 * q]) =
            cuda::pack_bf16(r_d_m[2 * block + tile][e], r_d_m[2 * block + tile][e + 1]);
  });
  __syncthreads();
#pragma unroll
  for (int e = 0; e < rows; e += 16) {
    uint32_t left[4], right[4];
    if (e >= 16 * strip) {
      load_left(left, s.weights, pitch_of(rows), 16 * strip, e);
#pragma unroll
      for (int tile = 0; tile < tiles; tile += 2) {
        load_right(right, s.c, b_pitch, e, half * (N / 2) + 8 * tile);
        multiply(r_d_b[tile], r_d_b[tile + 1], left, right);
      }
    }
    if (e <= 16 * strip) {
      load_left_transposed(left, s.weights, pitch_of(rows), e, 16 * strip);
#pragma unroll
      for (int tile = 0; tile < tiles; tile += 2) {
        load_right(right, s.b, b_pitch, e, half * (N / 2) + 8 * tile);
        multiply(r_d_c[tile], r_d_c[tile + 1], left, right);
      }
    }
  }
  const int64_t corner = v.group(n, begin + 16 * strip, group) + half * (N / 2);
  const int rows_in = L - 16 * strip, columns_in = N_in - half * (N / 2);
  if (to.splits == 1) {
#pragma unroll
    for (int tile = 0; tile < tiles; tile += 4) {
      store_columns<4>(&r_d_b[tile], to.g_d_b + corner + 8 * tile, b_row, rows_in, columns_in - 8 * tile);
      store_columns<4>(&r_d_c[tile], to.g_d_c + corner + 8 * tile, b_row, rows_in, columns_in - 8 * tile);
    }
    return;
  }
  const int64_t part = split * v.B * v.steps * b_row + corner;
#pragma unroll
  for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      const int row = g + 4 * e, column = 8 * tile + 2 * q;
      if (row >= rows_in || column >= columns_in) continue;
      *reinterpret_cast<float2*>(to.g_d_b_parts + part + row * b_row + column) = make_float2(r_d_b[tile][e], r_d_b[tile][e + 1]);
      *reinterpret_cast<float2*>(to.g_d_c_parts + part + row * b_row + column) = make_float2(r_d_c[tile][e], r_d_c[tile][e + 1]);
    }
}

// The parts of d_b and d_c summed in their order; 4 elements to a thread.
__global__ void __launch_bounds__(256) sum_parts_kernel(const float* g_b_parts, const float* g_c_parts,  // [splits,numel]
                                                        bf16* g_d_b, bf16* g_d_c, int64_t numel, int splits) {
  const int64_t i = 4 * cuda::thread_index();
  if (i >= 2 * numel) return;
  const bool of_c = i >= numel;
  const int64_t e = of_c ? i - numel : i;
  const float* g_parts = of_c ? g_c_parts : g_b_parts;
  float4 sum = *reinterpret_cast<const float4*>(g_parts + e);
  for (int split = 1; split < splits; ++split) {
    const float4 part = *reinterpret_cast<const float4*>(g_parts + split * numel + e);
    sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
  }
  *reinterpret_cast<uint2*>((of_c ? g_d_c : g_d_b) + e) = make_uint2(cuda::pack_bf16(sum.x, sum.y), cuda::pack_bf16(sum.z, sum.w));
}

template <int N>
void launch_backward(const SsdScanBackward& a) {
  using Share = StateShare<N>;
  Device& device = a.device();
  const View<bf16> v(a.in, a.chunk);
  const cudaStream_t stream = cuda::stream_of(device);
  const Tensor sum(device, {v.B, v.H, v.steps}, Dtype::f64), d_states = empty_like(a.states), d_d(device, {v.B, v.chunks, v.H}, Dtype::f32);
  launch_sums(device, v, sum.data<double>());

  constexpr int reverse_bytes = int(sizeof(ReverseMemory<N>));
  cuda::cuda_check(cudaFuncSetAttribute(reverse_kernel<N>, cudaFuncAttributeMaxDynamicSharedMemorySize, reverse_bytes));
  const int64_t walks = v.B * v.H * ((v.P + Share::columns - 1) / Share::columns);
  reverse_kernel<N><<<cuda::blocks_for(walks, 1), Share::threads, reverse_bytes, stream>>>(
      v, sum.data<double>(), a.d_y.data<bf16>(), a.d_final ? a.d_final.data<float>() : nullptr, d_states.data<bf16>(),
      a.d_initial ? a.d_initial.data<float>() : nullptr);
  cuda::cuda_check(cudaGetLastError());

  // Enough blocks for two on each multiprocessor of a large GPU; registers hold the sums of d_b and d_c beside a head's own
  // up to N = 128.
  const int64_t chunks = v.B * v.chunks * v.G, share = v.H / v.G;
  const int splits = int(std::min(share, N == 256 ? share : std::max<int64_t>(1, 256 / chunks)));
  const Tensor parts = splits > 1 ? Tensor(device, {2, splits, v.B, v.steps, v.G, v.N}, Dtype::f32) : Tensor{};
  const int64_t numel = v.B * v.steps * v.G * v.N;
  Gradients to{.g_sum = sum.data<double>(),
               .g_states = a.states.data<bf16>(),
               .g_d_states = d_states.data<bf16>(),
               .g_d_y = a.d_y.data<bf16>(),
               .g_d_x = a.d_x.data<bf16>(),
               .g_d_log_a = a.d_log_a.data<float>(),
               .g_d_dt = a.d_dt ? a.d_dt.data<float>() : nullptr,
               .g_d_d = d_d.data<float>(),
               .g_d_b = a.d_b.data<bf16>(),
               .g_d_c = a.d_c.data<bf16>(),
               .g_d_b_parts = parts ? parts.data<float>() : nullptr,
               .g_d_c_parts = parts ? parts.data<float>() + splits * numel : nullptr,
               .splits = splits};
  constexpr int bytes = int(sizeof(GradientMemory<N>));
  auto launch = [&](auto kernel) {
    cuda::cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    kernel<<<cuda::blocks_for(chunks * splits, 1), gradient_threads, bytes, stream>>>(v, to);
    cuda::cuda_check(cudaGetLastError());
  };
  if (N == 256 || v.P > GradientMemory<N>::columns) launch(gradient_kernel<N, true>);
  else launch(gradient_kernel<N, N == 256>);
  if (splits > 1) {
    sum_parts_kernel<<<cuda::blocks_for(2 * numel / 4, 256), 256, 0, stream>>>(to.g_d_b_parts, to.g_d_c_parts, to.g_d_b, to.g_d_c, numel, splits);
    cuda::cuda_check(cudaGetLastError());
  }
  if (!a.d_d) return;
  d_d_kernel<float><<<cuda::blocks_for(v.H, 1), product_threads, 0, stream>>>(d_d.data<float>(), a.d_d.data<float>(), v.B * v.chunks, v.H);
  cuda::cuda_check(cudaGetLastError());
}

}  // namespace taper::kernels::ssd
