// Parallel: every block once, sums independent of threads, exceptions carried out, nesting.
#include "tensor/parallel.h"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "tensor/raise.h"
#include "tensor/sums.h"

using namespace taper;

namespace {
struct Threads {  // sets a number of threads for one scope
  const int before = thread_count();
  explicit Threads(int n) { set_thread_count(n); }
  ~Threads() { set_thread_count(before); }
};
}  // namespace

TEST_CASE("parallel: every element is visited once, in blocks of the grain") {
  for (int n : {1, 2, 3, 8}) {
    const Threads threads(n);
    CHECK(thread_count() == n);
    for (int64_t size : {0, 1, 6, 7, 8, 1000})
      for (int64_t grain : {1, 7, 5000}) {
        std::vector<std::atomic<int>> visits(static_cast<size_t>(size));
        std::atomic<int> uneven = 0;
        parallel_for(size, grain, [&](int64_t begin, int64_t end) {
          if (begin % grain != 0 || (end - begin != grain && end != size)) ++uneven;
          for (int64_t i = begin; i < end; ++i) ++visits[size_t(i)];
        });
        for (const auto& v : visits) REQUIRE(v == 1);
        CHECK(uneven == 0);
      }
  }
}

TEST_CASE("parallel: sums have the same bits with any number of threads") {
  auto f = [](int64_t i) { return std::sin(double(i)) * std::pow(10.0, double(i % 17)); };
  double first_sum = 0;
  std::vector<double> first_columns;
  for (int n : {1, 2, 3, 8}) {
    const Threads threads(n);
    const double sum = parallel_sum<double>(100001, 100, [&](int64_t begin, int64_t end) {
      double s = 0;
      for (int64_t i = begin; i < end; ++i) s += f(i);
      return s;
    });
    const auto columns = sum_columns(70001, 3, [&](int64_t begin, int64_t end, double* s) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j = 0; j < 3; ++j) s[j] += f(i * 3 + j);
    });
    if (n == 1) first_sum = sum, first_columns = columns;
    CHECK(sum == first_sum);
    CHECK(columns == first_columns);
  }
}

TEST_CASE("parallel: sums are right") {
  CHECK(parallel_sum<int64_t>(1001, 10, [](int64_t begin, int64_t end) { return (begin + end - 1) * (end - begin) / 2; }) ==
        500500);
  CHECK(parallel_sum<double>(0, 10, [](int64_t, int64_t) { return 1.0; }) == 0);
  for (int64_t n : {0, 1, 15, 16, 17, 100}) CHECK(lane_sum<double>(n, [](int64_t i) { return i + 1; }) == n * (n + 1) / 2);
  const auto columns = sum_columns(1000, 2, [](int64_t begin, int64_t end, double* s) {
    for (int64_t i = begin; i < end; ++i) s[0] += 1, s[1] += double(i);
  });
  CHECK(columns == std::vector<double>{1000, 499500});
  CHECK(sum_columns(0, 2, [](int64_t, int64_t, double*) {}) == std::vector<double>{0, 0});
}

TEST_CASE("parallel: the lowest block's exception comes out, and the pool goes on") {
  for (int n : {1, 3}) {
    const Threads threads(n);
    auto run = [] {
      parallel_for(100, 1, [](int64_t begin, int64_t) {
        if (begin >= 40) throw std::runtime_error("block " + std::to_string(begin));
      });
    };
    CHECK_THROWS_WITH(run(), "block 40");
    std::atomic<int> count = 0;
    parallel_for(10, 1, [&](int64_t, int64_t) { ++count; });
    CHECK(count == 10);
  }
}

TEST_CASE("parallel: a nested loop runs on its own thread") {
  const Threads threads(3);
  std::atomic<int> count = 0;
  parallel_for(8, 1, [&](int64_t, int64_t) { parallel_for(8, 1, [&](int64_t, int64_t) { ++count; }); });
  CHECK(count == 64);
}

TEST_CASE("parallel: refuses no threads") { CHECK_THROWS_WITH(set_thread_count(0), "threads: must be >= 1; got 0"); }

TEST_CASE("parallel: a forked child has none of the pool's threads; it works alone, sets its own number, and ends") {
  const Threads threads(3);
  const auto sum = [] { return parallel_sum<int64_t>(1000, 7, [](int64_t begin, int64_t end) { return (begin + end - 1) * (end - begin) / 2; }); };
  REQUIRE(sum() == 499500);  // there is a pool
  for (const bool sets : {false, true}) {
    std::fflush(stdout);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::alarm(20);  // a child that hangs is killed
      if (sets) set_thread_count(2);
      std::exit(sum() == 499500 && sum() == 499500 ? 0 : 1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
  }
  CHECK(sum() == 499500);
}
