// rotary: turns pairs of channels by an angle that grows with the position (RetNet's q and k).
//
//   turn   for n < K/2, angle = (position - 1) base^(-2n/K):
//          y_n       = x_n cos(angle) - x_{n+K/2} sin(angle)
//          y_{n+K/2} = x_n sin(angle) + x_{n+K/2} cos(angle)
//   back   the same by -angle; it undoes the turn and is the gradient as well, since a turn is orthogonal
//
//   x y [B,T,H,K], K even   f32 f64 bf16, computed in f32 (f64 for f64). Positions (packing.h) begin anew with every
//   document and go on from packing.t0. The angle is formed in f64: at position 10^6 an f32 is 0.06 off.
//   Source: specification 1.5.
#pragma once
#include "tensor/kernel.h"
#include "tensor/packing.h"

namespace taper::kernels {

struct Rotary {
  Tensor x = {}, y = {};
  Packing packing = {};
  double base = 10000;
  bool back = false;
  Device& device() const { return x.device(); }
};

inline constinit Kernel<Rotary> rotary_turn{"rotary.turn"};

}  // namespace taper::kernels
