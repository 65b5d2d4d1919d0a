// tokenizer: bytes there and back.
#include "data/tokenizer.h"

#include "tests/support/scratch.h"

using namespace taper;
using test::expect_failure;

TEST_CASE("bytes: every byte there and back, and EOD beside them") {
  const auto tokenizer = open_tokenizer("bytes");
  CHECK(tokenizer->identity() == "bytes:v1");
  CHECK(tokenizer->vocab() == 257);
  CHECK(tokenizer->eod() == 256);
  std::string all;
  for (int c = 0; c < 256; ++c) all += char(c);
  std::vector<int32_t> ids{tokenizer->eod()};
  tokenizer->encode(all, ids);
  REQUIRE(ids.size() == 257);
  for (int32_t c = 0; c < 256; ++c) CHECK(ids[size_t(c) + 1] == c);
  CHECK(tokenizer->decode(ids) == all);
  CHECK(open_tokenizer(tokenizer->identity())->identity() == tokenizer->identity());
  expect_failure([&] { tokenizer->decode({257}); }, Exit::internal, "ids must lie in [0,257); got 257");
  expect_failure([&] { tokenizer->decode({-1}); }, Exit::internal, "ids must lie in [0,257); got -1");
}

TEST_CASE("an unknown tokenizer is refused with what is supported") {
  expect_failure([] { open_tokenizer("gpt5"); }, Exit::bad_config, "tokenizer: no 'gpt5'; supported: bytes");
}
