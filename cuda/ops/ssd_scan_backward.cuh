// ssd_scan backward with tensor cores: d states walk back through the chunks; then everything else, all chunks at once.
#pragma once
#include <algorithm>

#include "cuda/ops/ssd_scan_forward.cuh"
#include "cuda/ops/ssd_scan_hopper.cuh"

namespace taper::kernels::ssd {

// ---- d states: a block walks back through the chunks of twice 64 columns, as forward ----

template <int N>
struct ReverseMemory {
  static constexpr int stages = 3;
  alignas(128) bf16 c[stages][rows * pitch_of(N)];
  bf16 dy[stages][2][rows * pitch_of(side_columns)];  // by side
  float in[2][2][rows];                               // by chunk and side: exp(G_i), 0 behind a document start
};

template <int N>
__global__ void __launch_bounds__(walk_threads, 1)
    reverse_kernel(View<bf16> v, const bf16* g_d_y,  // [B,T,H,P]
                   const float* g_d_final,           // [B,H,N,P] or absent: 0
                   bf16* g_d_states,                 // [B,chunks,H,P,N], d of the state after each
                   float* g_d_initial) {             // [B,H,N,P] or absent
  using Memory = ReverseMemory<N>;
  constexpr int tiles = N / 8, c_pitch = pitch_of(N), y_pitch = pitch_of(side_columns), stages = Memory::stages,
                threads = walk_threads;
  extern __shared__ __align__(128) unsigned char s_bytes[];
  Memory& s = *reinterpret_cast<Memory*>(s_bytes);
  const int thread = int(threadIdx.x), warp = thread / 32, q = thread % 4, strip = warp % 4, side = warp / 4;
  Unfold at;
  const int64_t pairs = walks_of(v) / v.B / v.G, pair = at.next(pairs), group = at.next(v.G), n = at.rest;
  const Side sides[2] = {Side(v, group, 2 * pair), Side(v, group, 2 * pair + 1)};
  const Side my = side ? sides[1] : sides[0];
  const int64_t y_row = v.H * v.P, c_row = v.G * v.N, p0 = my.p0 + 16 * strip;
  const int N_in = int(v.N), chunks = int(v.chunks), P_in = my.columns - 16 * strip;
  const bf16* g_c = v.g_c + v.group(n, 0, group);

  auto copy = [&](int k) {
    if (k >= 0) {
      const int L = int(v.length(k));
      copy_tile<rows, N, threads>(s.c[k % stages], g_c + k * rows * c_row, c_row, L, N_in);
#pragma unroll
      for (int u = 0; u < 2; ++u)
        copy_tile<rows, side_columns, threads>(s.dy[k % stages][u],
                                               g_d_y + v.head(n, k * rows, sides[u].h) * v.P + sides[u].p0, y_row, L,
                                               sides[u].columns);
    }
    cuda::copy_async_commit();
  };
  for (int k = 1; k < stages; ++k) copy(chunks - k);
  ChunkTokens tokens;  // by the first warp of each side
  auto finish_tokens = [&](int k) {
    *reinterpret_cast<float2*>(&s.in[k % 2][side][2 * (thread % 32)]) = tokens.in(tokens.sums(), k * rows);
  };
  if (strip == 0) {
    tokens.read(v, n, my.h, chunks - 1);
    finish_tokens(chunks - 1);
  }
  float r_state[tiles][4] = {};  // d S^T: rows p, columns n
  const int64_t corner = (n * v.H + my.h) * v.N * v.P + p0;
  if (g_d_final)
    for_share<N>(const_cast<float*>(g_d_final) + corner, v.P, N_in, P_in,
                 [&](int tile, int e, const float* g_from) { r_state[tile][e] = *g_from; });

  for (int k = chunks - 1; k >= 0; --k) {
    bf16* g_to = g_d_states + v.state(n, k, my.h) + p0 * v.N;
#pragma unroll
    for (int tile = 0; tile < tiles; tile += 4) store_wide(&r_state[tile], g_to + 8 * tile, v.N, P_in, N_in - 8 * tile);
    cuda::copy_async_wait<stages - 2>();
    __syncthreads();
    copy(k - (stages - 1));
    if (k > 0 && strip == 0) tokens.read(v, n, my.h, k - 1);
    const bf16 *s_c = s.c[k % stages], *s_dy = s.dy[k % stages][side];
    const float* s_in = s.in[k % 2][side];

    // dS^T = exp(G_L) dS^T + dY^T diag(exp(G_i)) C
    const float whole = s_in[rows - 1];
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
      for (int e = 0; e < 4; ++e) r_state[tile][e] *= whole;
#pragma unroll
    for (int e = 0; e < rows; e += 16) {
      uint32_t left[4], right[4];
      load_left_transposed(left, s_dy, y_pitch, e, 16 * strip);
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const float2 by = two(s_in, e + 2 * q + u / 2 * 8);
        left[u] = scaled(left[u], by.x, by.y);
      }
#pragma unroll
      for (int tile = 0; tile < tiles; tile += 2) {
        load_right(right, s_c, c_pitch, e, 8 * tile);
        multiply(r_state[tile], r_state[tile + 1], left, right);
      }
    }
    if (k > 0 && strip == 0) finish_tokens(k - 1);
  }
  if (g_d_initial)
    for_share<N>(g_d_initial + corner, v.P, N_in, P_in,
                 [&](int tile, int e, float* g_to) { *g_to = r_state[tile][e]; });
}

