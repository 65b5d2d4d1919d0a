// accumulate: sum += d, the fan-in of backward and of micro-batches. No rule: it is not differentiated.
//
//   sum, d   same shape; f32 f64 bf16
#pragma once
#include <string>

#include "tensor/kernel.h"

namespace taper::kernels {

struct Accumulate {
  Tensor sum = {}, d = {};
  Device& device() const { return sum.device(); }
};

inline void check_accumulate(const Accumulate& a) {
  const auto text = [](const Tensor& t) { return std::string(name(t.dtype())) + " " + t.shape().text(); };
  if (a.sum.shape() != a.d.shape() || a.sum.dtype() != a.d.dtype())
    raise("accumulate: d must be " + text(a.sum) + "; got " + text(a.d));
}

inline constinit Kernel<Accumulate> accumulate{"accumulate"};

}  // namespace taper::kernels
