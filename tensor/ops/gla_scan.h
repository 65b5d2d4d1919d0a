// gla_scan: a linear recurrence with one decay per head and key channel (GLA).
//
//   S_t = diag(exp(log_a_t)) S_{t-1} + k_t v_t^T          S [K,V], S_0 = initial or 0
//   y_t = scale S_t^T q_t
//
//   q k [B,T,H,K]   v [B,T,H,V]   log_a [B,T,H,K] <= 0   initial [B,H,K,V] absent: 0
//   y [B,T,H,V]     final [B,H,K,V]
//   f32 f64; on CUDA also bf16: then q k v y, their gradients and states are bf16, the others f32.
//   At a document start (packing) the state begins at 0.
//
// Chunked form. In a chunk of L tokens let D_ij [K] = exp(log_a_{j+1} + ... + log_a_i), per channel, j <= i: what is left
// after token i of what token j brought; 0 across a document start. D_i- is the same from the state before the chunk.
// With q already scaled, * the product by channel, and A_ij = 0 unless j <= i:
//   A_ij  = sum_n q_in k_jn D_ijn
//   y     = A V + (q * D_i-) S_in
//   S_out = diag(D_L-) S_in + sum_j (k_j * D_Lj) v_j^T
// A decay per channel does not come out of the sum over n, so the pairs are split at boundaries. The
// boundaries form a binary tree: one in the middle, one in the middle of each half, down to blocks of
// 16. Each pair of blocks meets at one boundary m, where D_ij falls into two factors <= 1:
//   A_ij = (q_i * D_i,m-1) . (k_j * D_m-1,j)            i >= m > j: one product of matrices
// Boundaries lie between blocks, so each factor is a running product of exp(log_a) inside one block, at
// most 16 of them, times exp of a sum in f64 over the whole blocks in between. No difference of cumulative
// sums occurs: a decay of -1e4 costs its neighbours no digit. Inside a block of 16 the pairs' decays are
// running products as well.
// A decay towards a boundary or the state counts as 0 below 2^-63 in f32 (2^-511 in f64): two of them never
// multiply to a denormal.
//
// Backward, given dY and dS_out (specification 2.3; Z = d S):
//   dS_in = diag(D_L-) dS_out + sum_i (q_i * D_i-) dy_i^T
//   dA    = dY V^T where A is not 0,          dV = A^T dY + (k * D_L) dS_out
//   dq_i  = sum_j dA_ij k_j * D_ij + D_i- * (S_in dy_i)
//   dk_j  = sum_i dA_ij q_i * D_ij + D_Lj * (dS_out v_j)
// The short form of d log_a, a suffix sum of q * dq - k * dk, is a difference of large sums: in f32 a
// small gradient (strong decay, short documents) drowns in it. Instead d log_a_t adds what crosses t, each
// once, and subtracts nothing. A pair of tokens i >= t > j crosses t. At a boundary m its part is
//   m <= t: sum_{i>=t} q_i * dq_i,    t < m: sum_{j<t} k_j * dk_j       dq, dk of this boundary's pairs
// and the two ends of the chunk are boundaries too:
//   state to output: sum_{i>=t} q_i * dq_i;   input to state: sum_{j<t} k_j * dk_j;   state to state:
//   D_L- * <S_in, dS_out> by channel.
// Inside a block of 16 it is the adjoint of the running product: with W_ij = k_j * D_ij and
// X_tj = sum_{i>=t} dA_ij q_i * D_it, its part is sum_{j<t} X_tj * W_tj.
#pragma once
#include "tensor/kernel.h"
#include "tensor/packing.h"

namespace taper::kernels {

struct GlaScanInputs {
  Tensor q = {}, k = {}, v = {}, log_a = {}, initial = {};
  double scale = 1;
  Packing packing = {};
};
struct GlaScanForward {
  GlaScanInputs in = {};
  Tensor y = {}, final = {};
  Tensor states = {};  // [B,ceil(T/chunk),H,K,V], the state before each chunk; absent in recurrent form
  int64_t chunk = 0;   // 0: the recurrence, token by token
  Device& device() const { return in.v.device(); }
};
struct GlaScanBackward {
  GlaScanInputs in = {};
  Tensor states = {};
  Tensor d_y = {}, d_final = {};  // absent: 0
  Tensor d_q = {}, d_k = {}, d_v = {}, d_log_a = {};
  Tensor d_initial = {};  // absent where the input is
  int64_t chunk = 0;
  Device& device() const { return in.v.device(); }
};

inline constinit Kernel<GlaScanForward> gla_scan_forward{"gla_scan.forward"};
inline constinit Kernel<GlaScanBackward> gla_scan_backward{"gla_scan.backward"};

}  // namespace taper::kernels