// ---- everything else: a block takes one chunk and the heads of a group, in their order ----

// How a block's warps share it: strips of 16 rows by `parts` of the columns, of whatever is being made. `many`: a
// head's P has several tiles of columns, whose sums of U and V must wait for the last; with N = 256 it counts as many.
// Warps whose part lies before their strip have nothing to do with the pairs i >= j: where there are 16, six of them
// meanwhile finish the head before and make the next one's decays. Warp w is of scheduler w % 4, and the strips are dealt
// out so that each has two or three warps with pairs.
template <bool many>
struct GradientShare {
  __device__ static int strip_of(int warp) { return many ? warp % 4 : (warp + (0x0013 >> warp / 4 * 4 & 3)) % 4; }
  __device__ static int finishes(int warp) {  // which block of 16 tokens; -1: none
    return many ? (warp < 4 ? warp : -1) : warp == 5 ? 1 : warp < 4 && warp != 1 ? warp : -1;
  }
  static constexpr int makes_decays = many ? 7 : 6;  // this warp
  static constexpr int parts = many ? 2 : 4, threads = 128 * parts;
  static constexpr int columns = 16 * parts;  // of x, dy and the states at a time; each warp makes 16 columns of d_x
};

// What one head leaves for d_log_a, d_dt and d_d, R = (dY X^T M E)_ij dt_j for tokens j <= i of the chunk.
template <int parts>
struct HeadSums {
  float column_sums[4][rows];                    // by block of 16 j: sum over its j of R_ij, for i in later blocks
  float row_sums[parts][rows];                   // by part of the i: sum over i in later blocks of R_ij
  float diagonal[rows];                          // for t: sum of R_ij over j < t <= i, both in t's block
  float d_dt[parts][rows];                       // by part of the i: sum of R_ij / dt_j
  float dot_u[parts][rows], dot_v[parts][rows];  // by part of the N: c.U, b.V
  float xy[rows];                                // x.dy
  float kept[4 * parts];                         // by warp: <S, dS>
};

template <int N, bool many>
struct GradientMemory {
  static constexpr int columns = GradientShare<many>::columns;
  alignas(128) bf16 b[rows * pitch_of(N)];
  bf16 c[rows * pitch_of(N)];
  bf16 x[2][rows * pitch_of(columns)], dy[2][rows * pitch_of(columns)], state[2][columns * pitch_of(N)],
      d_state[2][columns * pitch_of(N)];
  bf16 weights[rows * pitch_of(rows)];  // [j][i]: (M E dt)_ij, at the end dM
  ChunkDecays decays[3];  // of the head before, this one and the next
  HeadSums<GradientShare<many>::parts> sums[2];
};

