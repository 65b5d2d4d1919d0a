// Vector math: exp, log, log1p, sigmoid, tanh, softplus without a branch or a call, so that a loop over
// floats becomes vector instructions. Doubles take the library's functions.
//
//   float: at most 2 ulp (sigmoid 2.5), right at +-inf, NaN and +-0; an exp below 2^-126 is 0, since
//   arithmetic with denormals is slow
//   The same code runs on a GPU. No step needs, or survives only without, -ffast-math.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "tensor/host_device.h"

namespace taper::math {

HOST_DEVICE inline double exp(double x) { return std::exp(x); }
HOST_DEVICE inline double log(double x) { return std::log(x); }
HOST_DEVICE inline double log1p(double x) { return std::log1p(x); }
HOST_DEVICE inline double tanh(double x) { return std::tanh(x); }

// e^x = 2^n e^r with n = round(x / ln 2): |r| <= ln 2 / 2, and a polynomial is enough for e^r.
HOST_DEVICE inline float exp(float x) {
  // Adding 1.5 * 2^23 leaves no bits for a fraction: it rounds, and the low bits of the sum hold n.
  constexpr float shift = 0x1.8p23f, log2_e = 0x1.715476p0f;
  constexpr float ln2_high = 0x1.62ep-1f, ln2_low = 0x1.0bfbe8p-15f;  // n * ln2_high is exact
  const float shifted = x * log2_e + shift;
  const float n = shifted - shift;
  const float r = (x - n * ln2_high) - n * ln2_low;
  const float q =
      4.9999993437e-01f +
      r * (1.6666520478e-01f + r * (4.1668389843e-02f + r * (8.3687355570e-03f + r * 1.3814560843e-03f)));
  const float p = 1 + (r + r * r * q);
  // Times 2^n by adding n to the exponent; outside the two bounds the bits mean nothing.
  const float y = std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23));
  const float beyond = x * 0x1p127f;  // inf above the bound, and NaN stays NaN
  const float upper = x <= 0x1.62e42ep6f ? y : beyond;
  return x < -0x1.5d589ep6f ? 0.0f : upper;
}

namespace detail {
// log(u) + c for a normal u > 0 and a correction c far smaller than log(u) or, where u is 1, any c.
HOST_DEVICE inline float log_plus(float u, float c) {
  constexpr uint32_t sqrt_half = 0x3f3504f3u;
  constexpr float ln2_high = 0x1.62ep-1f, ln2_low = 0x1.0bfbe8p-15f;
  const uint32_t bits = std::bit_cast<uint32_t>(u) - sqrt_half;
  const float k = float(int32_t(bits) >> 23);
  const float f = std::bit_cast<float>((bits & 0x7fffffu) + sqrt_half) - 1;  // u = 2^k (1 + f), f in [-.3, .42]
  // log(1 + f) = 2s + s^3 (2/3 + 2/5 s^2 + ...), s = f / (2 + f); written so that f itself is not rounded.
  const float s = f / (2 + f), z = s * s;
  const float r = z * (6.6666665683e-01f + z * (4.0000328701e-01f + z * (2.8537646098e-01f + z * 2.3576688977e-01f)));
  const float half = 0.5f * f * f;
  return k * ln2_high - ((half - (s * (half + r) + (k * ln2_low + c))) - f);
}
}  // namespace detail

HOST_DEVICE inline float log(float x) {
  constexpr float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  // A denormal's exponent field says nothing: times 2^23, and 23 ln 2 comes off again. (A second ?: here
  // would make GCC compute both paths.)
  const float up = x < 0x1p-126f ? 0x1p23f : 1.0f;
  const float y = detail::log_plus(x * up, 0) - (up - 1) * (0x1.fe2804p+3f / (0x1p23f - 1));
  const float finite = x < inf ? y : x;  // inf, and NaN stays NaN
  const float positive = x == 0 ? -inf : finite;
  return x < 0 ? nan : positive;
}

HOST_DEVICE inline float log1p(float x) {
  constexpr float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float u = 1 + x;
  const float y = detail::log_plus(u, (x - (u - 1)) / u);  // c: what 1 + x lost to rounding
  const float finite = x < inf ? y : x;
  const float inside = x == -1 ? -inf : finite;
  return x < -1 ? nan : inside;
}

template <class A>
HOST_DEVICE inline A sigmoid(A x) {
  const A e = exp(-std::fabs(x));  // <= 1: neither side loses bits or overflows
  return (x < 0 ? e : A(1)) / (1 + e);
}

HOST_DEVICE inline float tanh(float x) {
  const float a = std::fabs(x), z = a * a;
  const float large = 1 - 2 / (exp(2 * a) + 1);
  const float small =
      a + a * z *
              (-3.3333279568e-01f +
               z * (1.3331354369e-01f + z * (-5.3730940798e-02f + z * (2.0606707488e-02f + z * -5.6653333194e-03f))));
  const float y = a < 0.625f ? small : large;
  return std::copysign(y, x);
}

// log(1 + e^x), and x itself above 20 (specification: linear above 20).
template <class A>
HOST_DEVICE inline A softplus(A x) {
  const A positive = x > 0 ? x : A(0);
  const A y = positive + log1p(exp(-std::fabs(x)));
  return x > 20 ? x : y;
}

}  // namespace taper::math
