// prepare: what the shards hold, how a corpus is split, and what bad input says.
#include "data/prepare.h"

#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

#include <cerrno>
#include <cmath>
#include <csignal>
#include <set>

#include "data/documents.h"
#include "tests/data/texts.h"
#include "tests/support/scratch.h"

using namespace taper;
using test::documents_of;
using test::expect_failure;
using test::Scratch;
namespace fs = std::filesystem;

namespace {

std::string zstd_frame(const std::string& text) {
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
  return packed;
}

std::vector<std::string> names_in(const Path& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename().string());
  return {names.begin(), names.end()};
}

// 200 small documents in one JSON lines file.
std::vector<std::string> many(const Path& path) {
  std::vector<std::string> texts;
  std::string lines;
  for (int i = 0; i < 200; ++i) {
    texts.push_back(fmt::format("document {}{}", i, std::string(size_t(i), 'x')));
    lines += fmt::format("{{\"id\": {}, \"text\": \"{}\"}}\n", i, texts.back());
  }
  write_file(path, lines);
  return texts;
}

}  // namespace

TEST_CASE("text files and directories: sorted, hidden and binary ones left out, one document each") {
  const Scratch dir;
  fs::create_directories(dir / "in/b/.git");
  write_file(dir / "in/b/two.txt", "two\n");
  write_file(dir / "in/b/.git/config", "hidden");
  write_file(dir / "in/a.md", "one");
  write_file(dir / "in/c.json", "{\"three\": 3}");
  write_file(dir / "in/data.unknown", std::string("with a \0 byte", 13));
  write_file(dir / "in/picture.png", "no NUL, known all the same");
  write_file(dir / "in/empty.txt", "");
  fs::create_directory_symlink(dir / "in", dir / "in/b/circle");
  write_file(dir / "last", "the last, \xc3\xa9\xff");
  const PrepareReport report =
      prepare({.inputs = {dir / "in", dir / "last"}, .output = dir / "out", .validation = 0, .invalid_utf8 = InvalidUtf8::keep});
  CHECK(documents_of(dir / "out", "train") ==
        std::vector<std::string>{"one", "two\n", "{\"three\": 3}", "the last, \xc3\xa9\xff"});
  CHECK(report.files == 5);
  CHECK(report.skipped_files == 3);
  CHECK(report.train.documents == 4);
  CHECK(report.train.bytes == 3 + 4 + 12 + 13);
  CHECK(report.train.tokens == report.train.bytes + 4);
  CHECK(report.validation.documents == 0);
  CHECK(names_in(dir / "out") == std::vector<std::string>{"train-00000.shard"});
}

TEST_CASE("JSON lines, plain and in several zstd frames, give the same shards") {
  const Scratch dir;
  const auto texts = many(dir / "a.jsonl");
  const std::string lines = read_file(dir / "a.jsonl");
  // Frames cut inside lines, with a skippable frame between.
  const std::string skippable("\x50\x2a\x4d\x18\x03\0\0\0abc", 11);
  write_file(dir / "b.jsonl.zst", zstd_frame(lines.substr(0, 5'003)) + skippable + zstd_frame(lines.substr(5'003)));
  write_file(dir / "c.jsonl", std::string("\n") + lines.substr(0, lines.size() - 1) + "\r\n  \n{\"text\": \"\"}");
  for (const char* name : {"a.jsonl", "b.jsonl.zst", "c.jsonl"}) {
    const PrepareReport report = prepare({.inputs = {dir / name}, .output = dir / "out" / name, .validation = 0});
    CHECK(report.train.documents == 200);
    CHECK(documents_of(dir / "out" / name, "train") == texts);
  }
  prepare({.inputs = {dir / "a.jsonl"}, .output = dir / "ids", .text_field = "text", .validation = 0});
  expect_failure([&] { prepare({.inputs = {dir / "a.jsonl"}, .output = dir / "x", .text_field = "id"}); },
                 Exit::bad_data, (dir / "a.jsonl").string() + ":1: wants an object with a string 'id'");
}