struct Gradients {                   // where the results go
  const bf16* g_states;              // [B,chunks,H,P,N], the state before each chunk
  const bf16* g_d_states;            // [B,chunks,H,P,N], d of the state after it
  const bf16* g_d_y;                 // [B,T,H,P]
  bf16* g_d_x;                       // [B,T,H,P]
  float *g_d_log_a, *g_d_dt;         // [B,T,H], the latter may be absent
  float* g_d_d;                      // [B,chunks,H]
  bf16 *g_d_b, *g_d_c;               // [B,T,G,N]: by one split
  float *g_d_b_parts, *g_d_c_parts;  // [splits,B,T,G,N]: by several
  int splits;                        // of a group's heads
};

__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ inline float sixteen_sum(float x) {
#pragma unroll
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

// d_log_a, d_dt and d_d of one head of the chunk: four warps, each adds up what crosses the 16 tokens of its `block`
// (docs/scans.md, 1.5).
template <int parts>
__device__ void finish_head(const View<bf16>& v, const Gradients& to, const HeadSums<parts>& s,
                            const ChunkDecays& decays, int block, int64_t n, int64_t k, int64_t h) {
  const int lane = int(threadIdx.x) % 32, column = lane % 16, t = 16 * block + column;
  auto all_parts = [](const float(&x)[parts][rows], int i) {
    float sum = x[0][i];
#pragma unroll
    for (int part = 1; part < parts; ++part) sum += x[part][i];
    return sum;
  };
  auto dot_u = [&](int i) { return all_parts(s.dot_u, i); };
  auto dot_v = [&](int j) { return all_parts(s.dot_v, j); };
  auto from_earlier = [&](float& sum, int i) {  // loads that wait for none of the others
#pragma unroll
    for (int earlier = 0; earlier < 3; ++earlier)
      if (earlier < block) sum += s.column_sums[earlier][i];
  };
  // To t and later: pairs from earlier blocks, and the state's.
  float upward = dot_u(t), beyond = 0;
  from_earlier(upward, t);
#pragma unroll
  for (int later = 1; later < 4; ++later) {
    if (block + later >= 4) continue;
    beyond += dot_u(t + 16 * later);
    from_earlier(beyond, t + 16 * later);
  }
  // From before t: pairs to later blocks, and to the state.
  float downward = all_parts(s.row_sums, t) + decays.dt[t] * dot_v(t), before = 0;
#pragma unroll
  for (int earlier = 0; earlier < 3; ++earlier)
    if (earlier < block) before += decays.dt[16 * earlier + column] * dot_v(16 * earlier + column);
#pragma unroll
  for (int distance = 1; distance < 16; distance *= 2) {
    const float above = __shfl_down_sync(0xffffffffu, upward, distance, 16),
                below = __shfl_up_sync(0xffffffffu, downward, distance, 16);
    if (column + distance < 16) upward += above;
    if (column >= distance) downward += below;
  }
  const float earlier = __shfl_up_sync(0xffffffffu, downward, 1, 16);
  beyond = sixteen_sum(beyond);
  before = sixteen_sum(before);
  float kept = 0;
#pragma unroll
  for (float part : s.kept) kept += part;
  if (lane < 16 && t < v.length(k)) {
    const int64_t i = v.head(n, k * rows + t, h);
    to.g_d_log_a[i] = upward + beyond + (column ? earlier : 0.0f) + before + s.diagonal[t] + decays.in[rows - 1] * kept;
    if (to.g_d_dt) to.g_d_dt[i] = all_parts(s.d_dt, t) + dot_v(t);
  }
  if (block > 0) return;
  const float d_d = warp_sum(s.xy[lane] + s.xy[lane + 32]);
  if (lane == 0) to.g_d_d[(n * v.chunks + k) * v.H + h] = d_d;
}

// With N = 256 a block takes one head: registers do not hold the sums of d_b and d_c beside the head's own.
template <int N, bool many>
__global__ void __launch_bounds__(GradientShare<many>::threads, 1) gradient_kernel(View<bf16> v, Gradients to) {
  using Memory = GradientMemory<N, many>;
  using Share = GradientShare<many>;
  constexpr int columns = Share::columns, threads = Share::threads, parts = Share::parts;
  constexpr int tiles = N / 8 / parts, part_N = N / parts;  // of the N, in tiles of 8
  constexpr int blocks = 4 / parts;                         // of 16 i
  constexpr int steps = columns / 16;                       // of the depth of a tile of x
  constexpr int pitch = pitch_of(columns), b_pitch = pitch_of(N);
  extern __shared__ __align__(128) unsigned char s_bytes[];
  Memory& s = *reinterpret_cast<Memory*>(s_bytes);
  const int thread = int(threadIdx.x), warp = thread / 32, g = thread % 32 / 4, q = thread % 4;
  const int strip = Share::strip_of(warp), part = warp / 4, first = 16 * strip + g, second = first + 8;  // rows: j or i
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
    copy_tile<columns, N, threads>(s_to, g_from + v.state(n, k, h) + p_tile * columns * v.N, v.N,
                                   int(v.P) - p_tile * columns, N_in);
  };
  copy_tile<rows, N, threads>(s.b, v.g_b + v.group(n, begin, group), b_row, L, N_in);
  copy_tile<rows, N, threads>(s.c, v.g_c + v.group(n, begin, group), b_row, L, N_in);
  copy_rows(h0, 0, 0);
  copy_state(s.state[0], to.g_states, h0, 0);
  copy_state(s.d_state[0], to.g_d_states, h0, 0);
  cuda::copy_async_commit();
  ChunkTokens tokens;  // of the next head
  const bool makes_decays = warp == Share::makes_decays;
  if (makes_decays) {
    tokens.read(v, n, h0, k);
    tokens.finish(s.decays[0], k);
    if (heads > 1) tokens.read(v, n, h0 + 1, k);
  }
  cuda::copy_async_wait<0>();
  __syncthreads();

  // Rows j of this strip by the part's i; blocks of 16 i before the strip's own are never touched.
  auto for_blocks = [&](auto f) {
#pragma unroll
    for (int block = 0; block < blocks; ++block)
      if (blocks * part + block >= strip) f(block, 16 * (blocks * part + block));
  };
  float r_m[2 * blocks][4] = {};  // M_ij
#pragma unroll 2
  for (int e = 0; e < N; e += 16) {
    uint32_t left[4], right[4];
    load_left(left, s.b, b_pitch, 16 * strip, e);
    for_blocks([&](int block, int i0) {
      load_right_transposed(right, s.c, b_pitch, i0, e);
      multiply(r_m[2 * block], r_m[2 * block + 1], left, right);
    });
  }

  float r_d_m[2 * blocks][4] = {}, r_d_b[tiles][4] = {}, r_d_c[tiles][4] = {};
  int stage = 0, parity = 0, now = 0, before = 2;  // the latter two of the decays
  auto finish_before = [&](int64_t h) {
    if (const int block = Share::finishes(warp); block >= 0) finish_head(v, to, s.sums[parity ^ 1], s.decays[before], block, n, k, h);
  };
  for (int head = 0; head < heads; ++head) {
    const int64_t h = h0 + head;
    const ChunkDecays& decays = s.decays[now];
    auto& sums = s.sums[parity];
    float r_xy[2 * blocks][4] = {}, r_u[tiles][4] = {}, r_v[tiles][4] = {}, r_kept = 0;
    // The weights (M E dt)_ij to shared memory, and the sums of X dY^T times them.
    auto for_pairs = [&](auto with_weights, auto with_sums) {
      const int m = 16 * strip + 15, j[2] = {first, second};
      const float high_m = decays.high[m], low_m = decays.low[m];
      float high_j[2], low_j[2], dt[2], by_j[2], row_sums[2] = {}, d_dt[2] = {}, column_sums[4 * blocks] = {},
                                                 diagonal_block[2][4];
#pragma unroll
      for (int lower = 0; lower < 2; ++lower) {
        high_j[lower] = decays.high[j[lower]], low_j[lower] = decays.low[j[lower]], dt[lower] = decays.dt[j[lower]];
        by_j[lower] = j[lower] >= decays.from[m] ? __expf((high_m - high_j[lower]) + (low_m - low_j[lower])) : 0.0f;
      }
      for_blocks([&](int block, int i0) {
        const bool diagonal = i0 == 16 * strip;
        uint32_t weights[2][2];
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
          const int i = i0 + 8 * tile + 2 * q;
          const float2 high = *reinterpret_cast<const float2*>(&decays.high[i]),
                       low = *reinterpret_cast<const float2*>(&decays.low[i]);
          const int2 from = *reinterpret_cast<const int2*>(&decays.from[i]);
          float e[4];  // E_ij, as the accumulators lie; behind the diagonal's block by_i by_j
          if (diagonal) {
#pragma unroll
            for (int lower = 0; lower < 2; ++lower) {
              e[2 * lower] = j[lower] <= i && j[lower] >= from.x
                                 ? __expf((high.x - high_j[lower]) + (low.x - low_j[lower]))
                                 : 0.0f;
              e[2 * lower + 1] = j[lower] <= i + 1 && j[lower] >= from.y
                                     ? __expf((high.y - high_j[lower]) + (low.y - low_j[lower]))
                                     : 0.0f;
            }
          } else {
            const float by_x = from.x <= m ? __expf((high.x - high_m) + (low.x - low_m)) : 0.0f;
            const float by_y = from.y <= m ? __expf((high.y - high_m) + (low.y - low_m)) : 0.0f;
            e[0] = by_x * by_j[0], e[1] = by_y * by_j[0], e[2] = by_x * by_j[1], e[3] = by_y * by_j[1];
          }
#pragma unroll
          for (int a = 0; a < 4; ++a) {
            const int lower = a / 2, odd = a % 2;
            const float m_e = r_m[2 * block + tile][a] * e[a];
            e[a] *= dt[lower];
            if (!with_sums) continue;
            const float xy = r_xy[2 * block + tile][a], pair = xy * m_e, r = pair * dt[lower];
            d_dt[lower] += pair;
            r_d_m[2 * block + tile][a] += xy * e[a];
            if (diagonal) {
              diagonal_block[tile][a] = r;
              if (i + odd == j[lower]) sums.xy[j[lower]] = xy;
            } else {
              row_sums[lower] += r;
              column_sums[4 * block + 2 * tile + odd] += r;
            }
          }
          const float* r = r_m[2 * block + tile];
          weights[tile][0] = cuda::pack_bf16(r[0] * e[0], r[1] * e[1]);
          weights[tile][1] = cuda::pack_bf16(r[2] * e[2], r[3] * e[3]);
        }
        if (with_weights) {
#pragma unroll
          for (int tile = 0; tile < 2; ++tile)
#pragma unroll
            for (int lower = 0; lower < 2; ++lower)
              *reinterpret_cast<uint32_t*>(&s.weights[j[lower] * pitch_of(rows) + i0 + 8 * tile + 2 * q]) =
                  weights[tile][lower];
        }
      });
      if constexpr (decltype(with_sums)::value) {
#pragma unroll
        for (int lower = 0; lower < 2; ++lower) {
          row_sums[lower] = quad_sum(row_sums[lower]);
          d_dt[lower] = quad_sum(d_dt[lower]);
          if (q == 0) {
            sums.row_sums[part][first + 8 * lower] = row_sums[lower];
            sums.d_dt[part][first + 8 * lower] = d_dt[lower];
          }
        }
        const float column_sum = scatter_sum(column_sums);
        const int value = g / (2 / blocks);  // [block][tile][odd]
        if (g % (2 / blocks) == 0)
          sums.column_sums[strip][16 * blocks * part + 8 * (value / 2) + 2 * q + value % 2] = column_sum;
        if (part == strip / blocks) diagonal_sums(diagonal_block, &sums.diagonal[16 * strip]);
      }
    };
    // Adds rows scaled by `into` to a sum, and hands out the rows' dots with b or c, scaled by `dot_by`.
    auto add_rows = [&](const float(&r)[tiles][4], float(&r_sum)[tiles][4], const bf16* s_rows, const float(&into)[2],
                        const float(&dot_by)[2], float* s_dot) {
      float dot[2] = {};
#pragma unroll
      for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
        for (int lower = 0; lower < 2; ++lower) {
          const uint32_t pair = *reinterpret_cast<const uint32_t*>(
              &s_rows[(first + 8 * lower) * b_pitch + part * part_N + 8 * tile + 2 * q]);
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
      add_rows(r_u, r_d_c, s.c, in, in, sums.dot_u[part]);
      r_kept = warp_sum(r_kept);
      if (thread % 32 == 0) sums.kept[warp] = r_kept;
    };
    auto add_v = [&] {
      const float out[2] = {decays.out[first], decays.out[second]},
                  write[2] = {out[0] * decays.dt[first], out[1] * decays.dt[second]};
      add_rows(r_v, r_d_b, s.b, write, out, sums.dot_v[part]);
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
      }
      cuda::copy_async_commit();
      if (p_tile == 0) {
        if (head > 0) finish_before(h - 1);
        if (makes_decays && head + 1 < heads) {
          tokens.finish(s.decays[3 - now - before], k);
          if (head + 2 < heads) tokens.read(v, n, h + 2, k);
        }
      }

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
          load_right(right, s_state, b_pitch, e, part * part_N + 8 * tile);
          multiply(r_u[tile], r_u[tile + 1], left, right);
          if (e / 16 == strip % steps && tile / 2 % (4 / steps) == strip / steps) {
            load_right(other, s_d_state, b_pitch, e, part * part_N + 8 * tile);
#pragma unroll
            for (int i = 0; i < 4; ++i)
              r_kept += low_of(right[i]) * low_of(other[i]) + high_of(right[i]) * high_of(other[i]);
          }
        }
      }
      if constexpr (!many) add_u();

        // V = X dS^T for rows j, before exp(G_L - G_j)
