// gla_scan on CUDA in bf16, backward: all gradients of a chunk, given the state before it and the state's gradient after it.
// All chunks are independent. Values pass 64 at a time; what is summed over them stays in registers:
//   dA = dY V^T,   dY S^T for d_q,   V Z^T for d_k;   d_v = A^T dY + (k * D_L) Z leaves at once.
// Then the pairs' shares of d_q and d_k, and last one thread per block and channel turns sums into gradients: it has the
// pairs inside its block, and of d_log_a each way that crosses a token once, none subtracted (contract):
//   ways between this block and a later place, from q_i * dq_i behind t;   between this and an earlier place, from k_j * dk_j
//   before t;   ways over the whole block: column sums of either, and D_L- * <S, Z>.
#pragma once
#include "cuda/ops/gla_scan_chunk.cuh"

namespace taper::kernels::gla_bf16 {

template <int keys>
struct GradientStage {
  bf16 v[tokens][columns + pad], d_y[tokens][columns + pad], S[keys][columns + pad], Z[keys][columns + pad];
};
template <int keys>
struct GradientSums {  // what reaches q^ and k^ from other blocks and the states
  float q[tokens][keys + 4], k[tokens][keys + 4];
};
template <int keys>
struct GradientShared {
  union {
    GradientStage<keys> stage;
    GradientSums<keys> sums;
  };
  Operands<keys> operands;
  bf16 d_pairs[pair_count][rows][rows + pad];  // dA
  float d_inside[blocks][rows][rows + 4];      // dA of the pairs inside a block
  // Sums over a block's tokens, by channel: q * dq from the state, k * dk to the state; k * dk of block 0 from blocks 2 and
  // 3; q * dq of block 3 from blocks 0 and 1; and <S, Z>.
  float q_state[blocks][keys], k_state[blocks][keys], over_1[keys], over_2[keys], S_Z[keys];
};

// Column sums of d * x over a warp's 16 rows, d being two D and x the operand they belong to; g_to[0 .. 15].
template <int pitch>
__device__ void sum_columns(const float (&d)[2][4], const bf16* s_x, float* s_to) {
  const int g = lane() / 4, q = lane() % 4;
  float r[4];  // columns 2q, 2q+1, 8+2q, 8+2q+1 of rows g and g + 8
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    const uint32_t upper = pair_at(s_x + g * pitch + 8 * t + 2 * q), lower = pair_at(s_x + (g + 8) * pitch + 8 * t + 2 * q);
    r[2 * t] = low(upper) * d[t][0] + low(lower) * d[t][2];
    r[2 * t + 1] = high(upper) * d[t][1] + high(lower) * d[t][3];
  }
  // Eight lanes have the same columns. Half of them go on with two columns, half of those with one.
  const bool second = lane() & 16, odd = lane() & 8;
  float x = second ? r[2] : r[0], y = second ? r[3] : r[1];
  x += __shfl_xor_sync(~0u, second ? r[0] : r[2], 16);
  y += __shfl_xor_sync(~0u, second ? r[1] : r[3], 16);
  float sum = odd ? y : x;
  sum += __shfl_xor_sync(~0u, odd ? x : y, 8);
  sum += __shfl_xor_sync(~0u, sum, 4);
  if (!(lane() & 4)) s_to[8 * second + 2 * q + odd] = sum;
}

__device__ inline void scale_columns(float (&d)[2][4], const float* s_by, bool upper, bool lower) {
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    const float2 by = floats_at(s_by + 8 * t + 2 * (lane() % 4));
    d[t][0] = upper ? d[t][0] * by.x : 0.0f, d[t][1] = upper ? d[t][1] * by.y : 0.0f;
    d[t][2] = lower ? d[t][2] * by.x : 0.0f, d[t][3] = lower ? d[t][3] * by.y : 0.0f;
  }
}

__device__ inline void add_product(float (&sum)[2][4], const uint32_t (&a)[4], const uint32_t (&b)[2][2], const float* s_by) {
  float d[2][4] = {};
  cuda::mma_bf16(d[0], a, b[0]);
  cuda::mma_bf16(d[1], a, b[1]);
  scale_columns(d, s_by, true, true);
#pragma unroll
  for (int t = 0; t < 2; ++t)
#pragma unroll
    for (int e = 0; e < 4; ++e) sum[t][e] += d[t][e];
}

