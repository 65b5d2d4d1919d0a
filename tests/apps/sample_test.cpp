// Sampling: the cuts, the limits, and that draws follow the distribution.
#include "apps/sample.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tensor/error.h"

using namespace taper;

TEST_CASE("sample: of one token left it is that one") {
  CHECK(sample(std::vector<double>{1, 3, 2}, {.top_k = 1}, 5) == 1);
  CHECK(sample(std::vector<double>{1, 3, 2}, {.top_p = 1e-9}, 5) == 1);
}

TEST_CASE("likeliest: of the known ids, ties go to the lowest; next_token takes it at temperature 0, else a draw") {
  Device& cpu = open_device("cpu");
  const auto rows = [&](const std::vector<float>& x) { return from_host<float>(cpu, {int64_t(x.size()) / 4, 4}, x); };
  const Tensor three = rows({1, 3, 2, 9, /**/ 3, 1, 3, 9, /**/ -1, -2, -1, -3});
  CHECK(likeliest(three, 3) == std::vector<int32_t>{1, 0, 0});
  CHECK(likeliest(three, 4) == std::vector<int32_t>{3, 3, 0});
  CHECK(likeliest(three, 100) == std::vector<int32_t>{3, 3, 0});
  CHECK(next_token(rows({3, 1, 3, 9}), 3, {.temperature = 0}, 7) == 0);
  CHECK(next_token(rows({3, 1, 3, 9}), 4, {.temperature = 0}, 7) == 3);
  const Tensor even = rows({0, 0, 0, 50});
  for (int i = 0; i < 50; ++i) CHECK(next_token(even, 3, {.seed = 2}, i) == sample(std::vector<double>{0, 0, 0}, {.seed = 2}, i));
  const float none = -std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(next_token(rows({none, nan, 0, 9}), 3, {.temperature = 0}, 0) == 2);
  CHECK_THROWS_WITH_AS(next_token(rows({none, none, none, 9}), 3, {.temperature = 0}, 0), "generate: the model's logits must be finite; the largest is -inf",
                       Error);
  CHECK_THROWS_WITH_AS(next_token(rows({nan, nan, nan, 9}), 3, {.temperature = 0}, 0), "generate: the model's logits must be finite; the largest is nan",
                       Error);
}

TEST_CASE("sample: frequencies are the softmax's, at any temperature and cut") {
  const std::vector<double> logits{std::log(1.0), std::log(2.0), std::log(4.0), std::log(9.0)};
  const int n = 20000;
  const auto shares = [&](const Sampling& s) {
    std::vector<double> share(4);
    for (int i = 0; i < n; ++i) share[size_t(sample(logits, s, i))] += 1.0 / n;
    return share;
  };
  const auto near = [&](const std::vector<double>& got, const std::vector<double>& want) {
    for (size_t i = 0; i < 4; ++i) CHECK(std::abs(got[i] - want[i]) < 5 * std::sqrt(0.25 / n));  // five deviations
  };
  near(shares({}), {1 / 16.0, 2 / 16.0, 4 / 16.0, 9 / 16.0});
  near(shares({.temperature = 0.5}), {1 / 102.0, 4 / 102.0, 16 / 102.0, 81 / 102.0});
  const auto two = shares({.top_k = 2});
  CHECK(two[0] + two[1] == 0);
  near(two, {0, 0, 4 / 13.0, 9 / 13.0});
  const auto most = shares({.top_p = 0.8});  // 9 + 4 of 16 reach it
  CHECK(most[0] + most[1] == 0);
  near(most, {0, 0, 4 / 13.0, 9 / 13.0});
}

TEST_CASE("sample: a pure function of seed and position") {
  const std::vector<double> logits(100, 0.0);
  int same = 0;
  for (int i = 0; i < 200; ++i) {
    CHECK(sample(logits, {.seed = 3}, i) == sample(logits, {.seed = 3}, i));
    same += sample(logits, {.seed = 3}, i) == sample(logits, {.seed = 4}, i);
  }
  CHECK(same < 20);
}

TEST_CASE("sample: minus infinity is never drawn, nothing finite is an error") {
  const double none = -std::numeric_limits<double>::infinity();
  for (int i = 0; i < 100; ++i) CHECK(sample(std::vector<double>{none, 0, none}, {}, i) == 1);
  CHECK_THROWS_WITH_AS(sample(std::vector<double>{none, none}, {}, 0), "generate: the model's logits must be finite; the largest is -inf", Error);
}
