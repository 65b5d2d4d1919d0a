// A tokenizer from a file, through the whole program: shards keep it, a run keeps it, text goes in and comes out.
#include <doctest/doctest.h>

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/unicode.h"
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

  const Ended converted = run(t, {"convert", t.dir("r"), "--to", "post", "--out", t.dir("theirs")});
  REQUIRE_MESSAGE(converted.code == 0, converted.err);
  CHECK(read_file(Path(t.dir("theirs")) / "vocab.txt") == read_file(Path(data) / "vocab.txt"));

  fs::rename(data, t.dir("moved"));
  const std::string checkpoint = t.dir("r") + "/checkpoints/step-000040";
  for (const std::string& from : {t.dir("r"), checkpoint}) {
    const Ended e = run(t, {"eval", from, "--device", "cpu", "--data", t.dir("moved"), "--json"});
    REQUIRE_MESSAGE(e.code == 0, e.err);
    CHECK(e.out.find(last) != std::string::npos);
    const Ended g = run(t, {"generate", from, "--prompt", "the slow ", "--tokens", "8", "--temperature", "0", "--json"});
    REQUIRE_MESSAGE(g.code == 0, g.err);
    CHECK(g.out.find("\"prompt\":\"the slow \"") != std::string::npos);
  }
  // Beside another program's checkpoint it is found without being named.
  const Ended back = run(t, {"convert", t.dir("theirs"), "--to", "taper", "--out", t.dir("back"), "--json"});
  REQUIRE_MESSAGE(back.code == 0, back.err);
  CHECK(back.err.empty());
  CHECK(back.out.find("\"tokenizer\":\"rwkv:") != std::string::npos);
  CHECK(read_file(Path(t.dir("back")) / "vocab.txt") == read_file(Path(t.dir("moved")) / "vocab.txt"));
  const Ended again =
      run(t, {"eval", t.dir("back"), "--device", "cpu", "--data", t.dir("moved"), "--length", "16", "--tokens", "500", "--batch", "2", "--json"});
  REQUIRE_MESSAGE(again.code == 0, again.err);
  CHECK(again.out.find(last) != std::string::npos);
  // One that cannot be used stops nothing: it says why, and --tokenizer is still to be had.
  fs::rename(t / "theirs" / "vocab.txt", t / "words.txt");
  write_file(t / "theirs" / "tokenizer.json", "{\"model\":{\"type\":\"Unigram\"}}");
  const Ended without = run(t, {"convert", t.dir("theirs"), "--to", "taper", "--out", t.dir("without")});
  REQUIRE_MESSAGE(without.code == 0, without.err);
  CHECK(without.err.find("taper: warning: the tokenizer beside the checkpoint is left out: " + t.dir("theirs") + "/tokenizer.json: ") == 0);
  CHECK(without.err.find("a byte-level tokenizer is wanted") != std::string::npos);
  CHECK(without.err.find("\ntaper: warning: no tokenizer is known for a vocabulary of ") != std::string::npos);
  fs::remove(t / "theirs" / "tokenizer.json");
  std::vector<std::string> many;
  for (int i = 0; i < 64; ++i) many.push_back(fmt::format("word {} ", i));
  write_file(t / "theirs" / "rwkv_vocab_v20230424.txt", vocabulary(many));
  const Ended larger = run(t, {"convert", t.dir("theirs"), "--to", "taper", "--out", t.dir("larger")});
  CHECK(larger.code == 0);
  CHECK(larger.err.find("tokens; the model's vocabulary has ") != std::string::npos);
  const Ended named = run(t, {"convert", t.dir("theirs"), "--to", "taper", "--out", t.dir("named"), "--tokenizer", t.dir("words.txt"), "--json"});
  CHECK(named.err.empty());
  CHECK(named.out.find("\"tokenizer\":\"rwkv:") != std::string::npos);

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

