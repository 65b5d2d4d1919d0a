// permutation: every index exactly once, and an order that depends on the seed and the epoch.
#include "data/permutation.h"

#include <doctest/doctest.h>

#include <cmath>
#include <set>
#include <vector>

using namespace taper;

TEST_CASE("a bijection for every small size") {
  for (uint64_t n = 1; n <= 200; ++n)
    for (const uint64_t epoch : {0, 1, 77}) {
      const Permutation permutation(n, 42, epoch);
      std::vector<int> seen(n, 0);
      for (uint64_t i = 0; i < n; ++i) {
        const uint64_t p = permutation(i);
        REQUIRE(p < n);
        REQUIRE(++seen[p] == 1);
      }
    }
}

TEST_CASE("the ledger of a million samples over two epochs: each once, none missed") {
  constexpr uint64_t n = 1'000'000;
  for (const uint64_t epoch : {0, 1}) {
    const Permutation permutation(n, 7, epoch);
    std::vector<bool> seen(n, false);
    uint64_t duplicates = 0;
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t p = permutation(i);
      duplicates += seen[p];
      seen[p] = true;
    }
    CHECK(duplicates == 0);
  }
}

TEST_CASE("a large size: in range, no two alike") {
  constexpr uint64_t n = 3'000'000'000'017;
  const Permutation permutation(n, 7, 3);
  std::set<uint64_t> seen;
  double sum = 0;
  constexpr int samples = 50'000;
  for (uint64_t i = 0; i < samples; ++i) {
    const uint64_t p = permutation(i * (n / samples));
    REQUIRE(p < n);
    seen.insert(p);
    sum += double(p) / double(n);
  }
  CHECK(seen.size() == samples);
  CHECK(std::abs(sum / samples - 0.5) < 5 * std::sqrt(1.0 / 12 / samples));
}

TEST_CASE("seed and epoch give other orders, the same ones the same order") {
  constexpr uint64_t n = 1000;
  auto fixed_against = [](const Permutation& a, const Permutation& b) {
    int same = 0;
    for (uint64_t i = 0; i < n; ++i) same += a(i) == b(i);
    return same;
  };
  CHECK(fixed_against({n, 1, 0}, {n, 1, 0}) == int(n));
  CHECK(fixed_against({n, 1, 0}, {n, 1, 1}) < 12);  // one is expected
  CHECK(fixed_against({n, 1, 0}, {n, 2, 0}) < 12);
}

TEST_CASE("where a sample lands is uniform over the epochs") {
  constexpr uint64_t n = 50, epochs = 20'000;
  for (const uint64_t i : {0, 1, 49}) {
    std::vector<double> hits(n, 0);
    for (uint64_t e = 0; e < epochs; ++e) ++hits[Permutation(n, 5, e)(i)];
    double chi2 = 0;
    const double expected = double(epochs) / double(n);
    for (const double h : hits) chi2 += (h - expected) * (h - expected) / expected;
    CHECK(chi2 < 49 + 5 * std::sqrt(2.0 * 49));
  }
}
