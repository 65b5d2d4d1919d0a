// loader: every sample once per epoch, in an order that nothing but seed and epoch decides.
#include "data/loader.h"

#include <algorithm>
#include <map>
#include <set>

#include "data/prepare.h"
#include "tensor/random.h"
#include "tests/support/scratch.h"

using namespace taper;
using test::expect_failure;
using test::Scratch;

namespace {

Device& cpu() { return open_device("cpu"); }

struct Host {
  std::vector<int32_t> ids, labels, start;
  int64_t labelled;
  bool operator==(const Host&) const = default;
};
Host host(const Batch& b) {
  return {to_host<int32_t>(b.ids), to_host<int32_t>(b.labels),
          b.packing.start ? to_host<int32_t>(b.packing.start) : std::vector<int32_t>{}, b.labelled};
}

// A wide tokenizer, so that a token can be its own position in the stream; id 0 is EOD.
class Counting final : public Tokenizer {
 public:
  std::string identity() const override { return "counting:v1"; }
  int64_t vocab() const override { return 1'000'000; }
  int32_t eod() const override { return 0; }
  void encode(std::string_view, std::vector<int32_t>&, const EncodeOptions&) const override {}
  std::string_view bytes_of(int32_t) const override { return {}; }
  size_t cut(std::string_view) const override { return 0; }
};

// Tokens 0, 1, 2, ... in three shards; a document starts at each of `starts`.
void write_counting(const Path& directory, int64_t tokens, const std::set<int64_t>& starts = {0}) {
  int64_t token = 0;
  for (int64_t shard = 0; shard < 3; ++shard) {
    ShardWriter writer(directory / shard_name("train", shard), Counting(), shard);
    for (; token < tokens * (shard + 1) / 3; ++token) {
      if (starts.contains(token)) writer.begin_document();
      const int32_t id = int32_t(token);
      writer.append({&id, 1});
    }
    writer.finish(shard == 2);
  }
}

TokenOptions options(const Scratch& dir, int64_t batch, int64_t sequence) {
  TokenOptions o;
  o.directory = dir.path;
  o.batch = batch;
  o.sequence = sequence;
  o.seed = 5;
  return o;
}

std::vector<Host> take(BatchSource& source, int n) {
  std::vector<Host> batches;
  for (int i = 0; i < n; ++i) batches.push_back(host(source.next()));
  return batches;
}

}  // namespace

TEST_CASE("a sample is a window, its labels the next tokens; each once per epoch, batches across epochs") {
  const Scratch dir;
  constexpr int64_t T = 10, samples = 103;
  write_counting(dir.path, samples * T + 5);  // four tokens are left over
  TokenLoader loader(options(dir, 7, T), cpu());
  CHECK(loader.samples_per_epoch() == samples);
  CHECK(loader.vocab() == 1'000'000);
  CHECK(loader.remaining() == -1);
  std::vector<int64_t> order;
  while (int64_t(order.size()) < 3 * samples + 7) {
    const Host b = host(loader.next());
    CHECK(b.labelled == 7 * T);
    for (size_t r = 0; r < 7; ++r) {
      const int32_t first = b.ids[r * T];
      REQUIRE(first % T == 0);
      for (int32_t t = 0; t < T; ++t) {
        REQUIRE(b.ids[r * T + size_t(t)] == first + t);
        REQUIRE(b.labels[r * T + size_t(t)] == first + t + 1);
      }
      order.push_back(first / T);
    }
  }
  std::vector<std::vector<int64_t>> epochs;
  for (int e = 0; e < 3; ++e) {
    epochs.emplace_back(order.begin() + e * samples, order.begin() + (e + 1) * samples);
    const std::set<int64_t> seen(epochs.back().begin(), epochs.back().end());
    CHECK(seen.size() == samples);
    CHECK(*seen.rbegin() == samples - 1);
  }
  CHECK(epochs[0] != epochs[1]);
  CHECK(epochs[1] != epochs[2]);
  CHECK(!std::ranges::is_sorted(epochs[0]));
}

