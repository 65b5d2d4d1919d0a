// schedule: values computed by hand from the specification.
#include "nn/schedule.h"

#include <cmath>

#include "tests/nn/support.h"

using namespace taper;

TEST_CASE("warm-up begins at zero and is linear") {
  const Schedule s{.lr = 2e-3, .warmup = 0.01, .final_lr = 1e-5};  // 400 steps: 4 of them
  CHECK(learning_rate(s, 0, 400) == 0);
  CHECK(learning_rate(s, 1, 400) == doctest::Approx(0.5e-3).epsilon(1e-14));
  CHECK(learning_rate(s, 3, 400) == doctest::Approx(1.5e-3).epsilon(1e-14));
  CHECK(learning_rate(s, 4, 400) == doctest::Approx(2e-3).epsilon(1e-14));
}

TEST_CASE("the cosine passes through its known points") {
  const Schedule s{.lr = 2e-3, .warmup = 0.01, .final_lr = 1e-5};
  // p = 1/3: (1 + 1/2) / 2 = 3/4 of the way up; p = 1/2: half; p = 2/3: 1/4.
  CHECK(learning_rate(s, 4 + 132, 400) == doctest::Approx(1e-5 + 1.99e-3 * 0.75).epsilon(1e-12));
  CHECK(learning_rate(s, 4 + 198, 400) == doctest::Approx(1e-5 + 1.99e-3 * 0.5).epsilon(1e-12));
  CHECK(learning_rate(s, 4 + 264, 400) == doctest::Approx(1e-5 + 1.99e-3 * 0.25).epsilon(1e-12));
  CHECK(learning_rate(s, 400, 400) == doctest::Approx(1e-5).epsilon(1e-12));
  CHECK(learning_rate(s, 5000, 400) == doctest::Approx(1e-5).epsilon(1e-12));
}

TEST_CASE("the specification's 180M run") {
  const Schedule s{.lr = 6e-4, .warmup = 0.01, .final_lr = 1e-5};  // 7630 steps: ceil(76.3) = 77 of warm-up
  CHECK(learning_rate(s, 76, 7630) == doctest::Approx(6e-4 * 76 / 77).epsilon(1e-14));
  CHECK(learning_rate(s, 77, 7630) == doctest::Approx(6e-4).epsilon(1e-14));
  // factor = (1 - m) * (1 + cos(pi p)) / 2 + m with m = 1e-5 / 6e-4, p = (3000 - 77) / (7630 - 77)
  CHECK(learning_rate(s, 3000, 7630) == doctest::Approx(4.0754041497e-4).epsilon(1e-9));
}

TEST_CASE("it never rises after the peak and never falls before it") {
  const Schedule s{.lr = 1e-3, .warmup = 0.1, .final_lr = 1e-5};
  for (int64_t t = 1; t <= 1000; ++t) {
    if (t <= 100) CHECK(learning_rate(s, t, 1000) > learning_rate(s, t - 1, 1000));
    else CHECK(learning_rate(s, t, 1000) < learning_rate(s, t - 1, 1000));
  }
}

TEST_CASE("corners") {
  CHECK(learning_rate({.lr = 1e-3, .warmup = 0, .final_lr = 1e-5}, 0, 10) == doctest::Approx(1e-3).epsilon(1e-14));
  CHECK(learning_rate({.lr = 1e-3, .warmup = 0.07, .final_lr = 1e-5}, 7, 100) == doctest::Approx(1e-3).epsilon(1e-14));
  CHECK(learning_rate({.lr = 1e-3, .warmup = 0, .final_lr = 1e-3}, 7, 100) == 1e-3);
  CHECK(learning_rate({.lr = 1e-3, .warmup = 1, .final_lr = 0}, 9, 10) == doctest::Approx(9e-4).epsilon(1e-14));
  CHECK(learning_rate({.lr = 1e-3, .warmup = 1, .final_lr = 0}, 10, 10) == doctest::Approx(1e-3).epsilon(1e-14));
  CHECK(learning_rate({.lr = 1e-3, .warmup = 0.01, .final_lr = 0}, 0, 1) == 0);
}

TEST_CASE("bad settings are refused by name") {
  expect_error(Exit::bad_config, "schedule: warmup must be a fraction from 0 to 1; got 4",
               [] { learning_rate({.lr = 1, .warmup = 4, .final_lr = 0}, 0, 10); });
  expect_error(Exit::bad_config, "schedule: lr must be > 0; got -1",
               [] { learning_rate({.lr = -1, .warmup = 0, .final_lr = 0}, 0, 10); });
  expect_error(Exit::internal, "schedule: steps > 0 and step >= 0 are wanted; got step 3 of 0",
               [] { learning_rate({}, 3, 0); });
}

TEST_CASE("stairs go down evenly, after the warm-up if there is one") {
  const Schedule s{.lr = 8e-3, .warmup = 0, .final_lr = 0, .stairs = 8};  // the recall task's: an eighth less each epoch
  CHECK(learning_rate(s, 0, 16384) == 8e-3);
  CHECK(learning_rate(s, 2047, 16384) == 8e-3);
  CHECK(learning_rate(s, 2048, 16384) == doctest::Approx(7e-3).epsilon(1e-14));
  CHECK(learning_rate(s, 16383, 16384) == doctest::Approx(1e-3).epsilon(1e-14));
  CHECK(learning_rate(s, 99999, 16384) == doctest::Approx(1e-3).epsilon(1e-14));
  const Schedule warm{.lr = 1, .warmup = 0.5, .final_lr = 0, .stairs = 2};
  CHECK(learning_rate(warm, 5, 20) == 0.5);
  CHECK(learning_rate(warm, 10, 20) == 1);
  CHECK(learning_rate(warm, 14, 20) == 1);
  CHECK(learning_rate(warm, 15, 20) == 0.5);
}
