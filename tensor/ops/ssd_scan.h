// ssd_scan: a linear recurrence with one decay per head (Mamba-2; RetNet with constant decay).
//
//   S_t = exp(log_a_t) S_{t-1} + dt_t b_t x_t^T          S [N,P], S_0 = initial or 0
//   y_t = S_t^T c_t + d x_t
//
//   x [B,T,H,P]   log_a [B,T,H] <= 0   b c [B,T,G,N], G divides H: heads h*G/H share a row
//   dt [B,T,H] absent: 1   d [H] absent: 0   initial [B,H,N,P] absent: 0   final [B,H,N,P]
//   f32 f64; on CUDA also bf16: then x b c y, their gradients and states are bf16, the others f32.
//   At a document start (packing) the state begins at 0.
//
// Chunked form. In a chunk of L tokens, G_i = sum of log_a up to i, kept in f64 so that a difference
// G_i - G_j <= 0 is exact even behind a huge decay; only such differences are exponentiated.
//   E_ij = exp(G_i - G_j), j <= i, same document;   M = C B^T, shared by the heads of a group
//   y    = (M * E * dt_j) X + exp(G_i) C S_in + d x
//   S_out = exp(G_L) S_in + sum_j exp(G_L - G_j) dt_j b_j x_j^T
//
// Backward, given dY and dS_out (specification 2.2; Z = d S, R_ij = (dY X^T * M * E)_ij dt_j):
//   dS_in   = exp(G_L) dS_out + sum_i exp(G_i) c_i dy_i^T
//   dX      = (M * E * dt_j)^T dY + exp(G_L - G_j) dt_j (B dS_out)_j + d dy
//   dC      = dM B + U,      U_i = exp(G_i) S_in dy_i,       dM = dY X^T * E * dt_j summed over heads
//   dB      = dM^T C + dt V, V_j = exp(G_L - G_j) dS_out x_j
//   d_dt_j  = sum_i R_ij / dt_j + b_j . V_j
//   dlog_a_t = sum_{i>=t>j} R_ij + sum_{i>=t} c_i . U_i + sum_{j<t} dt_j b_j . V_j + exp(G_L) <S_in, dS_out>
// The last line adds what crosses t (pairs, state to output, input to state, state to state), each
// once; the shorter form q.dq - k.dk is a difference of large sums and cancels.
#pragma once
#include "tensor/kernel.h"
#include "tensor/packing.h"

namespace taper::kernels {

struct SsdScanInputs {
  Tensor x = {}, log_a = {}, b = {}, c = {}, dt = {}, d = {}, initial = {};
  Packing packing = {};
};
struct SsdScanForward {
  SsdScanInputs in = {};
  Tensor y = {}, final = {};
  Tensor states = {};  // [B,ceil(T/chunk),H,N,P], the state before each chunk; absent in recurrent form. For the
                       // backward alone: a device may lay each state out as it likes
  int64_t chunk = 0;   // 0: the recurrence, token by token
  Device& device() const { return in.x.device(); }
};
struct SsdScanBackward {
  SsdScanInputs in = {};
  Tensor states = {};
  Tensor d_y = {}, d_final = {};  // absent: 0
  Tensor d_x = {}, d_log_a = {}, d_b = {}, d_c = {};
  Tensor d_dt = {}, d_d = {}, d_initial = {};  // absent where the input is
  int64_t chunk = 0;
  Device& device() const { return in.x.device(); }
};

inline constinit Kernel<SsdScanForward> ssd_scan_forward{"ssd_scan.forward"};
inline constinit Kernel<SsdScanBackward> ssd_scan_backward{"ssd_scan.backward"};

}  // namespace taper::kernels