TEST_CASE("the depth of prefetching changes nothing") {
  const Scratch dir;
  write_counting(dir.path, 1'000, {0, 3, 4, 500});
  std::vector<Host> expected;
  for (const int64_t depth : {0, 1, 2, 7}) {
    TokenOptions o = options(dir, 4, 16);
    o.prefetch = depth;
    TokenLoader loader(o, cpu());
    const auto batches = take(loader, 40);
    if (depth == 0) expected = batches;
    CHECK(batches == expected);
  }
}

TEST_CASE("the cursor is the consumer's, and seeking it gives the same batches") {
  const Scratch dir;
  write_counting(dir.path, 1'000);
  TokenOptions o = options(dir, 4, 16);  // 62 samples
  o.prefetch = 5;
  TokenLoader loader(o, cpu());
  CHECK(loader.cursor() == Cursor{0, 0});
  for (int i = 0; i < 40; ++i) {
    const Cursor cursor = loader.cursor();
    CHECK(cursor == Cursor{uint64_t(4 * i) / 62, uint64_t(4 * i) % 62});
    const auto next = take(loader, 3);
    TokenLoader fresh(o, cpu());
    fresh.seek(cursor);
    CHECK(take(fresh, 3) == next);
    loader.seek(cursor);
    CHECK(loader.cursor() == cursor);
    loader.next();
  }
  expect_failure([&] { loader.seek({0, 62}); }, Exit::bad_data,
                 "loader: the data have 62 samples in an epoch; sample 62 asked; do they belong to this run?");
}

TEST_CASE("any number of ranks sees the same samples in the same steps") {
  const Scratch dir;
  write_counting(dir.path, 2'000);
  TokenLoader one(options(dir, 8, 16), cpu());
  const auto expected = take(one, 40);
  for (const int64_t world : {2, 4, 8}) {
    std::vector<std::vector<Host>> ranks;
    for (int64_t rank = 0; rank < world; ++rank) {
      TokenOptions o = options(dir, 8 / world, 16);
      o.rank = rank;
      o.world = world;
      TokenLoader loader(o, cpu());
      ranks.push_back(take(loader, 40));
      CHECK(loader.cursor() == one.cursor());
    }
    for (size_t step = 0; step < 40; ++step) {
      std::vector<int32_t> joined;
      for (const auto& rank : ranks) joined.insert(joined.end(), rank[step].ids.begin(), rank[step].ids.end());
      CHECK(joined == expected[step].ids);
    }
  }
}

TEST_CASE("documents reset where they start inside the window, or carry on") {
  const Scratch dir;
  write_counting(dir.path, 61, {0, 3, 4, 20, 29, 30, 40});
  TokenOptions o = options(dir, 6, 10);
  o.shuffle = false;
  const Host b = [&] { return host(TokenLoader(o, cpu()).next()); }();
  auto row = [&](size_t r) { return std::vector<int32_t>(b.start.begin() + int64_t(r) * 10, b.start.begin() + int64_t(r + 1) * 10); };
  CHECK(row(0) == std::vector<int32_t>{0, 0, 0, 3, 4, 4, 4, 4, 4, 4});
  CHECK(row(1) == std::vector<int32_t>(10, 0));  // the EOD at 20 is only a label here
  CHECK(row(2) == std::vector<int32_t>{0, 0, 0, 0, 0, 0, 0, 0, 0, 9});
  CHECK(row(3) == std::vector<int32_t>(10, 0));  // begins with an EOD
  CHECK(b.labels[19] == 20);
  o.reset = false;
  CHECK(!TokenLoader(o, cpu()).next().packing.start);
}

TEST_CASE("in order: one pass, every token labelled once, the last window filled up") {
  const Scratch dir;
  write_counting(dir.path, 108);
  TokenOptions o = options(dir, 4, 10);
  o.shuffle = false;
  for (const int64_t max_tokens : {0, 55, 40, 1'000'000}) {
    o.max_tokens = max_tokens;
    TokenLoader loader(o, cpu());
    const int64_t wanted = max_tokens ? std::min<int64_t>(max_tokens, 107) : 107;
    CHECK(loader.remaining() == (wanted + 39) / 40);
    std::vector<int32_t> labels;
    int64_t labelled = 0;
    while (loader.remaining() > 0) {
      const Batch batch = loader.next();
      const Host b = host(batch);
      CHECK_FALSE(batch.at);
      CHECK(batch.wanted().shape() == Shape{4, 10});
      labelled += b.labelled;
      for (size_t i = 0; i < b.labels.size(); ++i) {
        if (b.labels[i] == ignored_label) CHECK(b.ids[i] == 0);
        else labels.push_back(b.labels[i]);
      }
    }
    CHECK(labelled == wanted);
    REQUIRE(int64_t(labels.size()) == wanted);
    for (int64_t i = 0; i < wanted; ++i) CHECK(labels[size_t(i)] == i + 1);
    expect_failure([&] { loader.next(); }, Exit::internal, "the pass is over");
    loader.seek({0, 0});
    CHECK(loader.remaining() == (wanted + 39) / 40);
    CHECK(host(loader.next()).labels[0] == 1);
  }
}

TEST_CASE("ranks share a pass, and all have the same number of batches") {
  const Scratch dir;
  write_counting(dir.path, 91);  // nine windows of 10
  int64_t labelled = 0;
  for (int64_t rank = 0; rank < 2; ++rank) {
    TokenOptions o = options(dir, 2, 10);
    o.shuffle = false;
    o.rank = rank;
    o.world = 2;
    TokenLoader loader(o, cpu());
    CHECK(loader.remaining() == 3);
    while (loader.remaining() > 0) labelled += loader.next().labelled;
  }
  CHECK(labelled == 90);
}

TEST_CASE("the identity follows from the data and their order, not from where or how they are read") {
  const Scratch a, b, c;
  write_counting(a.path, 1'000);
  write_counting(b.path, 1'000);
  write_counting(c.path, 1'000, {0, 10});
  TokenOptions o = options(a, 4, 16);
  const std::string identity = TokenLoader(o, cpu()).identity();
  TokenOptions other = options(b, 2, 16);
  other.prefetch = 0;
  CHECK(TokenLoader(other, cpu()).identity() == identity);
  CHECK(TokenLoader(options(c, 4, 16), cpu()).identity() != identity);
  CHECK(TokenLoader(options(a, 4, 17), cpu()).identity() != identity);
  o.seed = 6;
  CHECK(TokenLoader(o, cpu()).identity() != identity);
}

TEST_CASE("an error of the prefetch thread comes with the batch it would have been, and again when asked again") {
  const Scratch dir;
  prepare({.inputs = {TAPER_SOURCE_DIR "/tests/data/loader_test.cpp"}, .output = dir / "out", .validation = 0});
  TokenOptions o = options(dir, 1, 64);
  o.directory = dir / "out";
  TokenLoader loader(o, cpu());
  inject_file_fault("read", 1, EIO);  // the only block
  expect_failure([&] { loader.next(); }, Exit::io, "train-00000.shard: read failed: Input/output error");
  CHECK(loader.cursor() == Cursor{0, 0});
  loader.next();
  CHECK(loader.cursor() == Cursor{0, 1});

  std::string bytes = read_file(dir / "out" / "train-00000.shard");
  bytes[200] ^= 1;
  write_file(dir / "out" / "train-00000.shard", bytes);
  TokenLoader damaged(o, cpu());
  for (int i = 0; i < 2; ++i)
    expect_failure([&] { damaged.next(); }, Exit::bad_data, "train-00000.shard: checksum of block 0 (bytes 152 to");
}

TEST_CASE("what a loader cannot do, it says") {
  const Scratch dir;
  write_counting(dir.path, 100);
  expect_failure([&] { TokenLoader(options(dir, 1, 100), cpu()); }, Exit::bad_data,
                 dir.path.string() + ": the train split has 100 tokens; a sample of sequence 100 needs 101; give more "
                                     "text or a shorter sequence");
  CHECK(TokenLoader(options(dir, 1, 99), cpu()).samples_per_epoch() == 1);
  TokenOptions o = options(dir, 1, 16);
  o.tokenizer = "bytes:v1";
  expect_failure([&] { TokenLoader(o, cpu()); }, Exit::bad_data,
                 "made by tokenizer 'counting:v1' with vocab 1000000; 'bytes:v1' is wanted");
  expect_failure([&] { TokenLoader(options(dir, 0, 16), cpu()); }, Exit::bad_config, "loader: wants batch >= 1");
  expect_failure([&] { TokenLoader(options(dir, 1, 0), cpu()); }, Exit::bad_config, "loader: wants sequence >= 1");
  o = options(dir, 1, 16);
  o.rank = 1;
  expect_failure([&] { TokenLoader(o, cpu()); }, Exit::bad_config, "rank in [0,world); got batch 1, rank 1 of 1");
  o.rank = 0;
  o.split = "validation";
  expect_failure([&] { TokenLoader(o, cpu()); }, Exit::no_input, "the directory has no validation split");
}

TEST_CASE("a loader that is destroyed while it works stops") {
  const Scratch dir;
  write_counting(dir.path, 1'000);
  for (int i = 0; i < 50; ++i) {
    TokenOptions o = options(dir, 4, 16);
    o.prefetch = 1 + i % 3;
    TokenLoader loader(o, cpu());
    for (int k = 0; k < i % 4; ++k) loader.next();
    if (i % 5 == 0) loader.seek({3, 7});
  }
}

TEST_CASE("shards far larger than what is cached: every token is read, and all ranks together take each sample once") {
  const Scratch dir;
  constexpr int64_t T = 1'000, tokens = 700'001;  // blocks of 65536 ids
  write_counting(dir.path, tokens);
  const auto cache = std::make_shared<BlockCache>(1);
  const ShardReader reader(dir / "train-00001.shard", cache);
  const Random random(2, "places");
  for (uint64_t i = 0; i < 300; ++i) {  // each read evicts what the one before needed
    std::vector<int32_t> some(100);
    const int64_t at = int64_t(random.below(i, uint64_t(reader.info().tokens - 100)));
    reader.read(at, some);
    for (int64_t k = 0; k < 100; ++k) REQUIRE(some[size_t(k)] == tokens / 3 + at + k);
  }
  std::set<int64_t> seen;
  int64_t rows = 0;
  for (int64_t rank = 0; rank < 3; ++rank) {
    TokenOptions o = options(dir, 10, T);
    o.rank = rank;
    o.world = 3;
    o.once = true;
    TokenLoader loader(o, cpu());
    while (loader.remaining() > 0) {
      const Host b = host(loader.next());
      for (size_t r = 0; r < 10; ++r) {
        if (b.labels[r * T] == ignored_label) continue;  // fills the last batch
        ++rows;
        seen.insert(b.ids[r * T]);
        for (int32_t t = 0; t < T; ++t) REQUIRE(b.labels[r * T + size_t(t)] == b.ids[r * T] + t + 1);
      }
    }
  }
  CHECK(rows == 700);
  CHECK(seen.size() == 700);
}
