// import: which documents lie in other programs' token files, and what is wrong with a file.
#include "data/import.h"

#include <cerrno>
#include <cstring>

#include "data/prepare.h"
#include "data/shard.h"
#include "tensor/parallel.h"
#include "tensor/random.h"
#include "tests/support/scratch.h"

using namespace taper;
using test::expect_failure;
using test::Scratch;
namespace fs = std::filesystem;

namespace {

using Ids = std::vector<int64_t>;
constexpr int64_t eod = 9;

template <class T>
std::string raw(const Ids& ids) {
  std::string bytes;
  for (const int64_t id : ids) {
    const T t = T(id);
    bytes.append(reinterpret_cast<const char*>(&t), sizeof t);
  }
  return bytes;
}
template <class T>
void put(std::string& to, T value) { to.append(reinterpret_cast<const char*>(&value), sizeof value); }

std::string llmc(int32_t magic, int32_t version, int32_t count, const std::string& ids) {
  std::string file;
  for (const int32_t word : {magic, version, count}) put(file, word);
  file.resize(1024);
  return file + ids;
}

struct Index {
  uint64_t version = 1;
  uint8_t code = 8;
  std::vector<int32_t> lengths;
  std::vector<int64_t> pointers, documents;
  bool modes = false;
  std::string bytes() const {
    std::string file("MMIDIDX\0\0", 9);
    put(file, version);
    put(file, code);
    put(file, uint64_t(lengths.size()));
    put(file, uint64_t(documents.size()));
    for (const int32_t n : lengths) put(file, n);
    for (const int64_t p : pointers) put(file, p);
    for (const int64_t d : documents) put(file, d);
    if (modes) file.append(lengths.size(), '\0');
    return file;
  }
};
Index index_of(std::vector<int32_t> lengths, std::vector<int64_t> documents, int width, uint8_t code) {
  Index index;
  index.code = code;
  index.lengths = std::move(lengths);
  index.documents = std::move(documents);
  int64_t at = 0;
  for (const int32_t n : index.lengths) index.pointers.push_back(at), at += int64_t(n) * width;
  return index;
}

PrepareOptions options(const Scratch& dir, const char* input, Import kind) {
  PrepareOptions o{.inputs = {dir / input}, .output = dir / "out", .tokenizer = "ids", .validation = 0};
  o.import = kind;
  o.vocab = 300;
  o.eod = eod;
  o.overwrite = true;
  return o;
}

std::vector<Ids> documents_of(const Path& directory, const std::string& split = "train") {
  const TokenStream stream(directory, split);
  std::vector<int32_t> tokens(size_t(stream.tokens()));
  stream.read(0, tokens);
  const auto starts = stream.documents(0, stream.tokens());
  std::vector<Ids> documents;
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t end = i + 1 < starts.size() ? starts[i + 1] : stream.tokens();
    CHECK(tokens[size_t(starts[i])] == eod);
    documents.emplace_back(tokens.begin() + starts[i] + 1, tokens.begin() + end);
  }
  return documents;
}

const std::vector<Ids> three{{1, 2, 3}, {4}, {250, 256, 299}};

}  // namespace

TEST_CASE("nanoGPT: EOD behind each document, before it, or none at all") {
  const Scratch dir;
  auto documents = [&](const Ids& ids) {
    write_file(dir / "x.bin", raw<uint16_t>(ids));
    const PrepareReport report = prepare(options(dir, "x.bin", Import::nanogpt));
    CHECK(report.train.bytes == 0);
    CHECK(report.unigram_bits_per_byte == 0);
    CHECK(report.files == 1);
    return std::pair(documents_of(dir / "out"), report.empty);
  };
  CHECK(documents({1, 2, 3, 9, 4, 9, 250, 256, 299, 9}) == std::pair(three, int64_t(0)));
  CHECK(documents({9, 1, 2, 3, 9, 4, 9, 250, 256, 299}) == std::pair(three, int64_t(0)));
  CHECK(documents({9, 9, 1, 2, 3, 9, 9, 9, 4, 9, 250, 256, 299, 9}) == std::pair(three, int64_t(3)));
  CHECK(documents({1, 2, 3}) == std::pair(std::vector<Ids>{{1, 2, 3}}, int64_t(0)));
  CHECK(TokenStream(dir / "out", "train").tokenizer() == "ids:300:9");
  CHECK(TokenStream(dir / "out", "train").vocab() == 300);
  write_file(dir / "x.bin", raw<uint16_t>({9, 9}));
  expect_failure([&] { prepare(options(dir, "x.bin", Import::nanogpt)); }, Exit::bad_data, "prepare: the corpus is empty: 1 files read");
}