__device__ inline void store_sums(const float (&d)[2][4], float* s_to, int pitch) {
  const int g = lane() / 4, q = lane() % 4;
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    *reinterpret_cast<float2*>(s_to + g * pitch + 8 * t + 2 * q) = {d[t][0], d[t][1]};
    *reinterpret_cast<float2*>(s_to + (g + 8) * pitch + 8 * t + 2 * q) = {d[t][2], d[t][3]};
  }
}

// A block's log_a of one channel, 0 at a document start and behind the last token. The pointers begin at the chunk.
template <int keys>
__device__ void load_log_a(float (&r)[rows], const Operands<keys>& o, const Chunk& c, const float* g_log_a, int stride, int block,
                           int n, bool packed) {
  const int present = c.length - block * rows;
  const float* at = g_log_a + block * rows * stride + n;
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    r[i] = i < present ? *at : 0.0f;
    at += stride;
  }
  if (!packed) return;
#pragma unroll
  for (int i = 0; i < rows; ++i)
    if (o.sees_from[block * rows + i] == block * rows + i) r[i] = 0;
}

// The gradients of one channel of one block whose reference is the middle. Of d_log_a, r_d_log_a has all but the pairs
// inside: with R_it = sum_{j<t} dA_ij k^_j these are sum_{i>=t} q^_i R_it.
template <int keys>
__device__ void finish_middle(GradientShared<keys>& s, const Chunk& c, const float* g_log_a, const float (&r_q)[rows],
                              const float (&r_k)[rows], float (&r_d_log_a)[rows], int block, int n, bf16* g_d_q, bf16* g_d_k,
                              const Window& z) {
  const int stride = int(z.H * z.K);
  float r_d_k[rows] = {};
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    float run = 0, d[rows];
#pragma unroll
    for (int j = 0; j <= i; j += 4) {
      const float4 four = *reinterpret_cast<const float4*>(&s.d_inside[block][i][j]);
      d[j] = four.x, d[j + 1] = four.y, d[j + 2] = four.z, d[j + 3] = four.w;
    }
#pragma unroll
    for (int j = 0; j <= i; ++j) {
      run += d[j] * r_k[j];
      r_d_k[j] += d[j] * r_q[i];
      if (j < i) r_d_log_a[j + 1] += r_q[i] * run;
    }
    s.sums.q[block * rows + i][n] += run;
  }
  float r_log_a[rows];
  load_log_a(r_log_a, s.operands, c, g_log_a, stride, block, n, z.packing.start != nullptr);
  const auto store = [&](int i, float sum) {
    const int t = block * rows + i;
    if (t >= c.length) return;
    g_d_q[t * stride + n] = rounded(z.scale * fast_exp(sum) * s.sums.q[t][n]);
    g_d_k[t * stride + n] = rounded(fast_exp(-sum) * (s.sums.k[t][n] + r_d_k[i]));
  };
  float sum = 0;
#pragma unroll
  for (int i = rows / 2; i < rows; ++i) store(i, sum += r_log_a[i]);
  sum = 0;
#pragma unroll
  for (int i = rows / 2 - 1; i >= 0; --i) {
    store(i, -sum);
    sum += r_log_a[i];
  }
}

// The same where the references are the block's ends: the pairs inside by the running products W and X of the contract.
template <int keys>
__device__ void finish_ends(GradientShared<keys>& s, const Chunk& c, const float* g_log_a, float (&r_d_log_a)[rows], int block,
                            int n, const bf16* g_q, const bf16* g_k, bf16* g_d_q, bf16* g_d_k, const Window& z) {
  const int stride = int(z.H * z.K);
  float r_a[rows], r_q[rows], r_d_q[rows], since = 1;
  load_log_a(r_a, s.operands, c, g_log_a, stride, block, n, z.packing.start != nullptr);
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    const int t = block * rows + i;
    r_a[i] = fast_exp(r_a[i]);
    since *= r_a[i];
    r_q[i] = t < c.length ? z.scale * float(g_q[t * stride + n]) : 0.0f;
    r_d_q[i] = since * s.sums.q[t][n];
  }
#pragma unroll 1
  for (int j = 0; j < rows && block * rows + j < c.length; ++j) {
    const int at = (block * rows + j) * stride + n;
    const float k = float(g_k[at]);
    float r_W[rows], W = 0, until = 1, X = 0;
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      W = i == j ? k : W * r_a[i];
      until = i > j ? until * r_a[i] : until;
      r_W[i] = W;
      r_d_q[i] += s.d_inside[block][i][j] * W;
    }
