// Vector math: every function against long double over dense grids, and at the edges of its range.
#include "tensor/vector_math.h"

#include <doctest/doctest.h>

#include <cmath>
#include <functional>

using namespace taper;

namespace {

using Real = long double;

// The error in units of the last place of the true value; infinite where one side is not finite.
double ulps(float got, Real want) {
  const float nearest = float(want);
  if (!std::isfinite(got) || !std::isfinite(nearest)) return got == nearest ? 0 : INFINITY;
  int exponent;
  std::frexp(want, &exponent);
  return double(std::abs(Real(got) - want) / std::ldexp(Real(1), std::max(exponent, -125) - 24));
}

void scan(float (*f)(float), Real (*real)(Real), float low, float high, double bound) {
  constexpr int steps = 400000;
  double worst = 0;
  float at = 0;
  for (int i = 0; i <= steps; ++i) {
    const float x = low + (high - low) * (float(i) / steps);
    const double error = ulps(f(x), real(x));
    if (!(error <= worst)) worst = error, at = x;
  }
  CAPTURE(at);
  CHECK(worst <= bound);
}

Real sigmoid_of(Real x) { return 1 / (1 + std::exp(-x)); }
Real softplus_of(Real x) { return x > 20 ? x : std::log1p(std::exp(x)); }

constexpr float inf = INFINITY, not_a_number = NAN;

}  // namespace

TEST_CASE("vector math: exp") {
  auto f = [](float x) { return math::exp(x); };
  auto real = [](Real x) { return std::exp(x); };
  scan(f, real, -87.3365f, 88.7228f, 2);
  scan(f, real, -1, 1, 2);
  scan(f, real, -1e-6f, 1e-6f, 2);
  CHECK(math::exp(0.0f) == 1);
  CHECK(math::exp(-0.0f) == 1);
  CHECK(math::exp(inf) == inf);
  CHECK(math::exp(-inf) == 0);
  CHECK(std::isnan(math::exp(not_a_number)));
  CHECK(std::isnan(math::exp(-not_a_number)));
  for (float x : {88.7229f, 89.0f, 1e3f, 1e10f, 3e38f}) CHECK(math::exp(x) == inf);
  for (float x : {-87.34f, -88.0f, -103.0f, -1e3f, -1e10f, -3e38f}) CHECK(math::exp(x) == 0);
  CHECK(math::exp(-0.7) == std::exp(-0.7));
}

TEST_CASE("vector math: exp never rises as x falls") {
  float before = inf;
  for (float x = 89; x > -89; x = std::nextafter(x, -inf) - 1e-4f) {
    const float y = math::exp(x);
    CHECK_MESSAGE(y <= before, "at " << x);
    before = y;
  }
}

TEST_CASE("vector math: log") {
  auto f = [](float x) { return math::log(x); };
  auto real = [](Real x) { return std::log(x); };
  scan(f, real, 1e-3f, 4, 2);
  scan(f, real, 0.999f, 1.001f, 2);
  scan(f, real, 1e-38f, 3e38f, 2);
  scan(f, real, 1e-45f, 1.17e-38f, 2);  // denormals
  CHECK(math::log(1.0f) == 0);
  CHECK(math::log(0.0f) == -inf);
  CHECK(math::log(-0.0f) == -inf);
  CHECK(math::log(inf) == inf);
  for (float x : {-1e-45f, -1.0f, -inf, not_a_number}) CHECK(std::isnan(math::log(x)));
}

TEST_CASE("vector math: log1p") {
  auto f = [](float x) { return math::log1p(x); };
  auto real = [](Real x) { return std::log1p(x); };
  scan(f, real, -0.9999f, 1, 2);
  scan(f, real, -1e-4f, 1e-4f, 2);
  scan(f, real, -1e-30f, 1e-30f, 2);
  scan(f, real, 1, 1e30f, 2);
  CHECK(math::log1p(0.0f) == 0);
  CHECK(math::log1p(-1.0f) == -inf);
  CHECK(math::log1p(inf) == inf);
  for (float x : {-1.0001f, -inf, not_a_number}) CHECK(std::isnan(math::log1p(x)));
}

TEST_CASE("vector math: sigmoid") {
  auto f = [](float x) { return math::sigmoid(x); };
  scan(f, sigmoid_of, -87, 30, 2.5);
  scan(f, sigmoid_of, -1, 1, 2.5);
  CHECK(math::sigmoid(0.0f) == 0.5f);
  CHECK(math::sigmoid(inf) == 1);
  CHECK(math::sigmoid(-inf) == 0);
  CHECK(std::isnan(math::sigmoid(not_a_number)));
  CHECK(math::sigmoid(-1000.0) == 0);
  CHECK(math::sigmoid(2.0) == doctest::Approx(double(sigmoid_of(2))).epsilon(1e-15));
}

TEST_CASE("vector math: tanh") {
  auto f = [](float x) { return math::tanh(x); };
  auto real = [](Real x) { return std::tanh(x); };
  scan(f, real, -10, 10, 2);
  scan(f, real, -0.7f, 0.7f, 2);
  scan(f, real, -1e-5f, 1e-5f, 2);
  CHECK(math::tanh(inf) == 1);
  CHECK(math::tanh(-inf) == -1);
  CHECK(std::isnan(math::tanh(not_a_number)));
  CHECK(std::signbit(math::tanh(-0.0f)));
}

TEST_CASE("vector math: softplus") {
  auto f = [](float x) { return math::softplus(x); };
  scan(f, softplus_of, -87, 30, 2);
  scan(f, softplus_of, -3, 3, 2);
  CHECK(math::softplus(inf) == inf);
  CHECK(math::softplus(-inf) == 0);
  CHECK(std::isnan(math::softplus(not_a_number)));
  CHECK(math::softplus(20.5f) == 20.5f);
  CHECK(math::softplus(20.5) == 20.5);
  CHECK(math::softplus(-30.0) == doctest::Approx(double(softplus_of(-30))).epsilon(1e-15));
}