#pragma unroll
      for (int e = 0; e < columns; e += 16) {
        uint32_t left[4], right[4];
        load_left(left, s_x, pitch, 16 * strip, e);
#pragma unroll
        for (int tile = 0; tile < tiles; tile += 2) {
          load_right(right, s_d_state, b_pitch, e, part * part_N + 8 * tile);
          multiply(r_v[tile], r_v[tile + 1], left, right);
        }
      }
      if constexpr (!many) add_v();

      // dX = exp(G_L - G_j) dt_j (B dS)_j + (M E dt_j)^T dY + d dy for rows j and 16 columns
      float r_d_x[2][4] = {};
#pragma unroll 4
      for (int e = 0; e < N; e += 16) {
        uint32_t left[4], right[4];
        load_left(left, s.b, b_pitch, 16 * strip, e);
        load_right_transposed(right, s_d_state, b_pitch, 16 * part, e);
        multiply(r_d_x[0], r_d_x[1], left, right);
      }
      const float skip = v.g_d ? v.g_d[h] : 0.0f,
                  write[2] = {decays.out[first] * decays.dt[first], decays.out[second] * decays.dt[second]};
#pragma unroll
      for (int tile = 0; tile < 2; ++tile)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          const uint32_t dy =
              *reinterpret_cast<const uint32_t*>(&s_dy[(first + 4 * e) * pitch + 16 * part + 8 * tile + 2 * q]);
          r_d_x[tile][e] = r_d_x[tile][e] * write[e / 2] + skip * low_of(dy);
          r_d_x[tile][e + 1] = r_d_x[tile][e + 1] * write[e / 2] + skip * high_of(dy);
        }
      __syncthreads();  // the weights: as late as it may be, for those without pairs are ahead