TEST_CASE("the split goes by the hash of the bytes, whatever else is in the corpus") {
  const Scratch dir;
  const auto texts = many(dir / "a.jsonl");
  write_file(dir / "more.txt", "another document");
  const PrepareReport report = prepare({.inputs = {dir / "a.jsonl"}, .output = dir / "one", .validation = 0.2});
  prepare({.inputs = {dir / "more.txt", dir / "a.jsonl"}, .output = dir / "two", .validation = 0.2});
  CHECK(report.note.empty());
  const auto held = documents_of(dir / "one", "validation"), train = documents_of(dir / "one", "train");
  CHECK(held.size() + train.size() == 200);
  CHECK(held.size() > 20);
  CHECK(held.size() < 62);  // 40 +- 4 deviations
  std::set<std::string> all(held.begin(), held.end());
  all.insert(train.begin(), train.end());
  CHECK(all.size() == 200);
  auto held_again = documents_of(dir / "two", "validation");
  std::erase(held_again, "another document");
  CHECK(held_again == held);
  for (const std::string& text : held) CHECK(double(checksum(text.data(), text.size())) < std::ldexp(0.2, 64));
  CHECK(report.validation.bytes + report.train.bytes ==
        [&] { int64_t n = 0; for (const auto& t : texts) n += int64_t(t.size()); return n; }());
}

TEST_CASE("a corpus too small for a split by hash is cut at the end of each document, between characters") {
  const Scratch dir;
  std::string text;
  for (int i = 0; i < 300; ++i) text += "\xe2\x82\xac";
  write_file(dir / "one.txt", text);
  const PrepareReport report = prepare({.inputs = {dir / "one.txt"}, .output = dir / "out", .validation = 0.1});
  CHECK(report.note == "few documents: the last part of each is the validation split");
  const auto train = documents_of(dir / "out", "train"), held = documents_of(dir / "out", "validation");
  REQUIRE(train.size() == 1);
  REQUIRE(held.size() == 1);
  CHECK(train[0] + held[0] == text);
  CHECK(held[0].size() == 90);
  write_file(dir / "odd.txt", text + "a");  // 901 bytes: the share cuts at 811, inside a character, which moves it to 810
  prepare({.inputs = {dir / "odd.txt"}, .output = dir / "odd", .validation = 0.0989});
  CHECK(documents_of(dir / "odd", "validation")[0].size() == 91);
  write_file(dir / "tiny.txt", "x");
  expect_failure([&] { prepare({.inputs = {dir / "tiny.txt"}, .output = dir / "tiny"}); }, Exit::bad_data,
                 "a corpus of 1 bytes is too small to hold some of it out; use a validation share of 0");
}

