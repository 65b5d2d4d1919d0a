// shard: what was written is read, and nothing damaged passes.
#include "data/shard.h"

#include <zstd.h>

#include <cstring>
#include <set>

#include "tensor/random.h"
#include "tests/support/scratch.h"

using namespace taper;
using test::expect_failure;
using test::Scratch;

namespace {

// A tokenizer of any size, for shards wider than bytes.
class Wide final : public Tokenizer {
 public:
  explicit Wide(int64_t vocab, std::string identity = "wide:v1") : vocab_(vocab), identity_(std::move(identity)) {}
  std::string identity() const override { return identity_; }
  int64_t vocab() const override { return vocab_; }
  int32_t eod() const override { return 0; }
  void encode(std::string_view, std::vector<int32_t>&, const EncodeOptions&) const override {}
  std::string_view bytes_of(int32_t) const override { return {}; }
  size_t cut(std::string_view) const override { return 0; }

 private:
  int64_t vocab_;
  std::string identity_;
};

std::vector<int32_t> random_tokens(int64_t n, int64_t vocab, uint64_t seed) {
  const Random random(seed, "tokens");
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(int32_t(random.below(uint64_t(i), uint64_t(vocab))));
  return tokens;
}

// Documents of 1000 tokens each.
void write_shard(const Path& path, const Tokenizer& tokenizer, const std::vector<int32_t>& tokens, int64_t index = 0,
                 bool last = true) {
  ShardWriter writer(path, tokenizer, index);
  for (size_t at = 0; at < tokens.size(); at += 1000) {
    writer.begin_document();
    writer.append(std::span(tokens).subspan(at, std::min<size_t>(1000, tokens.size() - at)));
  }
  writer.finish(last);
}

void read_everything(const Path& path) {
  const ShardReader reader(path);
  std::vector<int32_t> tokens(size_t(reader.info().tokens));
  reader.read(0, tokens);
}

// Changes words of the header and repairs its checksum: a file made on purpose.
void forge(const Path& path, size_t offset, uint64_t value, size_t size) {
  std::string bytes = read_file(path);
  std::memcpy(&bytes[offset], &value, size);
  const uint64_t sum = checksum(bytes.data(), 144);
  std::memcpy(&bytes[144], &sum, 8);
  write_file(path, bytes);
}

}  // namespace

