// Packing: positions, resets, and its refusals.
#include "tensor/packing.h"

#include <doctest/doctest.h>

using namespace taper;

TEST_CASE("packing: positions begin anew at document starts") {
  Device& cpu = open_device("cpu");
  Packing p = make_packing(cpu, 2, 6, {{2, 5}, {}});
  p.t0 = from_host<int64_t>(cpu, {2}, {10, 100});
  CHECK(to_host<int32_t>(p.start) == std::vector<int32_t>{0, 0, 2, 2, 2, 5, 0, 0, 0, 0, 0, 0});
  const PackingView v(p, 6);
  const int64_t positions[2][6] = {{11, 12, 1, 2, 3, 1}, {101, 102, 103, 104, 105, 106}};
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t t = 0; t < 6; ++t) {
      CHECK(v.position(b, t) == positions[b][t]);
      CHECK(v.resets(b, t) == (b == 0 && (t == 2 || t == 5)));
    }
}

TEST_CASE("packing: absent, every row is one document from the beginning") {
  const PackingView v({}, 4);
  for (int64_t t = 0; t < 4; ++t) {
    CHECK(v.start_of(3, t) == 0);
    CHECK(v.position(3, t) == t + 1);
    CHECK_FALSE(v.resets(3, t));
  }
}

TEST_CASE("packing: a start at 0 resets nothing: it is the carried document") {
  Device& cpu = open_device("cpu");
  const Packing p = make_packing(cpu, 1, 3, {{0}});
  CHECK_FALSE(PackingView(p, 3).resets(0, 0));
}

TEST_CASE("packing: refuses what does not fit") {
  Device& cpu = open_device("cpu");
  CHECK_THROWS_WITH(make_packing(cpu, 2, 4, {{1}}), "packing: want starts for 2 rows; got 1");
  CHECK_THROWS_WITH(make_packing(cpu, 1, 4, {{4}}), "packing: a document start must lie in [0,4); got 4");
  CHECK_THROWS_WITH(make_packing(cpu, 1, 4, {{-1}}), "packing: a document start must lie in [0,4); got -1");
  CHECK_NOTHROW(check_packing("scan", {}, 2, 3));
  CHECK_THROWS_WITH(check_packing("scan", {.start = zeros(cpu, {2, 3}, Dtype::i64)}, 2, 3),
                    "scan: packing start must be i32 [2,3]; got i64 [2,3]");
  CHECK_THROWS_WITH(check_packing("scan", {.t0 = zeros(cpu, {3}, Dtype::i64)}, 2, 3),
                    "scan: packing t0 must be i64 [2]; got i64 [3]");
}
