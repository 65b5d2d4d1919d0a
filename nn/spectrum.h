// PostSpectrum: decay rates that stay ordered, theta + cumsum(softplus(delta)), and the taper
// exponents that follow from their gaps. Specification 4.
#pragma once
#include "autograd/ops.h"
#include "nn/parameter.h"

namespace taper {

struct SpectrumNames {  // what the reference's checkpoints call them
  std::string theta, delta;
};

struct PostSpectrum {
  Parameter theta;  // []     log rate of the slowest head
  Parameter delta;  // [N-1]  gaps before softplus

  // Log rates evenly spaced from `first` to `last` (first < last, or N = 1): geometric rates.
  PostSpectrum(const Init& init, const SpectrumNames& names, int64_t N, double first, double last);

  Var rates(Tape& tape) const;                              // p [N]
  Var exponents(Tape& tape, int64_t train_length) const;    // alpha [N]
};

// The exponents of evenly spaced log rates, 1 - k/(N-1): tapering without the spectrum. alpha [N]
Tensor even_exponents(Device& device, int64_t N, Dtype dtype);

}  // namespace taper
