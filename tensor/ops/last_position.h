// last_position: the position (1-based) of a window's last token, which is how many tokens of its document the state after
// the window has consumed. No rule: positions are integers.
//
//   y[b] = position(b, T-1) of packing (tensor/packing.h): t0[b] + T where no document began inside, else T - its start
//
//   y [B] i64   packing start [B,T], t0 [B], both may be absent   y and t0 may be one tensor
#pragma once
#include "tensor/kernel.h"
#include "tensor/packing.h"

namespace taper::kernels {

struct LastPosition {
  Packing packing = {};
  int64_t T = 0;
  Tensor y = {};
  Device& device() const { return y.device(); }
};

inline constinit Kernel<LastPosition> last_position{"last_position"};

}  // namespace taper::kernels
