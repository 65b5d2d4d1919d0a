// Graphs: what a launch does again, what work may not do while it is recorded, and where its tensors are put.
#include "tensor/graph.h"

#include <doctest/doctest.h>

#include <cstdlib>

#include "tensor/error.h"
#include "tensor/ops/accumulate.h"
#include "tensor/ops/fill.h"
#include "tensor/profile.h"
#include "tensor/random.h"

using namespace taper;

namespace {

Device& device() {
  const char* name = std::getenv("TAPER_TEST_DEVICE");
  return open_device(name ? name : "cpu");
}
Tensor of(const std::vector<double>& values) { return from_doubles(device(), {int64_t(values.size())}, Dtype::f32, values); }

}  // namespace

TEST_CASE("graph: a launch computes from what its tensors hold by then") {
  const Tensor x = of({1, 2, 3}), y = of({0, 0, 0});
  int runs = 0;
  const auto work = [&] {  // y = 2 x + 1, by way of tensors of its own
    ++runs;
    const Tensor twice = clone(x), one = full(device(), {3}, Dtype::f32, 1);
    kernels::accumulate({.sum = twice, .d = x});
    kernels::accumulate({.sum = twice, .d = one});
    copy_into(y, twice);
  };
  const auto graph = device().record(work);
  CHECK(runs == 2);
  CHECK(to_doubles(y) == std::vector<double>{3, 5, 7});  // the rehearsal did it; the recording did not
  copy_into(x, of({10, 20, 30}));
  CHECK(to_doubles(y) == std::vector<double>{3, 5, 7});
  device().launch(*graph);
  CHECK(to_doubles(y) == std::vector<double>{21, 41, 61});
  copy_into(x, of({-1, 0, 1}));
  device().launch(*graph);
  device().launch(*graph);
  CHECK(to_doubles(y) == std::vector<double>{-1, 1, 3});
  CHECK(runs == 2);
}

TEST_CASE("graph: its memory lives as long as it does, and poison is laid anew at each launch") {
  const Tensor y = of({0, 0});
  const size_t before = device().bytes_live();
  device().poison(true);
  {
    const auto graph = device().record([&] {
      const Tensor t(device(), {2}, Dtype::f32);
      copy_into(y, t);  // nobody wrote it
      kernels::fill({.y = t, .value = 5});
    });
    device().launch(*graph);
    for (const double v : to_doubles(y)) CHECK(v != v);
    CHECK(device().bytes_live() > before);
  }
  device().poison(false);
  CHECK(device().bytes_live() == before);
}

TEST_CASE("graph: what a launch could not repeat is refused, and the device goes on") {
  const Tensor x = of({1, 2});
  Tensor kept;
  const auto refuses = [&](const char* message, const std::function<void()>& work) {
    CHECK_THROWS_WITH_AS(device().record(work), doctest::Contains(message), Error);
    CHECK(to_doubles(x) == std::vector<double>{1, 2});
  };
  refuses("graph: recorded work must not upload (8 bytes): a launch does only what the device does by itself; do it before or after, "
          "with tensors made before", [&] { of({1, 2}); });
  refuses("graph: recorded work must not download (8 bytes)", [&] { to_doubles(x); });
  refuses("graph: recorded work must not wait (0 bytes)", [&] { device().synchronize(); });
  refuses("graph: recorded work must not record", [&] { device().record([] {}); });
  refuses("graph: recorded work must free all that it allocates; 1 tensors remain; make them before", [&] { kept = clone(x); });
  refuses("graph: recorded work must free only what it allocates; it freed 1 tensors made before; keep them, and copy into them",
          [&] { kept = {}; });
  bool second = false;
  refuses("it goes wrong", [&] {
    const Tensor t = clone(x);
    if (std::exchange(second, true)) fail("it goes wrong");
  });
}

TEST_CASE("graph: what is repeated is recorded the second time, not while it is profiled, and anew when it was forgotten") {
  const Tensor x = of({1}), sum = of({0});
  int runs = 0;
  const auto work = [&] { ++runs, kernels::accumulate({.sum = sum, .d = x}); };
  Repeated plain(device(), work, false), recorded(device(), work, true);
  for (int i = 0; i < 3; ++i) plain();
  CHECK(runs == 3);
  runs = 0;
  for (int i = 0; i < 5; ++i) recorded();
  CHECK(runs == 3);  // as it is, rehearsed, recorded
  profile_start();
  recorded();
  CHECK(profile_stop().kernels.size() == 1);
  CHECK(runs == 4);
  recorded.forget();
  recorded();
  recorded();
  CHECK(runs == 6);
  CHECK(item(sum) == 3 + 8);
}

TEST_CASE("graph: places overlap in memory only where lifetimes do not overlap in time, and waste little") {
  for (const uint64_t seed : {1, 2, 3}) {
    // A step: values kept until the way back, each with what is needed only while it is made.
    std::vector<Lifetime> lifetimes;
    const Random random(seed, "places");
    uint64_t draws = 0;
    size_t event = 0;
    std::vector<size_t> kept;
    const auto begin = [&] {
      lifetimes.push_back({.bytes = 64 * (1 + random.below(draws++, 5000)), .begin = event++, .end = 0});
      return lifetimes.size() - 1;
    };
    for (int i = 0; i < 300; ++i) {
      const size_t own = begin(), other = begin();
      kept.push_back(begin());
      for (const size_t t : {own, other}) lifetimes[t].end = event++;
    }
    for (; !kept.empty(); kept.pop_back()) {
      const size_t own = begin();
      lifetimes[own].end = event++;
      lifetimes[kept.back()].end = event++;
    }
    const Places places = place(lifetimes);
    size_t live = 0, most = 0;
    std::vector<int64_t> change(event, 0);
    for (const Lifetime& l : lifetimes) change[l.begin] += int64_t((l.bytes + 255) / 256 * 256), change[l.end] -= int64_t((l.bytes + 255) / 256 * 256);
    for (const int64_t c : change) most = std::max(most, live += size_t(c));
    CHECK(places.bytes >= most);
    CHECK(double(places.bytes) <= 1.05 * double(most));
    for (size_t i = 0; i < lifetimes.size(); ++i) {
      CHECK(places.offsets[i] % 256 == 0);
      REQUIRE(places.offsets[i] + lifetimes[i].bytes <= places.bytes);
      for (size_t k = 0; k < i; ++k) {
        const Lifetime &a = lifetimes[i], &b = lifetimes[k];
        if (a.end < b.begin || b.end < a.begin) continue;
        REQUIRE((places.offsets[i] + a.bytes <= places.offsets[k] || places.offsets[k] + b.bytes <= places.offsets[i]));
      }
    }
  }
  CHECK(place({}).bytes == 0);
}

TEST_CASE("graph: a plan counts the block of a recording beside the rehearsal") {
  Device& plan = open_device("plan");
  const size_t before = plan.bytes_live();
  const auto graph = plan.record([&] {
    const Tensor a(plan, {1000}, Dtype::f32);
    { const Tensor b(plan, {2000}, Dtype::f32); }
    const Tensor c(plan, {2000}, Dtype::f32);
  });
  CHECK(plan.bytes_live() - before == 4096 + 8192);  // b and c share a place
  plan.launch(*graph);
}