TEST_CASE("llm.c: both versions, of u16 and of u32") {
  const Scratch dir;
  write_file(dir / "a.bin", llmc(20240520, 1, 10, raw<uint16_t>({9, 1, 2, 3, 9, 4, 9, 250, 256, 299})));
  prepare(options(dir, "a.bin", Import::llmc));
  CHECK(documents_of(dir / "out") == three);
  write_file(dir / "a.bin", llmc(20240801, 7, 5, raw<uint32_t>({9, 1, 2, 100'000, 128'255})));
  PrepareOptions o = options(dir, "a.bin", Import::llmc);
  o.vocab = 128'256;
  prepare(o);
  CHECK(documents_of(dir / "out") == std::vector<Ids>{{1, 2, 100'000, 128'255}});
}

TEST_CASE("Megatron: every integer type; the index and EODs end documents; files of a directory in order") {
  const Scratch dir;
  fs::create_directories(dir / "in");
  const Ids ids{1, 2, 3, 9, 4, 5, 6, 7, 9, 8};
  const Index index = index_of({2, 2, 0, 1, 3, 1, 1}, {0, 2, 3, 4, 4, 5, 6, 7}, 2, 8);
  // Documents by sequence: {1,2,3,9} {} {4} {} {5,6,7} {9} {8}: three of them empty.
  const std::vector<Ids> wanted{{1, 2, 3}, {4}, {5, 6, 7}, {8}};
  auto write = [&](const char* name, const std::string& bin, int width, uint8_t code, bool modes) {
    Index i = index_of(index.lengths, index.documents, width, code);
    i.modes = modes;
    write_file(dir / "in" / (std::string(name) + ".bin"), bin);
    write_file(dir / "in" / (std::string(name) + ".idx"), i.bytes());
  };
  write("a", raw<uint8_t>(ids), 1, 1, false);
  write("b", raw<int8_t>(ids), 1, 2, true);
  write("c", raw<int16_t>(ids), 2, 3, false);
  write("d", raw<int32_t>(ids), 4, 4, false);
  write("e", raw<int64_t>(ids), 8, 5, true);
  write("f", raw<uint16_t>(ids), 2, 8, false);
  const PrepareReport all = prepare(options(dir, "in", Import::megatron));
  CHECK(all.files == 6);
  CHECK(all.empty == 18);
  std::vector<Ids> six;
  for (int i = 0; i < 6; ++i) six.insert(six.end(), wanted.begin(), wanted.end());
  CHECK(documents_of(dir / "out") == six);
  prepare(options(dir, "in/f.idx", Import::megatron));
  CHECK(documents_of(dir / "out") == wanted);
}