#pragma unroll
    for (int i = rows - 1; i >= 0; --i) {
      if (i < j) continue;
      X += s.d_inside[block][i][j] * r_q[i];
      if (i > j) {
        r_d_log_a[i] += X * r_W[i];
        X *= r_a[i];
      }
    }
    g_d_k[at] = rounded(X + until * s.sums.k[block * rows + j][n]);
  }
#pragma unroll
  for (int i = 0; i < rows; ++i)
    if (block * rows + i < c.length) g_d_q[(block * rows + i) * stride + n] = rounded(z.scale * r_d_q[i]);
}

template <int keys>
__global__ void __launch_bounds__(threads, keys <= 96 ? 2 : 1)
    gradients_kernel(const bf16* g_q, const bf16* g_k,          // [B,T,H,K]
                     const bf16* g_v, const bf16* g_d_y,        // [B,T,H,V]; d_y absent: 0
                     const float* g_log_a,                      // [B,T,H,K]
                     const bf16* g_states, const bf16* g_d_states,  // [B,count,H,K,V] before; after each chunk
                     bf16* g_d_q, bf16* g_d_k, bf16* g_d_v, float* g_d_log_a, Window z) {
  extern __shared__ __align__(16) unsigned char s_bytes[];
  GradientShared<keys>& s = *reinterpret_cast<GradientShared<keys>*>(s_bytes);
  Operands<keys>& o = s.operands;
  constexpr int pitch = columns + pad, key_pitch = keys + pad, pair_pitch = rows + pad, parts = keys / 32;
  constexpr int diagonals = (keys / 16 + threads / 32 - 1) / (threads / 32);  // of S Z^T, 16 channels each, a warp's
  const Chunk c(z, blockIdx.x);
  const int tiles = int((z.V + columns - 1) / columns);
  const auto ask = [&](int tile) {
    const int64_t left = tile * int64_t(columns), state = int64_t(blockIdx.x) * z.K * z.V;
    copy_tile<tokens, columns, threads>(s.stage.v[0], g_v + c.first * z.V, z.H * z.V, c.length, left, z.V, int(threadIdx.x));
    copy_tile<tokens, columns, threads>(s.stage.d_y[0], g_d_y ? g_d_y + c.first * z.V : g_v, z.H * z.V, g_d_y ? c.length : 0, left, z.V, int(threadIdx.x));
    copy_tile<keys, columns, threads>(s.stage.S[0], g_states + state, z.V, int(z.K), left, z.V, int(threadIdx.x));
    copy_tile<keys, columns, threads>(s.stage.Z[0], g_d_states + state, z.V, int(z.K), left, z.V, int(threadIdx.x));
    cuda::copy_async_commit();
  };
  const bool middle = load_operands(o, c, g_q, g_k, g_log_a, z, [&] { ask(0); });
  __syncthreads();
  make_pairs(o, middle, c, g_q, g_k, g_log_a, z);

  // A warp has the rows of block I, and half of the channels or of the values.
  const int I = warp() % blocks, half = warp() / blocks, g = lane() / 4, q = lane() % 4, first_key = half * keys / 2;
  const int last = o.sees_from[c.length - 1];
  const bool to_state_upper = I * rows + g >= last, to_state_lower = I * rows + g + 8 >= last;
  float r_d_q[parts][2][4] = {}, r_d_k[parts][2][4] = {}, r_dA[blocks][4] = {}, r_S_Z[diagonals][2][4] = {};

  for (int tile = 0; tile < tiles; ++tile) {
    cuda::copy_async_wait<0>();
    __syncthreads();  // the tile is there, and before the first the pairs are
    const GradientStage<keys>& from = s.stage;
#pragma unroll 1  // more would not fit the registers
    for (int p = 0; p < columns; p += 16) {
      uint32_t a_d_y[4], a_v[4];
      load_a(a_d_y, &from.d_y[I * rows][p], pitch);
      load_a(a_v, &from.v[I * rows][p], pitch);
#pragma unroll
      for (int J = 0; J < blocks; ++J)
        if (J <= I) {
          uint32_t b[2];
          cuda::ldmatrix_x2(b, &from.v[J * rows + half * 8 + lane() % 8][p + lane() / 8 % 2 * 8]);
          cuda::mma_bf16(r_dA[J], a_d_y, b);
        }
#pragma unroll
      for (int part = 0; part < parts; ++part) {
        uint32_t b[2][2];
        load_b_of_columns(b, &from.S[first_key + part * 16][p], pitch);
        cuda::mma_bf16(r_d_q[part][0], a_d_y, b[0]);
        cuda::mma_bf16(r_d_q[part][1], a_d_y, b[1]);
        load_b_of_columns(b, &from.Z[first_key + part * 16][p], pitch);
        cuda::mma_bf16(r_d_k[part][0], a_v, b[0]);
        cuda::mma_bf16(r_d_k[part][1], a_v, b[1]);
      }
#pragma unroll
      for (int d = 0; d < diagonals; ++d) {
        const int n = (d * threads / 32 + warp()) * 16;
        if (n >= keys) continue;
        uint32_t a[4], b[2][2];
        load_a(a, &from.S[n][p], pitch);
        load_b_of_columns(b, &from.Z[n][p], pitch);
        cuda::mma_bf16(r_S_Z[d][0], a, b[0]);
        cuda::mma_bf16(r_S_Z[d][1], a, b[1]);
      }
    }
    float r_d_v[4][4] = {};
    for (int from_I = I; from_I < blocks; ++from_I) {
      uint32_t a[4];
      load_a_transposed(a, o.pairs[pair_number(from_I, I)][0], pair_pitch);
#pragma unroll
      for (int two = 0; two < 2; ++two) {
        uint32_t b[2][2];
        load_b_of_rows(b, &from.d_y[from_I * rows][half * 32 + two * 16], pitch);
        cuda::mma_bf16(r_d_v[2 * two], a, b[0]);
        cuda::mma_bf16(r_d_v[2 * two + 1], a, b[1]);
      }
    }
#pragma unroll 2
    for (int n = 0; n < keys; n += 16) {
      uint32_t a[4];
      load_a(a, &o.k[I * rows][n], key_pitch);
      const float* s_way = &o.between[way(I + 1, 5)][n + 2 * q];
      const float2 left = floats_at(s_way), right = floats_at(s_way + 8);
      a[0] = to_state_upper ? scaled(a[0], left) : 0;
      a[1] = to_state_lower ? scaled(a[1], left) : 0;
      a[2] = to_state_upper ? scaled(a[2], right) : 0;
      a[3] = to_state_lower ? scaled(a[3], right) : 0;
#pragma unroll
      for (int two = 0; two < 2; ++two) {
        uint32_t b[2][2];
        load_b_of_rows(b, &from.Z[n][half * 32 + two * 16], pitch);
        cuda::mma_bf16(r_d_v[2 * two], a, b[0]);
        cuda::mma_bf16(r_d_v[2 * two + 1], a, b[1]);
      }
    }
    store_tile(r_d_v, g_d_v + (c.first + I * rows * z.H) * z.V, z.H * z.V, c.length - I * rows, tile * columns + half * 32, z.V);
    __syncthreads();  // before the stage is written again, by copies or by sums
    if (tile + 1 < tiles) ask(tile + 1);
  }

#pragma unroll
  for (int d = 0; d < diagonals; ++d) {
    const int n = (d * threads / 32 + warp()) * 16;
    if (n >= keys || g / 2 != q) continue;
    s.S_Z[n + g] = g % 2 ? r_S_Z[d][0][1] : r_S_Z[d][0][0];
    s.S_Z[n + g + 8] = g % 2 ? r_S_Z[d][1][3] : r_S_Z[d][1][2];
  }
#pragma unroll
  for (int J = 0; J < blocks; ++J) {
    if (J > I) continue;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int i = g + 8 * r, j = 8 * half + 2 * q, from = o.sees_from[I * rows + i] - J * rows;
      const float left = j >= from && (I > J || j <= i) ? r_dA[J][2 * r] : 0.0f;
      const float right = j + 1 >= from && (I > J || j + 1 <= i) ? r_dA[J][2 * r + 1] : 0.0f;
      *reinterpret_cast<uint32_t*>(&s.d_pairs[pair_number(I, J)][i][j]) = cuda::pack_bf16(left, right);
      if (I == J) *reinterpret_cast<float2*>(&s.d_inside[I][i][j]) = {left, right};
    }
  }
  __syncthreads();

  const bool sees_upper = o.sees_from[I * rows + g] < 0, sees_lower = o.sees_from[I * rows + g + 8] < 0;