TEST_CASE("shards are cut at their size and hold the same stream; the output is reproducible") {
  const Scratch dir;
  const auto texts = many(dir / "a.jsonl");
  const PrepareReport report = prepare(
      {.inputs = {dir / "a.jsonl"}, .output = dir / "small", .validation = 0, .shard_tokens = 1'000});
  CHECK(documents_of(dir / "small", "train") == texts);
  CHECK(report.train.shards == (report.train.tokens + 999) / 1'000);
  CHECK(int64_t(names_in(dir / "small").size()) == report.train.shards);
  CHECK(ShardReader(dir / "small" / "train-00001.shard").info().tokens == 1'000);
  prepare({.inputs = {dir / "a.jsonl"}, .output = dir / "again", .validation = 0, .shard_tokens = 1'000});
  for (const std::string& name : names_in(dir / "small"))
    CHECK(read_file(dir / "small" / name) == read_file(dir / "again" / name));
}

TEST_CASE("a document larger than a piece is read whole") {
  const Scratch dir;
  std::string text;
  for (int i = 0; text.size() < 3'000'000; ++i) text += std::to_string(i) + "\n";
  write_file(dir / "a.txt", text);
  prepare({.inputs = {dir / "a.txt"}, .output = dir / "out", .validation = 0});
  CHECK((documents_of(dir / "out", "train") == std::vector<std::string>{text}));
}

TEST_CASE("the unigram entropy is that of the byte counts") {
  const Scratch dir;
  std::string even;
  for (int i = 0; i < 50'000; ++i) even += "ab";
  write_file(dir / "a.txt", even);
  const PrepareReport report = prepare({.inputs = {dir / "a.txt"}, .output = dir / "out", .validation = 0.5});
  CHECK(report.validation.bytes == 50'000);
  CHECK(report.unigram_bits_per_byte == doctest::Approx(-std::log2(25'001.0 / 50'256)).epsilon(1e-12));
}

TEST_CASE("progress counts up to the report") {
  const Scratch dir;
  many(dir / "a.jsonl");
  write_file(dir / "b.txt", "b");
  PrepareProgress last;
  int64_t calls = 0;
  const PrepareReport report = prepare({.inputs = {dir.path}, .output = dir / "out", .validation = 0, .unit_bytes = 100, .batch_bytes = 100},
                                       {.progress = [&](const PrepareProgress& p) {
                                         ++calls;
                                         CHECK(p.documents >= last.documents);
                                         CHECK(p.done >= last.done);
                                         last = p;
                                       }});
  CHECK(calls >= 100);
  CHECK(last.file == 2);
  CHECK(last.files == 2);
  CHECK(last.documents == 201);
  CHECK(last.bytes == report.train.bytes);
  CHECK(last.tokens == report.train.tokens);
  CHECK(last.done == fs::file_size(dir / "a.jsonl") + 1);
  CHECK(last.total == last.done);
  CHECK(last.begun == 0);
}

TEST_CASE("bad input names the file and the place, and leaves nothing behind") {
  const Scratch dir;
  auto expect = [&](std::vector<Path> inputs, Exit code, const std::string& text) {
    expect_failure([&] { prepare({.inputs = inputs, .output = dir / "out"}); }, code, text);
    CHECK(!fs::exists(dir / "out"));
    CHECK(!fs::exists(dir / "out.partial"));
  };
  auto path = [&](const char* name) { return (dir / name).string(); };
  expect({}, Exit::no_input, "prepare: no input was named");
  expect({dir / "none"}, Exit::no_input, path("none") + ": no such file or directory");
  fs::create_directory(dir / "empty");
  expect({dir / "empty"}, Exit::bad_data, "prepare: the corpus is empty: 0 files read, 0 skipped, no text in them");
  write_file(dir / "void.txt", "");
  write_file(dir / "empty/x.png", "x");
  expect({dir / "void.txt", dir / "empty"}, Exit::bad_data, "the corpus is empty: 1 files read, 1 skipped");
  write_file(dir / "binary", std::string("ab\0c", 4));
  expect({dir / "binary"}, Exit::bad_data, path("binary") + ": not a text: byte 2 is NUL");
  write_file(dir / "bad.jsonl", "{\"text\": \"fine\"}\n\n{\"text\": \"cut\n");
  expect({dir / "bad.jsonl"}, Exit::bad_data, path("bad.jsonl") + ":3: not JSON, at byte ");
  write_file(dir / "bad.jsonl", "{\"text\": \"fine\"}\n{\"txt\": \"\"}\n");
  expect({dir / "bad.jsonl"}, Exit::bad_data, path("bad.jsonl") + ":2: wants an object with a string 'text'");
  write_file(dir / "bad.jsonl", "[1]");
  expect({dir / "bad.jsonl"}, Exit::bad_data, ":1: wants an object with a string 'text'");
  write_file(dir / "bad.jsonl", "{\"text\": \"\xff\"}");
  expect({dir / "bad.jsonl"}, Exit::bad_data, ":1: not UTF-8 at byte 11 of the line; give --invalid-utf8 replace or skip to go on");
  const std::string frame = zstd_frame(std::string("{\"text\": \"") + std::string(5'000, 'y') + "\"}\n");
  write_file(dir / "cut.jsonl.zst", frame.substr(0, frame.size() - 3));
  expect({dir / "cut.jsonl.zst"}, Exit::bad_data, path("cut.jsonl.zst") + ": truncated: the compressed data stop at byte");
  write_file(dir / "bad.jsonl.zst", frame + "not zstd");
  expect({dir / "bad.jsonl.zst"}, Exit::bad_data, path("bad.jsonl.zst") + ": damaged compression before byte");
  write_file(dir / "good.txt", "a good text of more than one word");
  expect_failure([&] { prepare({.inputs = {dir / "good.txt"}, .output = dir / "out", .tokenizer = "gpt5"}); },
                 Exit::bad_config, "tokenizer: no 'gpt5'; supported: bytes");
  expect_failure([&] { prepare({.inputs = {dir / "good.txt"}, .output = dir / "out", .validation = 1}); },
                 Exit::bad_config, "prepare: the validation share must lie in [0,1); got 1");
  expect_failure([&] { prepare({.inputs = {dir / "good.txt"}, .output = dir / "out", .shard_tokens = 0}); },
                 Exit::bad_config, "prepare: a shard holds at least 1 token; got 0");
}

TEST_CASE("a line of more than 48 MiB is refused before it is held") {
  const Scratch dir;
  // 300 MiB of one character pack into a few kilobytes.
  std::string packed(ZSTD_compressBound(size_t(300) << 20), '\0');
  {
    const std::string long_line(size_t(300) << 20, 'z');
    packed.resize(ZSTD_compress(packed.data(), packed.size(), long_line.data(), long_line.size(), 1));
  }
  write_file(dir / "long.jsonl.zst", packed);
  expect_failure([&] { prepare({.inputs = {dir / "long.jsonl.zst"}, .output = dir / "out"}); }, Exit::bad_data,
                 (dir / "long.jsonl.zst").string() + ":1: the line is longer than 48 MiB; give such a document as a plain text file");
}

TEST_CASE("an output that is there is refused, unless it is to be overwritten; then it stays whole until the end") {
  const Scratch dir;
  write_file(dir / "a.txt", "the first text, long enough to split");
  write_file(dir / "b.txt", "the second text, long enough to split");
  const PrepareOptions first{.inputs = {dir / "a.txt"}, .output = dir / "out", .validation = 0};
  PrepareOptions second{.inputs = {dir / "b.txt"}, .output = dir / "out", .validation = 0};
  fs::create_directory(dir / "out");  // an empty one is no obstacle
  prepare(first);
  expect_failure([&] { prepare(second); }, Exit::cannot_create, (dir / "out").string() + ": exists and is not empty");
  second.overwrite = true;
  inject_file_fault("write", 2, ENOSPC);
  expect_failure([&] { prepare(second); }, Exit::io, "write failed: No space left on device");
  CHECK(documents_of(dir / "out", "train")[0].starts_with("the first"));
  expect_failure([&] { prepare(second, {.progress = [](const PrepareProgress&) { fail(Exit::failure, "stopped"); }}); }, Exit::failure,
                 "stopped");
  CHECK(documents_of(dir / "out", "train")[0].starts_with("the first"));
  prepare(second);
  CHECK(documents_of(dir / "out", "train")[0].starts_with("the second"));
  CHECK(dir.entries() == 3);
}

TEST_CASE("a fault at any call: an error that says so, and the old output or the whole new one") {
  const Scratch dir;
  write_file(dir / "old.txt", "what was there before");
  const auto texts = many(dir / "a.jsonl");
  const std::vector<std::string> old{"what was there before"};
  PrepareOptions options{.inputs = {dir / "a.jsonl"}, .output = dir / "out", .validation = 0, .shard_tokens = 10'000};
  options.overwrite = true;
  for (const char* call : {"open", "write", "fsync", "rename", "read"}) {
    PrepareOptions before = options;
    before.inputs = {dir / "old.txt"};
    prepare(before);
    int64_t faults = 0;
    for (bool failed = true; failed; ++faults) {
      inject_file_fault(call, faults + 1, EIO);
      try {
        prepare(options);
        failed = false;
      } catch (const Error& e) {
        CHECK((e.code == Exit::io || e.code == Exit::cannot_create));
        CHECK(std::string(e.what()).find("Input/output error") != std::string::npos);
        CHECK(std::string(e.what()).starts_with(dir.path.string()));
      }
      inject_file_fault(call, 0, 0);
      const auto now = documents_of(dir / "out", "train");
      CHECK((now == old || now == texts));
      CHECK(!fs::exists(dir / "out.partial"));
    }
    CHECK(documents_of(dir / "out", "train") == texts);
    CHECK(faults >= 2);  // at least one, and the run that passes
  }
}

TEST_CASE("a kill leaves nothing half made, and the next run cleans up") {
  const Scratch dir;
  const auto texts = many(dir / "a.jsonl");
  const PrepareOptions options{.inputs = {dir / "a.jsonl"}, .output = dir / "out", .validation = 0, .shard_tokens = 500, .unit_bytes = 200, .batch_bytes = 200};
  for (const int64_t at : {1, 60, 200}) {
    const pid_t child = ::fork();
    if (child == 0) {
      prepare(options, {.progress = [&](const PrepareProgress& p) {
                if (p.documents >= at) ::raise(SIGKILL);
              }});
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status));
    CHECK(!fs::exists(dir / "out"));
  }
  prepare(options);
  CHECK(documents_of(dir / "out", "train") == texts);
  CHECK(dir.entries() == 2);
}
