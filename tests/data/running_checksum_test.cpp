// Running checksum: pieces of any size give what the whole does.
#include "data/running_checksum.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "tensor/file.h"

using namespace taper;

TEST_CASE("running checksum: of pieces that of the whole, at every moment; of nothing that of nothing") {
  std::string text;
  for (int i = 0; i < 3000; ++i) text += char(i * 7 + i / 256);
  for (const size_t piece : {size_t(1), size_t(17), size_t(240), size_t(1024), size_t(5000)}) {
    RunningChecksum sum;
    CHECK(sum.value() == checksum("", 0));
    for (size_t at = 0; at < text.size(); at += piece) {
      sum.add(std::string_view(text).substr(at, piece));
      const size_t read = std::min(text.size(), at + piece);
      CHECK(sum.value() == checksum(text.data(), read));
    }
    sum.add(text.data(), 1);
    CHECK(sum.value() != checksum(text.data(), text.size()));
  }
}