#pragma unroll
  for (int part = 0; part < parts; ++part) {
    const int n = first_key + part * 16;
    uint32_t a[4], b[2][2];
    float r_pairs[2][4] = {};
    scale_columns(r_d_q[part], &o.between[way(0, I + 1)][n], sees_upper, sees_lower);
    sum_columns<key_pitch>(r_d_q[part], &o.q[I * rows][n], &s.q_state[I][n]);
    for (int J = 0; J < I; ++J) {
      load_a(a, s.d_pairs[pair_number(I, J)][0], pair_pitch);
      load_b_of_rows(b, &o.k[J * rows][n], key_pitch);
      add_product(r_pairs, a, b, &o.between[way(J + 1, I + 1)][n]);
      if (I == 3 && J == 1) sum_columns<key_pitch>(r_pairs, &o.q[I * rows][n], &s.over_2[n]);
    }
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int e = 0; e < 4; ++e) r_pairs[t][e] += r_d_q[part][t][e];
    store_sums(r_pairs, &s.sums.q[I * rows][n], keys + 4);
  }
#pragma unroll
  for (int part = 0; part < parts; ++part) {
    const int n = first_key + part * 16;
    uint32_t a[4], b[2][2];
    float r_pairs[2][4] = {};
    scale_columns(r_d_k[part], &o.between[way(I + 1, 5)][n], to_state_upper, to_state_lower);
    sum_columns<key_pitch>(r_d_k[part], &o.k[I * rows][n], &s.k_state[I][n]);
    for (int from_I = blocks - 1; from_I > I; --from_I) {
      load_a_transposed(a, s.d_pairs[pair_number(from_I, I)][0], pair_pitch);
      load_b_of_rows(b, &o.q[from_I * rows][n], key_pitch);
      add_product(r_pairs, a, b, &o.between[way(I + 1, from_I + 1)][n]);
      if (I == 0 && from_I == 2) sum_columns<key_pitch>(r_pairs, &o.k[I * rows][n], &s.over_1[n]);
    }
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int e = 0; e < 4; ++e) r_pairs[t][e] += r_d_k[part][t][e];
    store_sums(r_pairs, &s.sums.k[I * rows][n], keys + 4);
  }
  __syncthreads();

  const int stride = int(z.H * z.K);
  const int64_t first = c.first * z.K;