#pragma unroll
      for (int e = 0; e < rows; e += 16) {
        if (e < 16 * strip) continue;
        uint32_t left[4], right[4];
        load_left(left, s.weights, pitch_of(rows), 16 * strip, e);
        load_right(right, s_dy, pitch, e, 16 * part);
        multiply(r_d_x[0], r_d_x[1], left, right);
      }
      const int p0 = p_tile * columns + 16 * part;
      store_narrow(r_d_x, to.g_d_x + v.head(n, begin + 16 * strip, h) * v.P + p0, x_row, L - 16 * strip, int(v.P) - p0);
    }
    if constexpr (many) {
      add_u();
      add_v();
      for_pairs(std::false_type{}, std::true_type{});
    }
    const int next = 3 - now - before;
    before = now;
    now = next;
    parity ^= 1;
  }

  __syncthreads();
  finish_before(h0 + heads - 1);

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
        load_right(right, s.c, b_pitch, e, part * part_N + 8 * tile);
        multiply(r_d_b[tile], r_d_b[tile + 1], left, right);
      }
    }
    if (e <= 16 * strip) {
      load_left_transposed(left, s.weights, pitch_of(rows), e, 16 * strip);
#pragma unroll
      for (int tile = 0; tile < tiles; tile += 2) {
        load_right(right, s.b, b_pitch, e, part * part_N + 8 * tile);
        multiply(r_d_c[tile], r_d_c[tile + 1], left, right);
      }
    }
  }
  const int64_t corner = v.group(n, begin + 16 * strip, group) + part * part_N;
  const int rows_in = L - 16 * strip, columns_in = N_in - part * part_N;
  if (to.splits == 1) {
    auto store = [&](const float(&r)[tiles][4], bf16* g_to) {
      if constexpr (tiles == 2) store_narrow(r, g_to, b_row, rows_in, columns_in);
      else
#pragma unroll
        for (int tile = 0; tile < tiles; tile += 4)
          store_wide(&r[tile], g_to + 8 * tile, b_row, rows_in, columns_in - 8 * tile);
    };
    store(r_d_b, to.g_d_b + corner);
    store(r_d_c, to.g_d_c + corner);
    return;
  }
  const int64_t offset = split * v.B * v.steps * b_row + corner;
