// tokenizer: bytes and RWKV's vocabulary there and back, and what a name or an identity opens.
#include "data/tokenizer.h"

#include "tensor/random.h"
#include "tests/data/json_tokenizer.h"

using namespace taper;
using test::expect_failure;
using test::Scratch;

namespace {

using Ids = std::vector<int32_t>;

Ids encoded(const Tokenizer& t, std::string_view text, const EncodeOptions& options = {}) {
  Ids ids;
  t.encode(text, ids, options);
  return ids;
}

// Every byte (id = byte + 1), then more tokens from id 257 on.
std::string world_text(const std::vector<std::string>& more) {
  std::string text;
  for (int c = 0; c < 256; ++c) {
    const std::string literal = c >= 0x80 ? fmt::format("b'\\x{:02x}'", c)
                                : c == '\'' ? "\"'\""
                                : c == '\\' ? "'\\\\'"
                                : c == '\n' ? "'\\n'"
                                : c < 0x20 ? fmt::format("'\\x{:02x}'", c)
                                           : fmt::format("'{}'", char(c));
    text += fmt::format("{} {} 1\n", c + 1, literal);
  }
  int id = 257;
  for (const std::string& line : more) text += fmt::format("{} {}\n", id++, line);
  return text;
}

std::unique_ptr<Tokenizer> world(const Scratch& s, const std::vector<std::string>& more) {
  write_file(s / "v.txt", world_text(more));
  return open_tokenizer((s / "v.txt").string());
}

}  // namespace

TEST_CASE("bytes: every byte there and back, and EOD beside them") {
  const auto tokenizer = open_tokenizer("bytes");
  CHECK(tokenizer->identity() == "bytes:v1");
  CHECK(tokenizer->vocab() == 257);
  CHECK(tokenizer->eod() == 256);
  CHECK(tokenizer->bos() == -1);
  CHECK(tokenizer->special(256));
  CHECK(!tokenizer->special(255));
  CHECK(tokenizer->file().name.empty());
  std::string all;
  for (int c = 0; c < 256; ++c) all += char(c);
  std::vector<int32_t> ids{tokenizer->eod()};
  tokenizer->encode(all, ids);
  REQUIRE(ids.size() == 257);
  for (int32_t c = 0; c < 256; ++c) CHECK(ids[size_t(c) + 1] == c);
  CHECK(tokenizer->decode(ids) == all);
  CHECK(tokenizer->cut(all) == 256);
  CHECK(open_tokenizer(tokenizer->identity())->identity() == tokenizer->identity());
  expect_failure([&] { tokenizer->decode({257}); }, Exit::internal, "ids must lie in [0,257); got 257");
  expect_failure([&] { tokenizer->decode({-1}); }, Exit::internal, "ids must lie in [0,257); got -1");
}

TEST_CASE("a name: what it opens, and what is said where it opens nothing") {
  const Scratch s;
  expect_failure([] { open_tokenizer("gpt5"); }, Exit::bad_config, "tokenizer: no 'gpt5'; supported: bytes, or the path of a tokenizer file");
  expect_failure([] { open_tokenizer("rwkv:0123"); }, Exit::bad_config,
                 "tokenizer: rwkv:0123 was made from a file, and where that lies is not known; give its path");
  expect_failure([&] { open_tokenizer((s / "no.json").string()); }, Exit::no_input, "no.json: no such tokenizer file");
  expect_failure([&] { open_tokenizer(s.path.string()); }, Exit::no_input, "a directory with tokenizer.json or vocab.txt is wanted; it has neither");
  write_file(s / "prose.txt", "It is a truth");
  expect_failure([&] { open_tokenizer((s / "prose.txt").string()); }, Exit::bad_data,
                 "prose.txt: a tokenizer.json or RWKV's vocabulary (lines of `id literal length`) is wanted; this is neither");
  write_file(s / "vocab.txt", world_text({}));
  CHECK(open_tokenizer(s.path.string())->vocab() == 257);
}

TEST_CASE("an identity: its file beside the shards, checked") {
  const Scratch s;
  const auto t = world(s, {"'ab' 2"}), other = world(s, {"'ac' 2"});
  CHECK(t->identity().starts_with("rwkv:"));
  CHECK(t->identity().size() == 5 + 32);
  CHECK(t->identity() != other->identity());
  CHECK(t->identity() == world(s, {"'ab' 2"})->identity());
  CHECK(has_tokenizer_of(s.path, "bytes:v1"));
  CHECK(open_tokenizer_of(s.path, "bytes:v1")->vocab() == 257);
  CHECK(!has_tokenizer_of(s.path, t->identity()));
  expect_failure([&] { open_tokenizer_of(s.path, t->identity()); }, Exit::no_input,
                 "vocab.txt: missing; it is the tokenizer of what lies in " + s.path.string() + " (" + t->identity() + "): copy it there");
  store_tokenizer(*t, s.path);
  CHECK(has_tokenizer_of(s.path, t->identity()));
  CHECK(open_tokenizer_of(s.path, t->identity())->identity() == t->identity());
  store_tokenizer(*other, s.path);
  expect_failure([&] { open_tokenizer_of(s.path, t->identity()); }, Exit::bad_data,
                 "vocab.txt: the tokenizer " + t->identity() + " is wanted, which made what lies in " + s.path.string() + "; this is " + other->identity());
  const Scratch none;
  store_tokenizer(*open_tokenizer("bytes"), none.path);
  CHECK(none.entries() == 0);
}