#pragma unroll 1
  for (int task = int(threadIdx.x); task < keys * blocks; task += threads) {
    const int n = task % keys, block = task / keys;
    if (n >= z.K) continue;
    float r_q[rows], r_k[rows], r_d_log_a[rows];
    float over = last < 0 ? o.between[way(0, 5)][n] * s.S_Z[n] : 0.0f;
    for (int J = 0; J < block; ++J) over += s.k_state[J][n];
    for (int later = block + 1; later < blocks; ++later) over += s.q_state[later][n];
    if (block == 1) over += s.over_1[n];
    if (block == 2) over += s.over_2[n];
    float run = 0;
#pragma unroll
    for (int i = rows - 1; i >= 0; --i) {
      r_q[i] = float(o.q[block * rows + i][n]);
      run += r_q[i] * s.sums.q[block * rows + i][n];
      r_d_log_a[i] = over + run;
    }
    run = 0;
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      r_d_log_a[i] += run;
      r_k[i] = float(o.k[block * rows + i][n]);
      run += r_k[i] * s.sums.k[block * rows + i][n];
    }
    if (middle) finish_middle(s, c, g_log_a + first, r_q, r_k, r_d_log_a, block, n, g_d_q + first, g_d_k + first, z);
    else finish_ends(s, c, g_log_a + first, r_d_log_a, block, n, g_q + first, g_k + first, g_d_q + first, g_d_k + first, z);
#pragma unroll
    for (int i = 0; i < rows; ++i)
      if (block * rows + i < c.length) g_d_log_a[first + (block * rows + i) * stride + n] = r_d_log_a[i];
  }
}

template <int keys>
void launch_gradients_of(const Window& z, const GlaScanBackward& a, const Tensor& d_states, cudaStream_t stream) {
  constexpr int bytes = int(sizeof(GradientShared<keys>));
  cuda::allow_shared(gradients_kernel<keys>, bytes);
  gradients_kernel<keys><<<cuda::blocks_for(z.B * z.count * z.H, 1), threads, bytes, stream>>>(
      a.in.q.data<bf16>(), a.in.k.data<bf16>(), a.in.v.data<bf16>(), a.d_y ? a.d_y.data<bf16>() : nullptr,
      a.in.log_a.data<float>(), a.states.data<bf16>(), d_states.data<bf16>(), a.d_q.data<bf16>(), a.d_k.data<bf16>(),
      a.d_v.data<bf16>(), a.d_log_a.data<float>(), z);
  cuda::cuda_check(cudaGetLastError());
}

}  // namespace taper::kernels::gla_bf16