TEST_CASE("documents larger than what is read at a time, for any number of threads and size of units; splits; going on") {
  const Scratch dir;
  const Random random(3, "ids");
  Ids all;
  std::vector<Ids> wanted;
  for (uint64_t d = 0; d < 60; ++d) {
    wanted.emplace_back();
    const uint64_t n = d == 7 ? 200'000 : d == 30 ? 65'536 : 1 + random.below(d, 900);
    for (uint64_t i = 0; i < n; ++i) wanted.back().push_back(int64_t(10 + random.below(d * 1'000'000 + i, 290)));
    all.insert(all.end(), wanted.back().begin(), wanted.back().end());
    all.push_back(eod);
  }
  write_file(dir / "x.bin", raw<uint16_t>(all));
  write_file(dir / "y.bin", raw<uint16_t>({1, 2, 3, 9}));
  PrepareOptions o = options(dir, "x.bin", Import::nanogpt);
  o.inputs.push_back(dir / "y.bin");
  wanted.push_back({1, 2, 3});
  o.shard_tokens = 150'000;
  prepare(o);
  CHECK((documents_of(dir / "out") == wanted));

  o.validation = 0.3;
  const int before = thread_count();
  std::string first;
  for (const int threads : {1, 2, 8}) {
    set_thread_count(threads);
    for (const int64_t unit : {40, 1'000, 65'536}) {
      o.unit_bytes = unit;
      o.batch_bytes = 3 * unit;
      const PrepareReport report = prepare(o);
      CHECK(report.train.documents + report.validation.documents == 61);
      std::string bytes;
      for (const char* name : {"train-00000.shard", "train-00001.shard", "validation-00000.shard"})
        if (fs::exists(dir / "out" / name)) bytes += read_file(dir / "out" / name);
      if (first.empty()) first = bytes;
      CHECK((bytes == first));
    }
  }
  set_thread_count(before);
  auto train = documents_of(dir / "out"), held = documents_of(dir / "out", "validation");
  for (size_t i = 0, t = 0, h = 0; i < wanted.size(); ++i) {
    std::vector<int32_t> ids(wanted[i].begin(), wanted[i].end());
    const bool out = double(checksum(ids.data(), ids.size() * 4)) < std::ldexp(0.3, 64);
    const bool same = (out ? held.at(h++) : train.at(t++)) == wanted[i];
    CHECK(same);
  }

  // Stopped at many places, it goes on to the same shards.
  o.overwrite = false;
  o.unit_bytes = 20'000;
  o.batch_bytes = 30'000;
  for (int stop = 3; stop < 20; stop += 4) {
    fs::remove_all(dir / "out");
    int runs = 0;
    for (bool done = false; !done && runs < 200; ++runs) {
      int round = 0;
      try {
        prepare(o, {.progress = [&](const PrepareProgress& p) { if (p.done > p.begun && ++round == stop) fail(Exit::failure, "stopped"); },
                    .save = [](bool ending) { return ending; }});
        done = true;
      } catch (const Error& e) {
        CHECK(std::string(e.what()).starts_with("stopped; what was done before is kept"));
      }
    }
    CHECK(runs > 1);
    std::string bytes;
    for (const char* name : {"train-00000.shard", "train-00001.shard", "validation-00000.shard"})
      if (fs::exists(dir / "out" / name)) bytes += read_file(dir / "out" / name);
    CHECK((bytes == first));
  }
}

