// Uploads: what the host held at the call arrives, however many copies are on their way and whatever becomes of the host's memory
// afterwards. On a GPU where TAPER_TEST_DEVICE names one: there small ones go through a ring of pinned memory, and nobody waits.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>

#include "tensor/tensor.h"

using namespace taper;

TEST_CASE("upload: the host's memory may change at once; more than the ring holds, small pieces and large ones in turn") {
  const char* name = std::getenv("TAPER_TEST_DEVICE");
  if (!name) MESSAGE("skipped on a GPU: TAPER_TEST_DEVICE names none; run on the CPU");
  Device& device = open_device(name ? name : "cpu");
  const Tensor busy(device, {int64_t(1) << 26}, Dtype::f32);
  for (int i = 0; i < 20; ++i) device.fill(busy.data<void>(), i, busy.bytes());  // copies queue up behind these
  // 1 to 1.25 MiB, three to a part of the ring; one of 4 MiB, which fills a part; one of more, which does not go through it.
  const auto length = [](int i) { return i % 16 == 7 ? int64_t(1) << 20 : i % 16 == 15 ? (int64_t(1) << 20) + 3 : (int64_t(1) << 18) + 1021 * i; };
  const auto number = [](int i, int64_t k) { return int32_t(uint32_t(i) * 2654435761u + uint32_t(k) * 40503u); };
  std::vector<Tensor> sent;
  std::vector<int32_t> host;
  for (int i = 0; i < 64; ++i) {
    host.resize(size_t(length(i)));
    for (int64_t k = 0; k < length(i); ++k) host[size_t(k)] = number(i, k);
    sent.push_back(from_host(device, {length(i)}, host));
    std::ranges::fill(host, -1);
  }
  for (int i = 0; i < 64; ++i) {
    CAPTURE(i);
    const std::vector<int32_t> there = to_host<int32_t>(sent[size_t(i)]);
    int64_t wrong = 0;
    for (int64_t k = 0; k < length(i); ++k) wrong += there[size_t(k)] != number(i, k);
    CHECK(wrong == 0);
  }
}
