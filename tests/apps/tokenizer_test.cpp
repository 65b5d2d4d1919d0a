// A tokenizer from a file, through the whole program: shards keep it, a run keeps it, text goes in and comes out.
#include <doctest/doctest.h>

#include <fmt/core.h>

#include <cmath>

#include "tests/apps/tiny.h"

using namespace taper;
using namespace taper::test;

namespace {

// RWKV's form: every byte, and the words of the test corpus, with and without their spaces.
std::string vocabulary(const std::vector<std::string>& words) {
  std::string text;
  for (int c = 0; c < 256; ++c) text += fmt::format("{} b'\\x{:02x}' 1\n", c + 1, c);
  int id = 257;
  for (const std::string& w : words) text += fmt::format("{} '{}' {}\n", id++, w, w.size());
  return text;
}

}  // namespace

TEST_CASE("a tokenizer file: prepare, train, eval and generate with it, after the data and the file are gone") {
  const Tiny t;
  const std::string file = t.dir("words.txt"), data = t.dir("shards");
  write_file(file, vocabulary({"state ", "decays ", "with ", "position ", "and ", "the ", "slow ", "head ", "remembers "}));
  const Ended p = run(t, {"prepare", t.dir("text"), "--out", data, "--validation", "0.2", "--tokenizer", file, "--json"});
  REQUIRE_MESSAGE(p.code == 0, p.err);
  CHECK(read_file(Path(data) / "vocab.txt") == read_file(file));
  fs::remove(file);

  const std::vector<std::string> with{"--set", "data.train=" + data, "--set", "data.sequence=16"};
  const Ended trained = run(t, t.train("r", with));
  REQUIRE_MESSAGE(trained.code == 0, trained.err);
  CHECK(read_file(Path(t.dir("r")) / "vocab.txt") == read_file(Path(data) / "vocab.txt"));
  const std::string metrics = read_file(Path(t.dir("r")) / "metrics.jsonl"), key = "\"bits_per_byte\":";
  const std::string last = metrics.substr(metrics.rfind(key), 15 + key.size());

  fs::rename(data, t.dir("moved"));
  const std::string checkpoint = t.dir("r") + "/checkpoints/step-000040";
  for (const std::string& from : {t.dir("r"), checkpoint}) {
    const Ended e = run(t, {"eval", from, "--data", t.dir("moved"), "--json"});
    REQUIRE_MESSAGE(e.code == 0, e.err);
    CHECK(e.out.find(last) != std::string::npos);
    const Ended g = run(t, {"generate", from, "--prompt", "the slow ", "--tokens", "8", "--temperature", "0", "--json"});
    REQUIRE_MESSAGE(g.code == 0, g.err);
    CHECK(g.out.find("\"prompt\":\"the slow \"") != std::string::npos);
  }
  // Words are tokens: eight of them are longer than eight bytes.
  const Ended g = run(t, {"generate", t.dir("r"), "--prompt", "the slow ", "--tokens", "8", "--temperature", "0"});
  CHECK(g.out.starts_with("the slow "));
  CHECK(g.out.size() > 9 + 20);

  refuses(t, t.train("r2", with), 66, "shards: no such directory of shards");
  fs::rename(t.dir("moved"), data);
  fs::rename(Path(t.dir("r")) / "vocab.txt", t.dir("kept.txt"));
  CHECK(run(t, {"generate", t.dir("r"), "--tokens", "1"}).code == 0);  // the data's own is as good
  fs::remove(Path(data) / "vocab.txt");
  refuses(t, {"generate", t.dir("r")}, 66, "r/vocab.txt: missing; it is the tokenizer of what lies in ");
  refuses(t, t.train("r2", with), 66, "shards/vocab.txt: missing; it is the tokenizer of what lies in ");
  write_file(Path(t.dir("r")) / "vocab.txt", vocabulary({"other"}));
  refuses(t, {"generate", t.dir("r")}, 65, "r/vocab.txt: the tokenizer rwkv:");
}

TEST_CASE("bits per byte: the bytes of the labels, not their number") {
  const Tiny t;
  write_file(t / "words.txt", vocabulary({"state ", "decays ", "with ", "position ", "and ", "the ", "slow ", "head ", "remembers "}));
  REQUIRE(run(t, {"prepare", t.dir("text"), "--out", t.dir("shards"), "--validation", "0.2", "--tokenizer", t.dir("words.txt")}).code == 0);
  REQUIRE(run(t, t.train("r", {"--set", "data.train=" + t.dir("shards"), "--set", "train.steps=10"})).code == 0);
  const Ended e = run(t, {"eval", t.dir("r"), "--tokens", "0", "--length", "32", "--json"});
  REQUIRE_MESSAGE(e.code == 0, e.err);
  const auto number = [&](const std::string& key) { return std::stod(e.out.substr(e.out.find("\"" + key + "\":") + key.size() + 3)); };
  // Words of four to nine bytes are tokens; bytes alone would make it one, and EOD counts none.
  CHECK(number("bytes") > 4 * number("tokens"));
  CHECK(number("bits_per_byte") == doctest::Approx(number("loss") * number("tokens") / std::log(2.0) / number("bytes")));
}