TEST_CASE("tokenize: text to ids and back, in order, with the line in errors and what came before it written") {
  const Scratch s;
  write_file(s / "words.txt", vocabulary({"state ", "the "}));
  const std::string file = (s / "words.txt").string();
  const auto tokenize = [&](const std::string& input, std::vector<std::string> more) {
    write_file(s / "in", input);
    std::vector<std::string> a{"tokenize", "--tokenizer", file};
    a.insert(a.end(), more.begin(), more.end());
    return run_with_input(s, a, s / "in");
  };
  const Ended ids = tokenize("{\"text\": \"the state \\u00e9\"}\n\n{\"id\": 7, \"text\": \"\"}\n  \n{\"text\": \"x\"}", {});
  REQUIRE_MESSAGE(ids.code == 0, ids.err);
  CHECK(ids.out == "{\"ids\":[258,257,196,170]}\n{\"ids\":[]}\n{\"ids\":[121]}\n");  // ids are bytes + 1
  CHECK(tokenize(ids.out, {"--decode"}).out == "{\"text\":\"the state \xc3\xa9\"}\n{\"text\":\"\"}\n{\"text\":\"x\"}\n");
  CHECK(tokenize("{\"ids\":[196]}", {"--decode"}).out == "{\"text\":\"\xef\xbf\xbd\"}\n");  // half of a character
  CHECK(tokenize("", {}).out.empty());

  // Many lines of every length: in order, whatever the number of threads.
  std::string many, lines;
  for (int i = 0; i < 3000; ++i) {
    std::string text = std::to_string(i) + " ";
    for (int k = 0; k < (i * 7919) % 2000; ++k) text += k % 3 ? "the " : "state ";
    many += "{\"text\":\"" + text + "\"}\n";
  }
  const Ended one = tokenize(many, {"--threads", "1"}), four = tokenize(many, {"--threads", "4"});
  REQUIRE(one.code == 0);
  CHECK(one.out == four.out);
  CHECK(tokenize(one.out, {"--decode"}).out == many);

  const auto refused = [&](const std::string& input, std::vector<std::string> more, int code, const std::string& message, const std::string& out = "") {
    const Ended e = tokenize(input, more);
    CHECK(e.code == code);
    CHECK(e.out == out);
    CHECK_MESSAGE(e.err.find("taper: " + message) != std::string::npos, e.err);
    CHECK(std::count(e.err.begin(), e.err.end(), '\n') == 1);
  };
  const std::string good = "{\"text\":\"x\"}\n", written = "{\"ids\":[121]}\n";
  refused(good + "\n" + "{\"text\": }\n" + good + "[]\n", {}, 65, "standard input:3: not JSON, at byte 10 of the line", written);
  refused(good + good + "{\"txt\": \"a\"}\n", {}, 65, "standard input:3: wants an object with a string 'text'", written + written);
  refused("{\"text\": 3}\n", {}, 65, "standard input:1: wants an object with a string 'text'");
  refused("{\"text\": \"\xff\"}\n", {}, 65, "standard input:1: not JSON, at byte 11 of the line");
  refused("{\"ids\": 3}\n", {"--decode"}, 65, "standard input:1: wants an object with an array 'ids'");
  refused("{\"ids\": [1, 259]}\n", {"--decode"}, 65, "standard input:1: ids of " + file + " are 0 to 258; got 259");
  refused("{\"ids\": [-1]}\n", {"--decode"}, 65, "standard input:1: ids of " + file + " are 0 to 258; got -1");
  refused("{\"ids\": [18446744073709551615]}\n", {"--decode"}, 65, "standard input:1: ids of " + file + " are 0 to 258; got 18446744073709551615");
  refused("{\"ids\": [1.5]}\n", {"--decode"}, 65, "standard input:1: ids of " + file + " are 0 to 258; got 1.5");
  refused("", {"--special"}, 78, "tokenize: --special wants a tokenizer with a template or a token that begins a text; " + file + " has neither");
  refuses(s, {"tokenize"}, 2, "--tokenizer is required");
  refuses(s, {"tokenize", "--tokenizer", file, "--decode", "--special"}, 2, "--special");
  refuses(s, {"tokenize", "--tokenizer", "gpt5"}, 78, "tokenizer: no 'gpt5'; supported: bytes, or the path of a tokenizer file");
  refuses(s, {"tokenize", "--tokenizer", (s / "no.json").string()}, 66, "no.json: no such tokenizer file");

  const Ended about = tokenize("", {"--about"});
  CHECK(about.out.starts_with("identity: rwkv:"));
  CHECK(about.out.find("\nvocab: 259\nspecial: 1\neod: 0\nunicode: Unicode ") != std::string::npos);
}

TEST_CASE("tokenize: special tokens in a text, around it, and as text") {
  const Scratch s;
  nlohmann::json vocab = nlohmann::json::object();
  for (int b = 0, others = 0; b < 256; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    std::string letter;
    append_utf8(letter, uint32_t(printable ? b : 0x100 + others++));
    vocab[letter] = b;
  }
  nlohmann::json json = {
      {"added_tokens", {{{"id", 256}, {"content", "<|endoftext|>"}, {"special", true}}, {{"id", 257}, {"content", "<|begin_of_text|>"}, {"special", true}}}},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
  write_file(s / "tokenizer.json", json.dump());
  write_file(s / "in", "{\"text\":\"a<|endoftext|>\"}\n");
  const auto out = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"tokenize", "--tokenizer", s.path().string()});
    const Ended e = run_with_input(s, more, s / "in");
    CHECK_MESSAGE(e.code == 0, e.err);
    return e.out;
  };
  CHECK(out({}) == "{\"ids\":[97,256]}\n");
  CHECK(out({"--special"}) == "{\"ids\":[257,97,256]}\n");
  CHECK(out({"--literal"}).starts_with("{\"ids\":[97,60,124,101,"));
  CHECK(out({"--about"}).find("eod: 256\neod_text: <|endoftext|>\nbos: 257\nbos_text: <|begin_of_text|>\n") != std::string::npos);
  CHECK(out({"--about", "--json"}).find("\"bos\":257") != std::string::npos);
}
