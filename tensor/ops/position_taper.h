// position_taper: s[b,t,h] = (n / reference)^(-alpha[h]), n = the position, 1-based (packing.h)
//
//   forward    s         = exp(-alpha_h * log(n / reference))
//   backward   d_alpha_h = -sum_{b,t} log(n / reference) * s * d_s
//
//   alpha [H]   s [B,T,H]   f32 f64 (bf16 is cast by the caller: the exponent must not round)
//   Position 1 is never scaled (reference = 1). Source: specification 4.1, 4.2.
#pragma once
#include "tensor/kernel.h"
#include "tensor/packing.h"

namespace taper::kernels {

struct PositionTaperForward {
  Tensor alpha = {}, s = {};
  Packing packing = {};
  double reference = 1;
  Device& device() const { return alpha.device(); }
};
struct PositionTaperBackward {
  Tensor s = {}, d_s = {}, d_alpha = {};
  Packing packing = {};
  double reference = 1;
  Device& device() const { return s.device(); }
};

inline constinit Kernel<PositionTaperForward> position_taper_forward{"position_taper.forward"};
inline constinit Kernel<PositionTaperBackward> position_taper_backward{"position_taper.backward"};

}  // namespace taper::kernels
