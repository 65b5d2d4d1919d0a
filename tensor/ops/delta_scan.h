// delta_scan: the gated delta rule (Gated DeltaNet; DeltaNet where log_a is 0).
//
//   S' = exp(log_a_t) S_{t-1}                            S [K,V], S_0 = initial or 0
//   e_t = v_t - S'^T k_t                                 what the decayed state gets wrong about k_t
//   S_t = S' + beta_t k_t e_t^T                          y_t = scale S_t^T q_t
//
//   q k [B,T,H,K]   v y [B,T,H,V]   log_a [B,T,H] <= 0   beta [B,T,H]   initial [B,H,K,V] absent: 0
//   final [B,H,K,V]   f32 f64, and bf16 on a GPU: then log_a, beta, initial, final and their gradients are f32.
//   At a document start (packing) the state begins at 0.
//   With |k| <= 1 every beta in [0,2] is stable: 0 only decays, 1 replaces, 2 reflects.
//
// Chunked form (specification 2.4). In a chunk of L tokens (G, E: chunk_decay.h), M = K K^T and
// B_ij = M_ij E_ij for j < i. The errors of a chunk depend on one another through B alone:
//   (I + B diag(beta)) e = V - exp(G_i) K S_in           unit lower triangular, inverted once per chunk
//   y     = P (beta e) + scale exp(G_i) Q S_in,          P_ij = scale (q_i . k_j) E_ij, j <= i
//   S_out = exp(G_L) S_in + sum_j exp(G_L - G_j) k_j beta_j e_j^T
// The WY form's U - W S_in is the inverse applied to the two terms apart; applied to their difference it
// is one product less. Solving for e rather than beta e leaves nothing to divide by a beta of 0.
//
// Backward, given dY and Z = dS_out; w is the gradient of u = beta e, l that of e:
//   (I + diag(beta) B)^T w = P^T dY + exp(G_L - G_j) K Z,   l = beta w
//   dV      = l,   dbeta_i = e_i . w_i
//   dS_in   = exp(G_L) Z + scale sum_i exp(G_i) q_i dy_i^T - sum_i exp(G_i) k_i l_i^T
//   dP_ij   = scale E_ij dy_i . u_j  (j <= i),   dM_ij = -E_ij l_i . u_j  (j < i)
//   dQ      = dP K + X,             X_i = scale exp(G_i) S_in dy_i
//   dK      = dP^T Q + (dM + dM^T) K + Y + W,   Y_i = -exp(G_i) S_in l_i,   W_j = exp(G_L - G_j) Z u_j
//   dlog_a_t = sum_{i>=t>j} (dP_ij q_i.k_j + dM_ij k_i.k_j) + sum_{i>=t} (q_i.X_i + k_i.Y_i)
//              + sum_{j<t} k_j.W_j + exp(G_L) <S_in, Z>
// The last line adds what crosses t, each path once (pairs, state to output and to error, input to state,
// state to state), as in ssd_scan: G_i is a part of a path exactly where the path spans it, and that holds
// for the paths through B too. The form q.dq - k.dk is a difference of large sums and cancels.
#pragma once
#include "tensor/kernel.h"
#include "tensor/packing.h"

namespace taper::kernels {

struct DeltaScanInputs {
  Tensor q = {}, k = {}, v = {}, log_a = {}, beta = {}, initial = {};
  double scale = 1;
  Packing packing = {};
};
struct DeltaScanForward {
  DeltaScanInputs in = {};
  Tensor y = {}, final = {};
  Tensor states = {};  // [B,ceil(T/chunk),H,K,V], the state before each chunk, its elements in an order of the
                       // implementation's own; absent in recurrent form
  Tensor errors = {};  // [B,T,H,V], e; absent in recurrent form
  int64_t chunk = 0;   // 0: the recurrence, token by token
  Device& device() const { return in.q.device(); }
};
struct DeltaScanBackward {
  DeltaScanInputs in = {};
  Tensor states = {}, errors = {};
  Tensor d_y = {}, d_final = {};  // absent: 0
  Tensor d_q = {}, d_k = {}, d_v = {}, d_log_a = {}, d_beta = {};
  Tensor d_initial = {};  // absent where the input is
  int64_t chunk = 0;
  Device& device() const { return in.q.device(); }
};

inline constinit Kernel<DeltaScanForward> delta_scan_forward{"delta_scan.forward"};
inline constinit Kernel<DeltaScanBackward> delta_scan_backward{"delta_scan.backward"};

}  // namespace taper::kernels