TEST_CASE("any range is read as it was written") {
  const Scratch dir;
  for (const int64_t vocab : {257, 65'536, 65'537, 128'256}) {
    const Wide tokenizer(vocab);
    const auto tokens = random_tokens(300'001, vocab, uint64_t(vocab));
    write_shard(dir / "s", tokenizer, tokens, 3, false);
    const ShardReader reader(dir / "s");
    CHECK(reader.info().tokenizer == "wide:v1");
    CHECK(reader.info().vocab == vocab);
    CHECK(reader.info().tokens == 300'001);
    CHECK(reader.info().documents == 301);
    CHECK(reader.info().index == 3);
    CHECK(!reader.info().last);
    CHECK(reader.documents()[300] == 300'000);
    const Random random(1, "ranges");
    for (uint64_t i = 0; i < 200; ++i) {
      const size_t begin = random.below(2 * i, tokens.size()), n = random.below(2 * i + 1, tokens.size() - begin + 1);
      std::vector<int32_t> part(n);
      reader.read(int64_t(begin), part);
      REQUIRE(std::equal(part.begin(), part.end(), tokens.begin() + int64_t(begin)));
    }
    std::vector<int32_t> two(2);
    expect_failure([&] { reader.read(300'000, two); }, Exit::internal, "tokens [300000,300002) asked of 300001");
  }
}

TEST_CASE("the same tokens give the same bytes, however they are handed over") {
  const Scratch dir;
  const Wide tokenizer(257);
  const auto tokens = random_tokens(200'000, 257, 1);
  for (const char* name : {"a", "b"}) {
    ShardWriter writer(dir / name, tokenizer, 0);
    writer.begin_document();
    const size_t piece = *name == 'a' ? 200'000 : 777;
    for (size_t at = 0; at < tokens.size(); at += piece)
      writer.append(std::span(tokens).subspan(at, std::min(piece, tokens.size() - at)));
    writer.finish(true);
  }
  CHECK(read_file(dir / "a") == read_file(dir / "b"));
}

TEST_CASE("a shard that is not finished is not taken for one, and tokens must be of the vocabulary") {
  const Scratch dir;
  const Wide tokenizer(257);
  {
    ShardWriter writer(dir / "s", tokenizer, 0);
    const int32_t bad = 257;
    expect_failure([&] { writer.append({&bad, 1}); }, Exit::internal, "shard: tokens must lie in [0,257); got 257");
    writer.append(random_tokens(300'000, 257, 4));
  }
  expect_failure([&] { ShardReader(dir / "s"); }, Exit::bad_data, "not a good shard: it does not begin with TAPERSHD");
}

TEST_CASE("2000 single flipped bits: all detected, each naming the file") {
  const Scratch dir;
  const Path path = dir / "s";
  write_shard(path, Wide(257), random_tokens(150'000, 257, 2));
  const std::string good = read_file(path);
  read_everything(path);
  const Random random(3, "flips");
  int64_t detected = 0;
  for (uint64_t i = 0; i < 2000; ++i) {
    // The header and the tables are small beside the blocks: half of the flips go there.
    const uint64_t size = good.size(), tables = size - 8 * (150 + 6);
    const uint64_t byte = i % 4 == 0   ? random.below(2 * i, 152)
                          : i % 4 == 1 ? tables + random.below(2 * i, size - tables)
                                       : random.below(2 * i, size);
    std::string bad = good;
    bad[byte] = char(uint8_t(bad[byte]) ^ (1u << random.below(2 * i + 1, 8)));
    // Plain overwriting: 2000 durable writes would take longer than the checks.
    FILE* f = std::fopen(path.c_str(), "wb");
    REQUIRE(std::fwrite(bad.data(), 1, bad.size(), f) == bad.size());
    std::fclose(f);
    try {
      read_everything(path);
    } catch (const Error& e) {
      detected += e.code == Exit::bad_data && std::string(e.what()).starts_with(path.string() + ": ");
    }
  }
  CHECK(detected == 2000);
}

TEST_CASE("a file cut anywhere is refused") {
  const Scratch dir;
  write_shard(dir / "s", Wide(257), random_tokens(5'000, 257, 2));
  const std::string good = read_file(dir / "s");
  for (size_t n = 0; n < good.size(); n += 1 + n / 20) {
    write_file(dir / "cut", std::string_view(good).substr(0, n));
    expect_failure([&] { read_everything(dir / "cut"); }, Exit::bad_data, n < 152 ? "shorter than a header" : "truncated?");
  }
  write_file(dir / "cut", good + "x");
  expect_failure([&] { read_everything(dir / "cut"); }, Exit::bad_data, "the tables do not end where the file ends");
  expect_failure([&] { read_everything(dir / "none"); }, Exit::no_input, (dir / "none").string() + ": no such file");
}

TEST_CASE("each kind of damage has its message") {
  const Scratch dir;
  const Path path = dir / "s";
  const auto tokens = random_tokens(5'000, 257, 2);
  write_shard(path, Wide(257), tokens);
  auto expect = [&](const char* text) {
    expect_failure([&] { read_everything(path); }, Exit::bad_data, path.string() + ": " + text);
    write_shard(path, Wide(257), tokens);
  };
  write_file(path, std::string(1000, 'x'));
  expect("not a good shard: it does not begin with TAPERSHD");
  forge(path, 8, 2, 4);
  expect("shard version 2; this program reads version 1");
  std::string bytes = read_file(path);
  bytes[90] = '!';
  write_file(path, bytes);
  expect("not a good shard: checksum of the header (bytes 0 to 151) differs");
  bytes = read_file(path);
  bytes[bytes.size() - 1] ^= 1;
  write_file(path, bytes);
  expect("not a good shard: checksum of the tables (from byte");
  bytes = read_file(path);
  bytes[200] ^= 1;
  write_file(path, bytes);
  expect("checksum of block 0 (bytes 152 to ");
  forge(path, 12, 3, 4);
  expect("not a good shard: bytes of a token must be 2 or 4");
  forge(path, 16, 0, 4);
  expect("not a good shard: vocab does not fit its tokens");
  forge(path, 16, 0x10001, 4);
  expect("not a good shard: vocab does not fit its tokens");
  forge(path, 24, 2, 4);
  expect("not a good shard: last must be 0 or 1");
  forge(path, 32, 0, 8);
  expect("not a good shard: block_tokens out of range");
  forge(path, 32, uint64_t(1) << 60, 8);
  expect("not a good shard: block_tokens out of range");
  forge(path, 40, ~uint64_t(0), 8);
  expect("not a good shard: blocks and tokens do not agree");
  forge(path, 48, uint64_t(1) << 61, 8);
  expect("not a good shard: more documents than tokens");
  forge(path, 48, 4, 8);
  expect("not a good shard: the tables do not end where the file ends");
  forge(path, 64, uint64_t(1) << 63, 8);
  expect("not a good shard: the tables lie outside the file");
  forge(path, 16, 200, 4);  // fewer ids than the tokens use
  expect("token ");
}

TEST_CASE("forged tables and blocks are refused after their checksums pass") {
  const Scratch dir;
  const Path path = dir / "s";
  const auto tokens = random_tokens(5'000, 257, 2);
  // Edits a word of the tables (two words of XXH3-chained tables: 3 of the block, 5 documents).
  auto forge_table = [&](size_t word, uint64_t value) {
    write_shard(path, Wide(257), tokens);
    std::string bytes = read_file(path);
    const size_t tables = bytes.size() - 8 * 8;
    std::memcpy(&bytes[tables + 8 * word], &value, 8);
    const uint64_t sum = checksum(&bytes[tables + 24], 40, checksum(&bytes[tables], 24));
    write_file(path, bytes);
    forge(path, 72, sum, 8);
  };
  auto expect = [&](const char* text) {
    expect_failure([&] { read_everything(path); }, Exit::bad_data, path.string() + ": " + text);
  };
  forge_table(0, 153);
  expect("not a good shard: the block table does not fit the file");
  forge_table(1, ~uint64_t(0));
  expect("not a good shard: the block table does not fit the file");
  forge_table(1, 100);
  expect("not a good shard: there is a gap behind the last block");
  forge_table(4, 0);
  expect("not a good shard: document starts out of order");
  forge_table(7, 5'000);
  expect("not a good shard: document starts out of order");

  // A block that is sound zstd, but of the wrong length.
  write_shard(path, Wide(257), tokens);
  std::string bytes = read_file(path);
  const size_t tables = bytes.size() - 8 * 8;
  std::vector<char> packed(tables - 152);
  const std::string raw(9'998, '\0');
  const size_t n = ZSTD_compress(packed.data(), packed.size(), raw.data(), raw.size(), 3);
  std::string forged = bytes.substr(0, 152) + std::string(packed.data(), n) + bytes.substr(tables);
  const uint64_t entry[3] = {152, n, checksum(packed.data(), n, 0)};
  std::memcpy(&forged[152 + n], entry, 24);
  write_file(path, forged);
  forge(path, 64, 152 + n, 8);
  forge(path, 72, checksum(&forged[152 + n + 24], 40, checksum(entry, 24)), 8);
  expect("block 0 does not unpack to 5000 tokens");
}

TEST_CASE("a stream joins its shards and knows where documents start") {
  const Scratch dir;
  const Wide tokenizer(257);
  std::vector<int32_t> all;
  for (int64_t i = 0; i < 3; ++i) {
    const auto tokens = random_tokens(2'500, 257, uint64_t(10 + i));
    write_shard(dir / shard_name("train", i), tokenizer, tokens, i, i == 2);
    all.insert(all.end(), tokens.begin(), tokens.end());
  }
  const TokenStream stream(dir.path, "train");
  CHECK(stream.tokens() == 7'500);
  CHECK(stream.vocab() == 257);
  std::vector<int32_t> tokens(7'500);
  stream.read(0, tokens);
  CHECK(tokens == all);
  tokens.resize(2'502);
  stream.read(2'499, tokens);
  CHECK(std::equal(tokens.begin(), tokens.end(), all.begin() + 2'499));
  CHECK(stream.documents(0, 7'500) == std::vector<int64_t>{0, 1000, 2000, 2500, 3500, 4500, 5000, 6000, 7000});
  CHECK(stream.documents(1000, 2500) == std::vector<int64_t>{1000, 2000});
  CHECK(stream.documents(2001, 2501) == std::vector<int64_t>{2500});
  CHECK(stream.documents(7001, 7500).empty());

  std::filesystem::rename(dir / "train-00001.shard", dir / "aside");
  expect_failure([&] { TokenStream(dir.path, "train"); }, Exit::no_input,
                 "train-00001.shard: missing; the train split goes on after shard 0");
  std::filesystem::copy(dir / "train-00002.shard", dir / "train-00001.shard");
  expect_failure([&] { TokenStream(dir.path, "train"); }, Exit::bad_data, "holds shard 2 of its split; was it renamed?");
  write_shard(dir / "train-00001.shard", Wide(257, "other:v2"), random_tokens(10, 257, 1), 1, false);
  expect_failure([&] { TokenStream(dir.path, "train"); }, Exit::bad_data,
                 "train-00001.shard: made by tokenizer 'other:v2' with vocab 257; 'wide:v1' is wanted");
  expect_failure([&] { TokenStream(dir.path, "train", "bytes:v1"); }, Exit::bad_data,
                 "train-00000.shard: made by tokenizer 'wide:v1' with vocab 257; 'bytes:v1' is wanted; run `taper prepare` again");
  expect_failure([&] { TokenStream(dir.path, "validation"); }, Exit::no_input,
                 "validation-00000.shard: missing; the directory has no validation split");
  expect_failure([&] { TokenStream(dir / "none", "train"); }, Exit::no_input, "no such directory of shards");
}

TEST_CASE("the block cache keeps what was used last") {
  BlockCache cache(2);
  const int reader = 0;
  cache.insert({&reader, 0}, {10});
  cache.insert({&reader, 1}, {11});
  CHECK(cache.find({&reader, 0}) != nullptr);
  cache.insert({&reader, 2}, {12});
  CHECK(cache.find({&reader, 1}) == nullptr);
  REQUIRE(cache.find({&reader, 0}) != nullptr);
  CHECK(*cache.find({&reader, 0}) == std::vector<int32_t>{10});
  CHECK(*cache.find({&reader, 2}) == std::vector<int32_t>{12});
}
