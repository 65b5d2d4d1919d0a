// Exponents of the position taper from rates c_0 .. c_{N-1}: what taper_exponent and rate_exponent share.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace taper::cuda {

// Before clamping; c_0 is taken off. The ends are exactly 1 and 0 (N = 1: 0).
__device__ inline double raw_exponent(double c, double total, double log_length, int64_t k, int64_t N) {
  if (k == N - 1) return 0;
  if (k == 0) return 1;
  const double place = double(k) / double(N - 1);
  return 1 - place + (c - place * total) / log_length;
}
__device__ inline double clamped(double raw) { return raw < 0 ? 0 : raw > 1 ? 1 : raw; }  // NaN stays NaN

// The gradient that passes the clamp; none at the ends, where raw is constant.
__device__ inline double through_clamp(double raw, double d_alpha, double log_length, int64_t k, int64_t N) {
  return k > 0 && k < N - 1 && 0 <= raw && raw <= 1 ? d_alpha / log_length : 0;
}

}  // namespace taper::cuda
