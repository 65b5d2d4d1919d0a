// delta_scan on CUDA in bf16, backward, last pass: all of a chunk's gradients but d_v, from the states around it.
//
// The columns of V come by slices, and three products of [64,V] with a state and two of [64,V] with [64,V] are summed
// over them in registers; then the pairs inside the chunk. dbeta = e . w with w = w' - B^T l is made of the same
// numbers:
//   dbeta_j = sum_i (P_ij (dy_i . e_j) - B_ij (l_i . e_j)) + exp(G_L - G_j) k_j . Z e_j
// The summands of the first sum, times beta_j, are those of the pairs in dlog_a.
#pragma once
#include "cuda/ops/delta_scan_prepare.cuh"
#include "cuda/reduce.cuh"

namespace taper::kernels::delta_bf16 {

constexpr int slice = 32;  // columns of V at a time

template <int keys>
struct Slice {
  bf16 d_y[rows][slice + pad], l[rows][slice + pad], e[rows][slice + pad];
  bf16 state[slice / 8][keys / 8][64], d_state[slice / 8][keys / 8][64];  // tiles
};
struct Pairs {  // takes the slices' place when they are done
  float sum[rows][rows + 1];
  bf16 d_scores[rows][rows + pad], d_keys[rows][rows + pad];  // dP, dM + dM^T
  float ends[2][rows], starts[2][rows];                       // q . X + k . Y', and exp(G_L - G_j) k . Z e; halves of K
};
constexpr int slices_ahead = 3;  // places, one of them in use

template <int keys>
struct GradientsShared {
  bf16 k[rows][keys + pad], q[rows][keys + pad];
  union {
    Slice<keys> slices[slices_ahead];
    Pairs pairs;
  };
};

template <int keys>
__device__ void load_slice(Slice<keys>& s, const View& v, const Chunk& c, const bf16* g_d_y, const bf16* g_l,
                           const bf16* g_errors, const bf16* g_states, const bf16* g_d_states, int64_t left) {
  const int width = int(min(int64_t(slice), v.V - left));
  const int64_t at = c.head * v.V + left;
  copy_tile<slice>(s.d_y, g_d_y ? g_d_y + at : v.k, v.H * v.V, g_d_y ? c.L : 0, width);
  copy_tile<slice>(s.l, g_l + at, v.H * v.V, c.L, width);
  copy_tile<slice>(s.e, g_errors + at, v.H * v.V, c.L, width);
  constexpr int across = keys / 8;
  for (int x = threadIdx.x; x < slice / 8 * across * 8; x += blockDim.x) {
    const int row = x % 8, key = x / 8 % across, column = x / 8 / across;
    const bool present = 8 * column < width && 8 * key < v.K;
    const int64_t from = present ? c.index * v.KV + ((left / 8 + column) * (v.K / 8) + key) * 64 + row * 8 : 0;
    cuda::copy_async(&s.state[column][key][8 * row], g_states + from, present);
    cuda::copy_async(&s.d_state[column][key][8 * row], g_d_states + from, present);
  }
}

// B [16,8] and its right neighbour of a state's transpose: columns 16x.. of the slice by keys 8n..
template <int keys>
__device__ void load_state(uint32_t (&b)[4], const bf16 (&s)[slice / 8][keys / 8][64], int x, int n) {
  cuda::ldmatrix_x4_trans(b, &s[2 * x + lane() / 8 % 2][n + lane() / 16][lane() % 8 * 8]);
}

// A block of 8 warps per chunk: 4 strips of 16 tokens by 2 halves of the keys (and of the tokens that pairs meet).
template <int keys>
__global__ void __launch_bounds__(256, 1) gradients_kernel(View v, const bf16* g_states, const bf16* g_d_states,
                                                           const bf16* g_errors,               // [B,T,H,V]
                                                           const bf16* g_l,                    // [B,T,H,V]
                                                           const bf16* g_d_y,                  // [B,T,H,V] or absent
                                                           bf16* g_d_q, bf16* g_d_k,           // [B,T,H,K]
                                                           float* g_d_log_a, float* g_d_beta)  // [B,T,H]
{
  extern __shared__ __align__(16) unsigned char s_bytes[];
  __shared__ Decays s_decays;
  __shared__ float s_kept;
  GradientsShared<keys>& s = *reinterpret_cast<GradientsShared<keys>*>(s_bytes);
  const Chunk c(v, blockIdx.x);
  const int g = lane() / 4, q = lane() % 4, strip = warp() % 4 * 16, half = warp() / 4;
  constexpr int tiles = keys / 16;  // of 8 keys, in a half
  const int first = half * (keys / 2);
  const float scale = float(v.scale);
  const int count = int((v.V + slice - 1) / slice);

  auto load = [&](int x) {
    if (x < count)
      load_slice(s.slices[x % slices_ahead], v, c, g_d_y, g_l, g_errors, g_states, g_d_states, int64_t(x) * slice);
    cuda::copy_async_commit();
  };
  copy_tile<keys>(s.k, v.k + c.head * v.K, v.H * v.K, c.L, int(v.K));
  copy_tile<keys>(s.q, v.q + c.head * v.K, v.H * v.K, c.L, int(v.K));
  for (int x = 0; x < slices_ahead - 1; ++x) load(x);
  load_decays(s_decays, v, c);

  // Tokens strip + g, + 8 against tokens 32 half + 8n + 2q.. (dy . e, l . e) or keys first + 8n + 2q..
  float ye[4][4] = {}, le[4][4] = {}, X[tiles][4] = {}, Y[tiles][4] = {}, W[tiles][4] = {}, kept = 0;
  for (int at = 0; at < count; ++at) {
    cuda::copy_async_wait<slices_ahead - 2>();
    __syncthreads();
    load(at + slices_ahead - 1);
    const Slice<keys>& t = s.slices[at % slices_ahead];
#pragma unroll
    for (int x = 0; x < slice / 16; ++x) {
      uint32_t dy[4], l[4], e[4], b[4];
      load_a(dy, t.d_y, strip, 16 * x);
      load_a(l, t.l, strip, 16 * x);
      load_a(e, t.e, strip, 16 * x);
#pragma unroll
      for (int m = 0; m < 4; m += 2)
        if (32 * half + 8 * m <= strip) {
          load_b_transposed(b, t.e, 32 * half + 8 * m, 16 * x);
          multiply(ye[m], ye[m + 1], dy, b);
          multiply(le[m], le[m + 1], l, b);
        }
#pragma unroll
      for (int m = 0; m < tiles; m += 2) {
        load_state<keys>(b, t.state, x, half * tiles + m);
        multiply(X[m], X[m + 1], dy, b);
        multiply(Y[m], Y[m + 1], l, b);
        load_state<keys>(b, t.d_state, x, half * tiles + m);
        multiply(W[m], W[m + 1], e, b);
      }
    }
    using Words = cuda::Vector<uint32_t, 4>;
    const auto *S = reinterpret_cast<const Words*>(t.state), *Z = reinterpret_cast<const Words*>(t.d_state);
    for (int x = threadIdx.x; x < slice * keys / 8; x += blockDim.x) {
      const Words a = S[x], b = Z[x];
      for (int m = 0; m < 4; ++m) kept += low(a.at[m]) * low(b.at[m]) + high(a.at[m]) * high(b.at[m]);
    }
  }
  cuda::copy_async_wait<0>();
  kept = cuda::block_sum<256>(kept);  // every warp is past the slices: their place is free
  if (threadIdx.x == 0) s_kept = s_decays.in[rows - 1] * kept;

  // Pairs.
  Pairs& pairs = s.pairs;
  {
    float qk[4][4] = {}, kk[4][4] = {};
#pragma unroll
    for (int x = 0; x < keys; x += 16) {
      uint32_t query[4], key[4], b[4];
      load_a(query, s.q, strip, x);
      load_a(key, s.k, strip, x);
#pragma unroll
      for (int m = 0; m < 4; m += 2)
        if (32 * half + 8 * m <= strip) {
          load_b_transposed(b, s.k, 32 * half + 8 * m, x);
          multiply(qk[m], qk[m + 1], query, b);
          multiply(kk[m], kk[m + 1], key, b);
        }
    }
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
      for (int x = 0; x < 4; ++x) {
        const int i = strip + g + x / 2 * 8, j = 32 * half + 8 * m + 2 * q + x % 2;
        const float E = s_decays.between(i, j), of_scores = scale * E * ye[m][x],
                    of_keys = j < i ? -E * le[m][x] : 0.0f;
        pairs.sum[i][j] = of_scores * qk[m][x] + of_keys * kk[m][x];
        pairs.d_scores[i][j] = bf16(of_scores * s_decays.beta[j]);
        if (j <= i) {
          const bf16 d = bf16(of_keys * s_decays.beta[j]);
          pairs.d_keys[i][j] = d;
          pairs.d_keys[j][i] = d;
        }
      }
  }

  // X, Y' and W' with their factors; their products with q and k.
  {
    float end[2] = {}, start[2] = {};
#pragma unroll
    for (int m = 0; m < tiles; ++m)
#pragma unroll
      for (int x = 0; x < 2; ++x) {
        const int t = strip + g + 8 * x, key = first + 8 * m + 2 * q;
        const uint32_t of_q = *reinterpret_cast<const uint32_t*>(&s.q[t][key]);
        const uint32_t of_k = *reinterpret_cast<const uint32_t*>(&s.k[t][key]);
        const float in = s_decays.in[t], out = s_decays.out[t], beta = s_decays.beta[t];
        float(&to_q)[4] = X[m], (&to_k)[4] = Y[m];
        const float w[2] = {out * W[m][2 * x], out * W[m][2 * x + 1]};
        for (int y = 2 * x; y < 2 * x + 2; ++y) {
          to_q[y] *= scale * in;
          to_k[y] *= -in;
        }
        end[x] += low(of_q) * to_q[2 * x] + high(of_q) * to_q[2 * x + 1] + low(of_k) * to_k[2 * x] +
                  high(of_k) * to_k[2 * x + 1];
        start[x] += low(of_k) * w[0] + high(of_k) * w[1];
        to_k[2 * x] += beta * w[0];
        to_k[2 * x + 1] += beta * w[1];
      }
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      for (int lanes = 1; lanes < 4; lanes *= 2) {
        end[x] += __shfl_xor_sync(0xffffffffu, end[x], lanes);
        start[x] += __shfl_xor_sync(0xffffffffu, start[x], lanes);
      }
      if (q == 0) {
        pairs.ends[half][strip + g + 8 * x] = end[x];
        pairs.starts[half][strip + g + 8 * x] = start[x];
      }
    }
  }
  __syncthreads();

