// Random: Philox's published answers, ranges, moments, independence of order.
#include "tensor/random.h"

#include <doctest/doctest.h>

#include <set>

using namespace taper;

// Known answers of philox4x32-10 from the authors' library (kat_vectors): counter and key all zero,
// all one, and digits of pi.
TEST_CASE("random: the published answers") {
  CHECK(Random(0, uint64_t(0)).block(0) == std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(Random(~uint64_t(0), ~uint64_t(0)).block(~uint64_t(0)) ==
        std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(Random(0x299f31d0a4093822u, uint64_t(0x0370734413198a2eu)).block(0x85a308d3243f6a88u) ==
        std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("random: a value depends on seed, purpose and index alone") {
  const Random a(1, "weights"), b(1, "weights");
  for (uint64_t i : {9u, 0u, 5u}) CHECK(a.normal(i) == b.normal(i));
  std::set<uint64_t> seen;
  for (uint64_t seed : {1u, 2u})
    for (const char* purpose : {"weights", "weightt", ""})
      for (uint64_t i : {uint64_t(0), uint64_t(1), uint64_t(1) << 40}) seen.insert(Random(seed, purpose).bits(i));
  CHECK(seen.size() == 18);
}

TEST_CASE("random: uniform stays inside (0,1) with the right moments") {
  const Random r(7, "uniform");
  double sum = 0, squares = 0;
  constexpr int n = 200000;
  for (uint64_t i = 0; i < n; ++i) {
    const double u = r.uniform(i);
    REQUIRE((u > 0 && u < 1));
    sum += u, squares += u * u;
  }
  CHECK(sum / n == doctest::Approx(0.5).epsilon(0.005));  // deviation of the mean: 6.5e-4
  CHECK(squares / n == doctest::Approx(1.0 / 3).epsilon(0.008));
}

TEST_CASE("random: normal has mean 0, variance 1, kurtosis 3") {
  const Random r(7, "normal");
  double m1 = 0, m2 = 0, m4 = 0, pairs = 0;
  constexpr int n = 200000;
  for (uint64_t i = 0; i < n; ++i) {
    const double x = r.normal(i);
    m1 += x, m2 += x * x, m4 += x * x * x * x, pairs += x * r.normal(i + 1);
  }
  CHECK(std::abs(m1 / n) < 0.01);
  CHECK(m2 / n == doctest::Approx(1).epsilon(0.015));
  CHECK(m4 / n == doctest::Approx(3).epsilon(0.05));
  CHECK(std::abs(pairs / n) < 0.01);  // neighbours, which may share a block, are uncorrelated
}

TEST_CASE("random: below n covers [0,n) evenly") {
  const Random r(7, "below");
  int counts[7] = {};
  for (uint64_t i = 0; i < 70000; ++i) ++counts[r.below(i, 7)];
  for (int c : counts) CHECK(std::abs(c - 10000) < 500);  // five deviations
  for (uint64_t i = 0; i < 100; ++i) CHECK(r.below(i, 1) == 0);
}