#pragma unroll
  for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      const int row = g + 4 * e, column = 8 * tile + 2 * q;
      if (row >= rows_in || column >= columns_in) continue;
      *reinterpret_cast<float2*>(to.g_d_b_parts + offset + row * b_row + column) =
          make_float2(r_d_b[tile][e], r_d_b[tile][e + 1]);
      *reinterpret_cast<float2*>(to.g_d_c_parts + offset + row * b_row + column) =
          make_float2(r_d_c[tile][e], r_d_c[tile][e + 1]);
    }
}

// The parts of d_b and d_c summed in their order; 4 elements to a thread.
__global__ void __launch_bounds__(256)
    sum_parts_kernel(const float* g_b_parts, const float* g_c_parts,  // [splits,numel]
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
  *reinterpret_cast<uint2*>((of_c ? g_d_c : g_d_b) + e) =
      make_uint2(cuda::pack_bf16(sum.x, sum.y), cuda::pack_bf16(sum.z, sum.w));
}

// What a block of either pass needs at most.
template <int N>
constexpr int64_t shared_bytes() {
  return std::max({sizeof(ForwardMemory<N>), sizeof(ReverseMemory<N>), sizeof(GradientMemory<N, true>),
                   N == 256 ? 0 : sizeof(GradientMemory<N, false>)});
}

