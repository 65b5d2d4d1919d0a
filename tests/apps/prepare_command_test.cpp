// prepare, the real binary: from an empty directory, stopped and gone on with, and its memory.
#include <csignal>
#include <map>

#include "tensor/random.h"
#include "tests/apps/tiny.h"

using namespace taper;
using namespace taper::test;

namespace {

std::map<std::string, std::string> files_in(const Path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(directory)) files[entry.path().filename().string()] = read_file(entry.path());
  return files;
}

// Digits and spaces, the same in every run.
std::string numbers(size_t bytes) {
  const Random random(1, "numbers");
  std::string text;
  for (uint64_t i = 0; text.size() < bytes; ++i) text += std::to_string(random.below(i, 100'000)) + (i % 20 == 19 ? "\n" : " ");
  return text;
}

}  // namespace

TEST_CASE("prepare: options that are wrong are refused by their names") {
  const Scratch s;
  const auto path = [&](const char* name) { return (s / name).string(); };
  write_corpus(s / "text");
  refuses(s, {"prepare", path("text"), "--out", path("o"), "--invalid-utf8", "ignore"}, 2, "--invalid-utf8");
  refuses(s, {"prepare", path("text"), "--out", path("o"), "--import", "numpy"}, 2, "--import");
  refuses(s, {"prepare", path("text"), "--out", path("o"), "--vocab", "10"}, 2, "--vocab requires --import");
  refuses(s, {"prepare", path("text"), "--out", path("o"), "--validation-from", path("none")}, 66, "none: no such file or directory");
  write_file(s / "x.bin", "abcd");
  refuses(s, {"prepare", path("x.bin"), "--out", path("o"), "--import", "nanogpt"}, 78,
          "prepare: to import nanogpt tokens, give the tokenizer they were made with, or --vocab N and --eod ID");
  write_file(s / "latin.txt", "caf\xe9 au lait");
  refuses(s, {"prepare", path("latin.txt"), "--out", path("o")}, 65, "latin.txt: not UTF-8 at byte 3; give --invalid-utf8 replace, skip or keep to go on");
  const Ended e = run(s, {"prepare", path("latin.txt"), path("text"), "--out", path("o"), "--invalid-utf8", "skip"});
  CHECK(e.code == 0);
  CHECK(e.out.find("1          documents that are not UTF-8 left out\n") != std::string::npos);
}

TEST_CASE("prepare: imported ids train") {
  const Tiny t;
  std::string ids;
  for (int i = 0; i < 4'000; ++i) ids += {char(i % 50), '\0'};
  write_file(t / "train.bin", ids);
  write_file(t / "val.bin", ids.substr(0, 1'000));
  const Ended e = run(t, {"prepare", t.dir("train.bin"), "--validation-from", t.dir("val.bin"), "--import", "nanogpt", "--vocab", "50", "--eod", "49", "--out",
                          t.dir("ids"), "--json"});
  CHECK(e.code == 0);
  CHECK(e.out.find("\"train\":{\"documents\":80,\"bytes\":0,\"tokens\":4000,\"shards\":1}") != std::string::npos);
  CHECK(e.out.find("\"validation\":{\"documents\":10,\"bytes\":0,\"tokens\":500,\"shards\":1}") != std::string::npos);
  const Ended trained = run(t, t.train("r", {"--set", "data.train=" + t.dir("ids"), "--set", "data.validation=" + t.dir("ids"), "--set", "train.steps=3"}));
  CAPTURE(trained.err);
  CHECK(trained.code == 0);
  CHECK(trained.err.find("nan") == std::string::npos);
}

TEST_CASE("prepare: stopped by a signal it says so, and the same command gives the same shards; memory stays bounded") {
  const Scratch s;
  const auto path = [&](const char* name) { return (s / name).string(); };
  const std::string text = numbers(40'000'000);
  write_file(s / "a.txt", text);
  std::string line = "{\"text\": \"" + std::string(size_t(45) << 20, 'z') + "\"}\n";
  write_file(s / "b.jsonl", line);
  const Ended whole = run(s, {"prepare", path("a.txt"), path("b.jsonl"), "--out", path("whole"), "--threads", "1"});
  CHECK(whole.code == 0);
  CHECK(whole.peak_bytes < int64_t(512) << 20);
  for (const char* threads : {"2", "64"}) {
    Process process(s, {"prepare", path("a.txt"), path("b.jsonl"), "--out", path("o"), "--threads", threads});
    for (int i = 0; i < 2000 && !fs::exists(s / "o.partial"); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    process.kill(SIGINT);
    const Ended e = process.wait();
    CHECK(e.code == 130);
    CHECK(e.err.find("taper: prepare: stopped by a signal") != std::string::npos);
    CHECK(!fs::exists(s / "o"));
    const Ended again = run(s, {"prepare", path("a.txt"), path("b.jsonl"), "--out", path("o"), "--threads", threads});
    CHECK(again.code == 0);
    CHECK(again.peak_bytes < int64_t(512) << 20);
    CHECK((files_in(s / "o") == files_in(s / "whole")));
    fs::remove_all(s / "o");
  }
}