TEST_CASE("a single document is cut at its end for validation") {
  const Scratch dir;
  Ids ids;
  for (int64_t i = 0; i < 1'000; ++i) ids.push_back(10 + i % 200);
  write_file(dir / "x.bin", raw<uint16_t>(ids));
  PrepareOptions o = options(dir, "x.bin", Import::nanogpt);
  o.validation = 0.1;
  const PrepareReport report = prepare(o);
  CHECK(report.note == "few documents: the last part of each is the validation split");
  CHECK(documents_of(dir / "out") == std::vector<Ids>{Ids(ids.begin(), ids.begin() + 900)});
  CHECK(documents_of(dir / "out", "validation") == std::vector<Ids>{Ids(ids.begin() + 900, ids.end())});
}

TEST_CASE("published splits: one file to train on, one held out") {
  const Scratch dir;
  write_file(dir / "train.bin", raw<uint16_t>({1, 2, 3, 9, 4}));
  write_file(dir / "val.bin", raw<uint16_t>({5, 9, 6}));
  PrepareOptions o = options(dir, "train.bin", Import::nanogpt);
  o.held_out = {dir / "val.bin"};
  prepare(o);
  CHECK(documents_of(dir / "out") == std::vector<Ids>{{1, 2, 3}, {4}});
  CHECK(documents_of(dir / "out", "validation") == std::vector<Ids>{{5}, {6}});
}

TEST_CASE("the tokenizer of an import: checked against what is given, kept beside the shards") {
  const Scratch dir;
  write_file(dir / "x.bin", raw<uint16_t>({72, 105, 256, 72, 111}));
  PrepareOptions o = options(dir, "x.bin", Import::nanogpt);
  o.tokenizer = "bytes";
  o.vocab = 0;
  o.eod = -1;
  prepare(o);
  CHECK(TokenStream(dir / "out", "train", "bytes:v1").documents(0, 6) == std::vector<int64_t>{0, 3});
  o.vocab = 300;
  expect_failure([&] { prepare(o); }, Exit::bad_config, "prepare: tokenizer bytes has a vocabulary of 257 and EOD 256; --vocab 300 and --eod -1 are given");
  o.tokenizer = "ids";
  expect_failure([&] { prepare(o); }, Exit::bad_config,
                 "prepare: to import nanogpt tokens, give the tokenizer they were made with, or --vocab N and --eod ID");
  o.eod = 300;
  expect_failure([&] { prepare(o); }, Exit::bad_config, "tokenizer: ids:VOCAB:EOD with EOD in [0,VOCAB) is wanted; got ids:300:300");
  for (const char* name : {"ids:", "ids:3", "ids:3:", "ids:x:1", "ids:3:1x", "ids:0:0", "ids:-3:0"})
    expect_failure([&] { open_tokenizer(name); }, Exit::bad_config, std::string("tokenizer: ids:VOCAB:EOD with EOD in [0,VOCAB) is wanted; got ") + name);
  const auto ids = open_tokenizer("ids:300:9");
  CHECK(ids->identity() == "ids:300:9");
  std::vector<int32_t> tokens;
  expect_failure([&] { ids->encode("x", tokens); }, Exit::bad_config,
                 "tokenizer: ids:300:9 are ids of a tokenizer that is not known; import them with --tokenizer FILE to work with text");
}

TEST_CASE("files that are wrong: what, and where") {
  const Scratch dir;
  auto path = [&](const char* name) { return (dir / name).string(); };
  auto expect = [&](const char* input, Import kind, Exit code, const std::string& text) {
    expect_failure([&] { prepare(options(dir, input, kind)); }, code, text);
    CHECK(!fs::exists(dir / "out"));
    CHECK(!fs::exists(dir / "out.partial"));
  };
  expect("none.bin", Import::nanogpt, Exit::no_input, path("none.bin") + ": no such file or directory");
  fs::create_directories(dir / "void");
  expect("void", Import::nanogpt, Exit::no_input, path("void") + ": holds no .bin file");
  write_file(dir / "a.bin", "abc");
  expect("a.bin", Import::nanogpt, Exit::bad_data, path("a.bin") + ": 3 bytes of ids are not a multiple of 2; is it a file of u16, and whole?");
  write_file(dir / "a.bin", raw<uint16_t>({1, 2, 300, 4}));
  expect("a.bin", Import::nanogpt, Exit::bad_data, path("a.bin") + ": id 300 at position 2 is outside the vocabulary of 300");

  write_file(dir / "a.bin", "short");
  expect("a.bin", Import::llmc, Exit::bad_data, "a.bin: shorter than the 1024 bytes of an llm.c header");
  write_file(dir / "a.bin", llmc(20240520, 2, 0, ""));
  expect("a.bin", Import::llmc, Exit::bad_data,
         "a.bin: an llm.c file begins with magic 20240520 version 1 or 20240801 version 7; this one with 20240520 version 2");
  write_file(dir / "a.bin", llmc(20240522, 1, 0, ""));
  expect("a.bin", Import::llmc, Exit::bad_data, "a.bin: llm.c evaluation data (magic 20240522), not tokens to train on");
  write_file(dir / "a.bin", llmc(20240520, 1, 5, raw<uint16_t>({1, 2, 3})));
  expect("a.bin", Import::llmc, Exit::bad_data, "a.bin: its header says 5 ids; there are 3; truncated?");
  write_file(dir / "a.bin", llmc(20240520, 1, -1, ""));
  expect("a.bin", Import::llmc, Exit::bad_data, "a.bin: its header says -1 ids");
  write_file(dir / "a.bin", llmc(20240801, 7, 1, "abc"));
  expect("a.bin", Import::llmc, Exit::bad_data, "a.bin: 3 bytes of ids are not a multiple of 4");

  write_file(dir / "m.bin", raw<uint16_t>({1, 2, 3, 4}));
  expect("m.bin", Import::megatron, Exit::no_input, path("m.idx") + ": missing; the index beside " + path("m.bin"));
  const Index good = index_of({1, 3}, {0, 1, 2}, 2, 8);
  auto index = [&](const std::function<void(Index&)>& change, const std::string& text) {
    Index bad = good;
    change(bad);
    write_file(dir / "m.idx", bad.bytes());
    expect("m.bin", Import::megatron, Exit::bad_data, path("m.idx") + ": " + text);
  };
  index([](Index& i) { i.version = 2; }, "index version 2; version 1 is read");
  index([](Index& i) { i.code = 7; }, "ids of type code 7 are not read; integers are: 1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 8 u16");
  index([](Index& i) { i.lengths[0] = -1; }, "sequence 0 has a length of -1");
  index([](Index& i) { i.pointers[1] = 4; }, "sequence 1 begins at byte 4; by the lengths before it, 2 is wanted");
  index([](Index& i) { i.lengths[1] = 4; }, "sequence 1 ends at byte 10 of " + path("m.bin") + ", which has 8");
  index([](Index& i) { i.lengths[1] = 2; }, "the sequences end at byte 6 of " + path("m.bin") + ", which has 8");
  index([](Index& i) { i.documents = {0, 2, 1, 2}; }, "document 2 begins at sequence 1; at least 2 and at most 2 is wanted");
  index([](Index& i) { i.documents = {1, 2}; }, "document 0 begins at sequence 1; at least 0 and at most 2 is wanted");
  index([](Index& i) { i.documents = {0, 3}; }, "document 1 begins at sequence 3; at least 0 and at most 2 is wanted");
  index([](Index& i) { i.documents = {0, 1}; }, "the documents end at sequence 1 of 2");
  index([](Index& i) { i.documents = {}; }, "not a good index: it lists no document, not even the end");
  const std::string bytes = good.bytes();
  for (const auto& [text, what] :
       {std::pair{bytes.substr(0, 33), "shorter than its header"},
        {"X" + bytes.substr(1), "it does not begin with MMIDIDX"},
        {bytes.substr(0, bytes.size() - 1), "its size does not fit the numbers of sequences and documents in its header; truncated?"},
        {bytes + "abc", "its size does not fit"}}) {
    write_file(dir / "m.idx", text);
    expect("m.bin", Import::megatron, Exit::bad_data, path("m.idx") + ": not a good index: " + what);
  }
  std::string huge = bytes;
  std::memset(&huge[18], 0xff, 8);
  write_file(dir / "m.idx", huge);
  expect("m.bin", Import::megatron, Exit::bad_data, "its size does not fit");
  write_file(dir / "m.bin", raw<int16_t>({1, -2, 3, 4}));
  write_file(dir / "m.idx", index_of({1, 3}, {0, 1, 2}, 2, 3).bytes());
  expect("m.bin", Import::megatron, Exit::bad_data, path("m.bin") + ": id -2 at position 1 is outside the vocabulary of 300");
}
