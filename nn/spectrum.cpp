// PostSpectrum: its initialiser, and the two ops it feeds.
#include "nn/spectrum.h"

#include <cmath>

#include "tensor/error.h"

namespace taper {

PostSpectrum::PostSpectrum(const Init& init, const SpectrumNames& names, int64_t N, double first, double last) {
  check(N >= 1 && (N == 1 || first < last), "spectrum: want N >= 1 rates from a slower to a faster; got N {} from {} to {}", N,
        first, last);
  theta = init.make(names.theta, {}, fill_constant(first));
  // The reference adds 1e-6 inside the logarithm; expm1 keeps small gaps exact.
  const double gap = N > 1 ? (last - first) / double(N - 1) : 1;
  delta = init.make(names.delta, {N - 1}, fill_constant(std::log(std::expm1(gap) + 1e-6)));
}

Var PostSpectrum::rates(Tape& tape) const { return spectral_cumsum(leaf(tape, theta), leaf(tape, delta)); }

Var PostSpectrum::exponents(Tape& tape, int64_t train_length) const {
  return taper_exponent(leaf(tape, delta), double(train_length));
}

Tensor even_exponents(Device& device, int64_t N, Dtype dtype) {
  std::vector<double> alpha(size_t(N), 0.0);
  for (int64_t k = 0; k + 1 < N; ++k) alpha[size_t(k)] = 1 - double(k) / double(N - 1);
  return from_doubles(device, {N}, dtype, alpha);
}

}  // namespace taper
