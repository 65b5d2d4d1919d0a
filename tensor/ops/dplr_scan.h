// dplr_scan: a linear recurrence with one decay per key channel and a removal of rank one (RWKV-7).
//
//   m_t = S_{t-1}^T a_t                                           what the removal reads, before the decay
//   S_t = diag(exp(log_w_t)) S_{t-1} + b_t m_t^T + k_t v_t^T      S [K,V], S_0 = initial or 0
//   y_t = S_t^T r_t
//
//   r k a b [B,T,H,K]   log_w [B,T,H,K] <= 0   v [B,T,H,V]   initial [B,H,K,V] absent: 0   final [B,H,K,V]
//   f32 f64; bf16 on a GPU, log_w initial final and their gradients then f32. At a document start (packing) the state
//   begins at 0, so m = 0 there. RWKV-7: a = -kappa, b = kappa * gate with |kappa| = 1, 0 <= gate <= 1; then a step
//   without decay has the eigenvalues 1 and 1 - sum of gate kappa^2, which is in [0,1].
//
// Chunked form. In a chunk of L tokens let D_ij = exp(log_w_{j+1} + ... + log_w_i), per channel, j <= i: what is left
// after token i of what token j brought; 0 across a document start. D_i- is the same from the state before the chunk.
// Token i asks twice: a_i before its own decay, r_i after it. Token j brings two keys: k_j with v_j, b_j with m_j.
//   pairs     A_ij = sum_n a_in (k or b)_jn D_{i-1,j,n}, j < i        P_ij = sum_n r_in (k or b)_jn D_ijn, j <= i
//   queries   a'_i = a_i D_{i-1,-}, r'_i = r_i D_i-                  keys   k'_j = k_j D_Lj, b'_j = b_j D_Lj
//   (I - A_b) M = A_k V + a' S_in        by substitution, row by row
//   Y     = P_k V + P_b M + r' S_in
//   S_out = D_L- S_in + k'^T V + b'^T M
// D is built token by token: all keys so far are multiplied by exp(log_w_i) when token i comes. Only factors <= 1
// occur and no difference of cumulative sums, so a decay of -1e4 costs its neighbours no digit; L factors are off
// by some L/2 ulp. Only D_L-, which acts once per chunk on all that follows, is exp of a sum in f64: exp(-1e-8)
// is 1 in f32, and the product would lose that decay in every token.
//
// Backward, given dY and dS_out (specification 2.5, with the triangular system solved, not inverted):
//   dV = P_k^T dY + k' dS_out    dM = P_b^T dY + b' dS_out    then (I - A_b)^T X = dM and dV += A_k^T X
//   da' = X S_in^T    dr' = dY S_in^T    dk' = V dS_out^T    db' = M dS_out^T    d(pairs) = [X; dY] [V; M]^T
//   dS_in = D_L- dS_out + a'^T X + r'^T dY
//   dr_i = D_i- dr'_i + sum_{j<=i} (dP_k k_j + dP_b b_j) D_ij         dk_j = D_Lj dk'_j + sum_{i>=j} ...; da, db alike
//   dlog_w_t = what crosses t, each way once: queries after t with keys before t, the state before the chunk to
//              queries after t, keys before t to the state after the chunk, state to state
// The sum for dr_i begins with the farthest source: cut after key j and times r_i, it is what crosses token j+1 on
// its way to r_i. The shorter form r.dr - k.dk - b.db + a.da, summed from t on, is a difference of large sums;
// behind a strong decay none of its digits would be right.
#pragma once
#include "tensor/kernel.h"
#include "tensor/packing.h"

namespace taper::kernels {

// The longest chunk. In bf16 a chunk is tiles of tensor cores, and a quarter of the states is kept.
constexpr int64_t dplr_scan_longest_chunk(Dtype dtype) { return dtype == Dtype::bf16 ? 64 : 16; }

struct DplrScanInputs {
  Tensor r = {}, log_w = {}, k = {}, v = {}, a = {}, b = {}, initial = {};
  Packing packing = {};
};
struct DplrScanForward {
  DplrScanInputs in = {};
  Tensor y = {}, final = {};
  Tensor states = {};  // [B,ceil(T/chunk),H,K,V], the state before each chunk, in the order and scale that the backward
                       // of the device wants; absent in recurrent form
  Tensor m = {};       // [B,ceil(T/chunk),H,chunk,V], so that a chunk's rows lie together; absent likewise, and in bf16:
                       // the backward finds it again
  int64_t chunk = 0;   // 0: the recurrence, token by token
  Device& device() const { return in.r.device(); }
};
struct DplrScanBackward {
  DplrScanInputs in = {};
  Tensor states = {}, m = {};
  Tensor d_y = {}, d_final = {};  // absent: 0
  Tensor d_r = {}, d_log_w = {}, d_k = {}, d_v = {}, d_a = {}, d_b = {};
  Tensor d_initial = {};  // absent where the input is
  int64_t chunk = 0;
  Device& device() const { return in.r.device(); }
};

inline constinit Kernel<DplrScanForward> dplr_scan_forward{"dplr_scan.forward"};
inline constinit Kernel<DplrScanBackward> dplr_scan_backward{"dplr_scan.backward"};

}  // namespace taper::kernels