TEST_CASE("world: the longest token wins, byte by byte where there is none") {
  const Scratch s;
  //                          257       258       259          260           261            262            263                 264
  const auto t = world(s, {"'ab' 2", "'abc' 3", "'abcdef' 6", "'\\n\\n' 2", "'\\u00e9' 2", "'caf\\xe9' 5", "b'\\xe4\\xb8' 2", "\"'s\" 2"});
  CHECK(t->vocab() == 265);
  CHECK(t->eod() == 0);
  CHECK(t->bytes_of(0).empty());
  CHECK(t->special(0));
  CHECK(t->bytes_of(262) == "caf\xc3\xa9");
  CHECK(encoded(*t, "abcdefab") == Ids{259, 257});
  CHECK(encoded(*t, "abcdeab") == Ids{258, 'd' + 1, 'e' + 1, 257});  // abcdef does not fit: back to abc
  CHECK(encoded(*t, "abcde") == Ids{258, 'd' + 1, 'e' + 1});
  CHECK(encoded(*t, "a") == Ids{'a' + 1});
  CHECK(encoded(*t, "caf\xc3\xa9\n\n\n") == Ids{262, 260, '\n' + 1});
  CHECK(encoded(*t, "\xe4\xb8\xad\xff") == Ids{263, 0xad + 1, 0xff + 1});
  CHECK(encoded(*t, "it's") == Ids{'i' + 1, 't' + 1, 264});
  CHECK(encoded(*t, "").empty());
  const Ids ids = encoded(*t, "abcdefab caf\xc3\xa9 \xff");
  CHECK(t->decode(ids) == "abcdefab caf\xc3\xa9 \xff");
  CHECK(t->cut("abcdef abc") == 7);  // 'a' stands behind no space in any token
  CHECK(t->cut("abc") == 0);
  expect_failure([&] { t->bytes_of(265); }, Exit::internal, "v.txt: ids must lie in [0,265); got 265");
}

TEST_CASE("world: random vocabularies and texts against the plain rule, whole and in pieces") {
  const Scratch s;
  const Random random(7, "world");
  uint64_t draw = 0;
  const auto below = [&](uint64_t n) { return random.below(draw++, n); };
  for (int round = 0; round < 20; ++round) {
    std::vector<std::string> tokens, lines;
    for (int i = 0; i < 60; ++i) {
      std::string token;
      for (uint64_t n = 2 + below(6); token.size() < n;) token += "ab\xc3"[below(3)];
      if (std::find(tokens.begin(), tokens.end(), token) != tokens.end()) continue;
      std::string literal;
      for (const char c : token) literal += fmt::format("\\x{:02x}", uint8_t(c));
      tokens.push_back(token);
      lines.push_back(fmt::format("b'{}' {}", literal, token.size()));
    }
    const auto t = world(s, lines);
    std::string text;
    while (text.size() < 400000) text += below(50) ? std::string(1, "ab\xc3"[below(3)]) : std::string("..");
    Ids expected;
    for (size_t i = 0; i < text.size();) {
      int32_t best = uint8_t(text[i]) + 1;
      size_t length = 1;
      for (size_t k = 0; k < tokens.size(); ++k)
        if (tokens[k].size() > length && text.compare(i, tokens[k].size(), tokens[k]) == 0) best = int32_t(257 + k), length = tokens[k].size();
      expected.push_back(best);
      i += length;
    }
    CHECK(encoded(*t, text) == expected);
    CHECK(t->decode(expected) == text);
    CHECK(test::encoded_in_pieces(*t, text, 1 + below(30000)) == expected);
  }
}

TEST_CASE("world: a bad file is refused with its line") {
  const Scratch s;
  const auto refuses = [&](const std::string& text, const std::string& message) {
    write_file(s / "v.txt", text);
    expect_failure([&] { open_tokenizer((s / "v.txt").string()); }, Exit::bad_data, "v.txt" + message);
  };
  const auto line = [&](const std::string& last, const std::string& message) { refuses(world_text({}) + last + "\n", ":257: " + message); };
  line("257", "a line is wanted of `id literal length`");
  line("257 'ab'", "a line is wanted of `id literal length`");
  line("257 'ab' two", "a line is wanted of `id literal length`");
  line("257 'ab' 3", "token 257 has 2 bytes; the line says 3");
  line("257 '' 0", "token 257 has 0 bytes; the line says 0");
  line("0 'ab' 2", "ids lie in 1..2^24-1 (0 is the end of a document); got 0");
  line("257 ab 2", "a Python string or bytes is wanted between id and length; got no quoted literal");
  line("257 'ab\" 2", "a Python string or bytes is wanted between id and length; got no quoted literal");
  line("257 'a'b' 3", "a Python string or bytes is wanted between id and length; a quote inside it is not escaped");
  line("257 'a\\' 2", "a Python string or bytes is wanted between id and length; it ends in a lone backslash");
  line("257 'a\\xg0' 2", "a Python string or bytes is wanted between id and length; unknown escape '\\xg0'");
  line("257 b'a\\u00e9' 3", "a Python string or bytes is wanted between id and length; unknown escape '\\u'");
  line("257 b'\xc3\xa9' 2", "a Python string or bytes is wanted between id and length; bytes beyond 0x7f must be escaped");
  line("257 '\\ud800' 3", "a Python string or bytes is wanted between id and length; an escape in it is no character");
  refuses(world_text({}) + "257 'ab' 2\n257 'ac' 2\n", ": id 257 stands there twice");
  refuses(world_text({}) + "258 'ab' 2\n", ": 257 tokens have the ids 1 to 257; one has 258, so that some id has none");
  refuses(world_text({}) + "257 'ab' 2\n258 b'ab' 2\n", ": ids 257 and 258 are the same token");
  std::string text = world_text({});
  text.replace(text.find("66 'A' 1"), 8, "66 'AA' 2");
  refuses(text, ": every byte must be a token; 0x41 is none");
}