  // dQ = dP K + X, dK = dP^T Q + (dM + dM^T) K + Y' + W'.
#pragma unroll
  for (int x = 0; x < 4; ++x) {
    uint32_t d_scores[4], turned[4], d_keys[4], b[4];
    load_a(d_scores, pairs.d_scores, strip, 16 * x);
    load_a_transposed(turned, pairs.d_scores, 16 * x, strip);
    load_a(d_keys, pairs.d_keys, strip, 16 * x);
#pragma unroll
    for (int m = 0; m < tiles; m += 2) {
      load_b(b, s.k, 16 * x, first + 8 * m);
      multiply(Y[m], Y[m + 1], d_keys, b);
      if (16 * x <= strip) multiply(X[m], X[m + 1], d_scores, b);
      if (16 * x >= strip) {
        load_b(b, s.q, 16 * x, first + 8 * m);
        multiply(Y[m], Y[m + 1], turned, b);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < tiles; m += 2)
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      const int t = strip + g + 8 * x;
      const int64_t at = (c.head + t * v.H) * v.K + first + 8 * m;
      const bool present = t < c.L && first + 8 * m < v.K;
      store_row(g_d_q + at, cuda::pack_bf16(X[m][2 * x], X[m][2 * x + 1]),
                cuda::pack_bf16(X[m + 1][2 * x], X[m + 1][2 * x + 1]), present);
      store_row(g_d_k + at, cuda::pack_bf16(Y[m][2 * x], Y[m][2 * x + 1]),
                cuda::pack_bf16(Y[m + 1][2 * x], Y[m + 1][2 * x + 1]), present);
    }

  // Four lanes per token, 16 others each.
  const int t = threadIdx.x / 4, from = threadIdx.x % 4 * 16;
  auto over_four = [](float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
  };
  const bool writes = threadIdx.x % 4 == 0 && t < c.L;
  const int64_t to = c.head + t * v.H;
  float column = 0, row = 0;
  for (int i = from; i < from + 16; ++i) {
    column += pairs.sum[i][t];
    row += s_decays.beta[i] * pairs.sum[t][i];
  }
  column = over_four(column);
  if (writes) g_d_beta[to] = column + pairs.starts[0][t] + pairs.starts[1][t];
  __syncthreads();
  float before = 0;  // of row t, what lies left of `from`
  for (int x = 0; x < 3; ++x) {
    const float of = __shfl_sync(0xffffffffu, row, lane() / 4 * 4 + x);
    before += 16 * x < from ? of : 0.0f;
  }
  for (int j = from; j < from + 16; ++j) {
    const float pair = s_decays.beta[j] * pairs.sum[t][j];
    pairs.sum[t][j] = before;
    before += pair;
  }
  __syncthreads();
  float crossing = 0;
  for (int i = from; i < from + 16; ++i) {
    if (i >= t) crossing += pairs.sum[i][t] + pairs.ends[0][i] + pairs.ends[1][i];
    else crossing += s_decays.beta[i] * (pairs.starts[0][i] + pairs.starts[1][i]);
  }
  crossing = over_four(crossing);
  if (writes) g_d_log_a[to] = s_kept + crossing;
}

}  // namespace taper::kernels::delta_bf16