template <int N>
void launch_backward(const SsdScanBackward& a) {
  Device& device = a.device();
  const View<bf16> v(a.in, a.chunk);
  const cudaStream_t stream = cuda::stream_of(device);
  const Tensor d_y = !a.d_y                                                 ? zeros_like(a.in.x)
                     : reinterpret_cast<uintptr_t>(a.d_y.data<bf16>()) % 16 ? clone(a.d_y)
                                                                            : a.d_y;
  const Tensor d_states = empty_like(a.states), d_d(device, {v.B, v.chunks, v.H}, Dtype::f32);
  if (N <= on_hopper::most_reverse_N && on_hopper::here()) {
    if constexpr (N <= on_hopper::most_reverse_N) on_hopper::launch_reverse<N>(v, d_y, a.d_final, d_states, a.d_initial, stream);
  } else {
    constexpr int bytes = int(sizeof(ReverseMemory<N>));
    take_shared(reverse_kernel<N>, bytes);
    reverse_kernel<N><<<cuda::blocks_for(walks_of(v), 1), walk_threads, bytes, stream>>>(
        v, d_y.data<bf16>(), a.d_final ? a.d_final.data<float>() : nullptr, d_states.data<bf16>(),
        a.d_initial ? a.d_initial.data<float>() : nullptr);
    cuda::cuda_check(cudaGetLastError());
  }

  // Enough blocks for two on each multiprocessor of a large GPU; with N = 256 one head to each.
  const int64_t chunks = v.B * v.chunks * v.G, share = v.H / v.G;
  const int splits = int(std::min(share, N == 256 ? share : std::max<int64_t>(1, 256 / chunks)));
  const Tensor parts = splits > 1 ? Tensor(device, {2, splits, v.B, v.steps, v.G, v.N}, Dtype::f32) : Tensor{};
  const int64_t numel = v.B * v.steps * v.G * v.N;
  const Gradients to{.g_states = a.states.data<bf16>(),
                     .g_d_states = d_states.data<bf16>(),
                     .g_d_y = d_y.data<bf16>(),
                     .g_d_x = a.d_x.data<bf16>(),
                     .g_d_log_a = a.d_log_a.data<float>(),
                     .g_d_dt = a.d_dt ? a.d_dt.data<float>() : nullptr,
                     .g_d_d = d_d.data<float>(),
                     .g_d_b = a.d_b.data<bf16>(),
                     .g_d_c = a.d_c.data<bf16>(),
                     .g_d_b_parts = parts ? parts.data<float>() : nullptr,
                     .g_d_c_parts = parts ? parts.data<float>() + splits * numel : nullptr,
                     .splits = splits};
  auto launch = [&](auto many) {
    constexpr int bytes = int(sizeof(GradientMemory<N, many()>));
    take_shared(gradient_kernel<N, many()>, bytes);
    gradient_kernel<N, many()>
        <<<cuda::blocks_for(chunks * splits, 1), GradientShare<many()>::threads, bytes, stream>>>(v, to);
    cuda::cuda_check(cudaGetLastError());
  };
  if (N == 256 || v.P > GradientShare<false>::columns) launch(std::true_type{});
  else launch(std::bool_constant<N == 256>{});
  if (splits > 1) {
    sum_parts_kernel<<<cuda::blocks_for(2 * numel / 4, 256), 256, 0, stream>>>(to.g_d_b_parts, to.g_d_c_parts, to.g_d_b,
                                                                               to.g_d_c, numel, splits);
    cuda::cuda_check(cudaGetLastError());
  }
  if (!a.d_d) return;
  d_d_kernel<float><<<cuda::blocks_for(v.H, 1), product_threads, 0, stream>>>(d_d.data<float>(), a.d_d.data<float>(),
                                                                              v.B * v.chunks, v.H);
  cuda::cuda_check(cudaGetLastError());
}

}  // namespace taper::kernels::ssd
