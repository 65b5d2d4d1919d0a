// metrics: values that Python gives.
#include "data/tasks/metrics.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace taper;

TEST_CASE("sum carries what additions lose") {
  CHECK(sum(std::vector<double>{1e16, 1.0, 1.0, -1e16}) == 2.0);
  CHECK(sum(std::vector<double>(10, 0.1)) == 1.0);
  CHECK(sum(std::vector<double>{}) == 0.0);
  CHECK(sum(std::vector<double>{-INFINITY, 1.0}) == -INFINITY);
}

TEST_CASE("means and their errors, with n - 1") {
  const std::vector<double> right{1, 0, 0, 1, 1, 1, 0};
  CHECK(mean(right) == 4.0 / 7);
  CHECK(mean_error(right) == 0.20203050891044214);
  CHECK(mean_error(right) == doctest::Approx(std::sqrt(4.0 / 7 * 3.0 / 7 / 6)).epsilon(1e-15));
  CHECK(std::isnan(mean_error(std::vector<double>{1})));
}

TEST_CASE("perplexity's error: the bootstrap of 100 blocks of 1000, and the delta method near it") {
  const std::vector<double> ll{-1.5, -0.25, -3.0, -2.125, -7.5, -0.75, -4.0};
  CHECK(perplexity(ll) == 15.365778434593876);
  CHECK(sample_deviation(ll) == 2.462667688271632);
  CHECK(perplexity_error_delta(ll) == doctest::Approx(14.302480319206232).epsilon(1e-15));
  CHECK(perplexity_error_bootstrap(ll) == doctest::Approx(29.789916283890584).epsilon(1e-13));
  CHECK(perplexity_error_bootstrap(ll, 3000) == doctest::Approx(30.07603869727605).epsilon(1e-13));
  CHECK(perplexity_error_bootstrap(ll, 10) == doctest::Approx(68.85835116625026).epsilon(1e-13));  // one block of 10
}

TEST_CASE("the draws are those of Python's random") {
  PythonRandom zero(0);
  CHECK(zero.bits32() == 3626764237u);
  CHECK(zero.bits32() == 1654615998u);
  CHECK(zero.bits32() == 3255389356u);
  CHECK(PythonRandom(0).uniform() == 0.8444218515250481);
  PythonRandom r(99);
  CHECK(r.bits32() == 1735072617u);
  for (int i = 1; i < 700; ++i) r.bits32();
  CHECK(r.bits32() == 3611642935u);  // after the state was made anew
  PythonRandom seven(7);
  for (const uint64_t want : {1668, 777, 3354, 373, 2761, 1884}) CHECK(seven.index(5153) == want);
}
