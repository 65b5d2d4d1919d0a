// Decay: initialisers and reports.
#include "nn/mixers/decay.h"

#include <algorithm>
#include <cmath>

#include "tensor/random.h"

namespace taper {

double inverse_softplus(double y) { return y + std::log(-std::expm1(-y)); }

Draw fill_dt_bias() {
  return [](const Random& random, uint64_t i) {
    const double drawn = std::exp(std::log(0.001) + random.uniform(i) * (std::log(0.1) - std::log(0.001)));
    return inverse_softplus(std::max(drawn, 1e-4));
  };
}

Draw fill_a_log() {
  return [](const Random& random, uint64_t i) { return std::log(16 * random.uniform(i)); };
}

std::vector<HeadSpectrum> head_spectrum(const Var& p, const Tensor& dt_bias, const Var& alpha) {
  const std::vector<double> log_rate = to_doubles(p.value), bias = to_doubles(dt_bias);
  const std::vector<double> exponent = alpha ? to_doubles(alpha.value) : std::vector<double>(log_rate.size(), 0.0);
  std::vector<HeadSpectrum> heads;
  for (size_t h = 0; h < log_rate.size(); ++h) {
    const double rate = std::exp(log_rate[h]), dt = std::log1p(std::exp(bias[h]));
    heads.push_back({.rate = rate, .time_constant = 1 / (rate * dt), .alpha = exponent[h]});
  }
  return heads;
}

}  // namespace taper
