// pre-tokenizer: the patterns run by hand cut where PCRE2 cuts; unicode: classes, UTF-8 and NFC by value; what
// patterns may say.
#include "data/pretokenizer.h"

#include <algorithm>

#include "tensor/random.h"
#include "tests/support/scratch.h"

using namespace taper;
using test::expect_failure;

namespace {

std::vector<std::string> pieces(const SplitStep& step, std::string_view text) {
  std::vector<std::string> all;
  step.split(text, [&](std::string_view p) { all.emplace_back(p); });
  return all;
}

std::string utf8(std::initializer_list<uint32_t> points) {
  std::string s;
  for (const uint32_t c : points) append_utf8(s, c);
  return s;
}

std::string nfc(std::string_view text) {
  std::string s;
  return append_nfc(text, s) ? s : std::string(text);
}

}  // namespace

TEST_CASE("by hand as by PCRE2: random texts of what the patterns tell apart, and of any code points") {
  const Random random(11, "pieces");
  uint64_t draw = 0;
  const auto below = [&](uint64_t n) { return random.below(draw++, n); };
  // Every alternative of the patterns, in ASCII and beyond it; U+017F is an s to (?i:'s), U+180E no white space.
  const std::vector<std::string> atoms{"'",    "s",    "S",    "t",    "re",  "VE", "m",  "ll", "lL", "d", "x",  " ", "  ", "\n", "\r", "\t", "1",  "23", "-",
                                       "\xc5\xbf", utf8({0x180e}), utf8({0xa0}), utf8({0x2003}), utf8({0x85}), utf8({0x4e2d}), utf8({0x661}), utf8({0xb2}),
                                       utf8({0x301}), utf8({0x1f600}), utf8({0x2028}), utf8({0x10ffff}), utf8({0xe9}), "_", "\v"};
  for (const std::string_view pattern : {gpt2_pattern, llama3_pattern, qwen2_pattern}) {
    const SplitStep by_hand = SplitStep::pattern(pattern, "here", SplitBehavior::isolated, false);
    const SplitStep by_pcre = SplitStep::pattern(pattern, "here", SplitBehavior::isolated, false, false);
    REQUIRE(by_hand.by_hand());
    REQUIRE(!by_pcre.by_hand());
    int same = 0;
    for (int i = 0; i < 20000; ++i) {
      std::string text;
      for (uint64_t n = below(12); n > 0; --n) text += atoms[below(atoms.size())];
      const bool equal = pieces(by_hand, text) == pieces(by_pcre, text);
      if (!equal) MESSAGE("differs: ", text);
      same += equal;
    }
    CHECK(same == 20000);
    std::string text;
    for (int i = 0; i < 100000; ++i) {
      const uint32_t c = uint32_t(below(code_points - 0x800));
      append_utf8(text, below(4) ? c < 0xd800 ? c : c + 0x800 : uint32_t(below(0x3000)));
    }
    CHECK(pieces(by_hand, text) == pieces(by_pcre, text));
  }
}

TEST_CASE("pieces by value") {
  using Pieces = std::vector<std::string>;
  const auto gpt2 = [](std::string_view text) { return pieces(SplitStep::pattern(gpt2_pattern, "", SplitBehavior::isolated, false), text); };
  const auto llama3 = [](std::string_view text) { return pieces(SplitStep::pattern(llama3_pattern, "", SplitBehavior::isolated, false), text); };
  const auto qwen2 = [](std::string_view text) { return pieces(SplitStep::pattern(qwen2_pattern, "", SplitBehavior::isolated, false), text); };
  CHECK(gpt2("It's 1234, don't!  \n\n x\t") == Pieces{"It", "'s", " 1234", ",", " don", "'t", "!", "  \n\n", " x", "\t"});
  CHECK(gpt2("IT'S") == Pieces{"IT", "'", "S"});
  CHECK(llama3("It's 1234, don't!  \n\n x\t") == Pieces{"It", "'s", " ", "123", "4", ",", " don", "'t", "!", "  \n\n", " x", "\t"});
  CHECK(llama3("IT'S\tx.\n\n(y") == Pieces{"IT", "'S", "\tx", ".\n\n", "(y"});
  CHECK(qwen2("x12 34") == Pieces{"x", "1", "2", " ", "3", "4"});
  CHECK(gpt2("").empty());
}

TEST_CASE("a long run of anything is one look at each byte") {
  // Twenty megabytes: a splitter that went back for each piece would take hours.
  for (const std::string_view pattern : {gpt2_pattern, llama3_pattern}) {
    const SplitStep step = SplitStep::pattern(pattern, "", SplitBehavior::isolated, false);
    for (const char c : {' ', 'x', '-', '\n'})
      CHECK(pieces(step, std::string(20'000'000, c) + "y").size() == (c == 'x' ? 1 : c == '\n' && pattern == gpt2_pattern ? 3 : 2));
  }
}

TEST_CASE("classes: PCRE2's tables, White_Space without U+180E") {
  const CharClass* classes = char_classes();
  int spaces = 0;
  for (uint32_t c = 0; c < code_points; ++c) spaces += classes[c] == CharClass::space;
  CHECK(spaces == 25);
  for (const uint32_t c : {0x9u, 0xdu, 0x20u, 0x85u, 0xa0u, 0x1680u, 0x2000u, 0x200au, 0x2028u, 0x3000u}) CHECK(classes[c] == CharClass::space);
  for (const uint32_t c : {0x180eu, 0x200bu, 0xfeffu, 0x301u, 0x1f600u, 0x5fu, 0xd800u, 0x378u}) CHECK(classes[c] == CharClass::other);
  for (const uint32_t c : {0x41u, 0xaau, 0x3b1u, 0x4e2du, 0xac00u, 0x1d400u}) CHECK(classes[c] == CharClass::letter);
  for (const uint32_t c : {0x30u, 0xb2u, 0x661u, 0x2167u, 0x3007u, 0x1d7ceu}) CHECK(classes[c] == CharClass::number);
  CHECK(unicode_versions().starts_with("Unicode "));
  CHECK(unicode_versions().find("(PCRE2 10.") != std::string::npos);
}

TEST_CASE("UTF-8: every code point there and back; what is not allowed ends the valid part") {
  std::string all;
  for (uint32_t c = 0; c < code_points; ++c)
    if (c < 0xd800 || c >= 0xe000) append_utf8(all, c);
  CHECK(valid_utf8(all) == all.size());
  const char* p = all.data();
  bool same = true;
  for (uint32_t c = 0; c < code_points; ++c)
    if (c < 0xd800 || c >= 0xe000) same = same && read_utf8(p) == c;
  CHECK(same);
  CHECK(p == all.data() + all.size());
  for (const std::string bad : {"\x80", "\xc0\x80", "\xc1\xbf", "\xc3", "\xe0\x9f\xbf", "\xe4\xb8", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
                                "\xf5\x80\x80\x80", "\xf0\x9f\x98", "\xff", "\xe4\xb8x", "\xf0\x9f\x98x"})
    for (const std::string before : {"", "seven b", "eight by", "\xe4\xb8\xad"}) CHECK(valid_utf8(before + bad + "after all") == before.size());
}

TEST_CASE("NFC by value, and nothing done where nothing is to be done") {
  std::string s = "kept";
  CHECK(!append_nfc("plain", s));
  CHECK(!append_nfc("\xc3\xa9", s));
  CHECK(!append_nfc(utf8({0x43f, 0x440, 0x4e2d, 0xac00, 0x1f600}), s));
  CHECK(!append_nfc("", s));
  CHECK(s == "kept");
  CHECK(nfc("e\xcc\x81") == "\xc3\xa9");
  CHECK(nfc("xe\xcc\x81y e\xcc\x81") == "x\xc3\xa9y \xc3\xa9");
  CHECK(nfc("\xcc\x81" "e") == "\xcc\x81" "e");                                       // nothing before it to compose with
  CHECK(nfc(utf8({0x212b})) == utf8({0xc5}));                                          // a singleton
  CHECK(nfc(utf8({0x1100, 0x1161, 0x11a8})) == utf8({0xac01}));                        // Hangul
  CHECK(nfc(utf8({0xac00, 0x11a8})) == utf8({0xac01}));
  CHECK(nfc(utf8({0xac00, 0x11a7})) == utf8({0xac00, 0x11a7}));                        // no final, but the place before the first
  CHECK(nfc(utf8({0x1100, 0x1161, 0x11a7, 0x11a8, 0x301})) == utf8({0xac00, 0x11a7, 0x11a8, 0x301}));
  CHECK(nfc(utf8({0xac00, 0x11c3})) == utf8({0xac00, 0x11c3}));                        // nor is what follows the last
  CHECK(nfc(utf8({0xac01, 0x11a8})) == utf8({0xac01, 0x11a8}));                        // one final is enough
  CHECK(nfc(utf8({0x61, 0x323, 0x307})) == utf8({0x1ea1, 0x307}));                     // marks in order
  CHECK(nfc(utf8({0x61, 0x307, 0x323})) == utf8({0x1ea1, 0x307}));                     // and out of it
  CHECK(nfc(utf8({0x958})) == utf8({0x915, 0x93c}));                                   // excluded from composition
  CHECK(nfc(utf8({0x9c7, 0x9be})) == utf8({0x9cb}));                                   // the second is a starter
  CHECK(nfc(utf8({0x1109a})) == utf8({0x1109a}));
  CHECK(nfc(utf8({0x11099, 0x110ba})) == utf8({0x1109a}));                             // beyond the BMP
  CHECK(nfc(utf8({0x2f800})) == utf8({0x4e3d}));
  // Stretches, with what is steady between them, are the text as a whole: idempotent, and the same in halves at a letter.
  const Random random(2, "nfc");
  std::string text;
  for (uint64_t i = 0; i < 20000; ++i) {
    const uint32_t kinds[] = {0x61 + uint32_t(random.below(3 * i, 26)), 0x300 + uint32_t(random.below(3 * i, 0x70)),
                              0x1100 + uint32_t(random.below(3 * i, 0x100)), 0x900 + uint32_t(random.below(3 * i, 0x400)),
                              0x1e00 + uint32_t(random.below(3 * i, 0x200))};
    append_utf8(text, kinds[random.below(3 * i + 1, 5)]);
  }
  const std::string whole = nfc(text);
  CHECK(whole != text);
  CHECK(nfc(whole) == whole);
  const size_t half = text.find('k', text.size() / 2);
  CHECK(nfc(text.substr(0, half)) + nfc(text.substr(half)) == whole);
}

TEST_CASE("patterns: what Oniguruma and PCRE2 read differently is refused or translated") {
  const auto matches = [](std::string_view pattern, std::string_view text) {
    return pieces(SplitStep::pattern(pattern, "here", SplitBehavior::removed, true, false), text);
  };
  using Pieces = std::vector<std::string>;
  CHECK(matches(R"(\s+)", utf8({0x61, 0x180e, 0xa0, 0x2003, 0x62})) == Pieces{utf8({0xa0, 0x2003})});
  CHECK(matches(R"(\S+)", " ab \x0b") == Pieces{"ab"});
  CHECK(matches(R"([\sx]+)", "a x b") == Pieces{" x "});
  CHECK(matches(R"(\v)", "a\n\x0b") == Pieces{"\x0b"});
  CHECK(matches(R"([\u4e00-\u9fa5]+)", "a" + utf8({0x4e2d, 0x6587}) + "b") == Pieces{utf8({0x4e2d, 0x6587})});
  CHECK(matches(R"(\x41|\x{42}|\d)", utf8({0x41, 0x42, 0x43, 0x661})) == Pieces{"A", "B", utf8({0x661})});
  CHECK(matches(R"((?i:x)++|(?<=a)b(?!c)|\[|(?>qq))", "bXxabcab[qq") == Pieces{"Xx", "b", "[", "qq"});
  const auto refuses = [&](std::string_view pattern, const std::string& message) {
    expect_failure([&] { Regex(pattern, "f.pattern"); }, Exit::bad_data, "f.pattern: " + message);
  };
  const auto refuses_to = [&](std::string_view pattern, const std::string& what, size_t byte) {
    refuses(pattern, fmt::format("the pattern has {}, which is not supported; byte {} of {}", what, byte, pattern));
  };
  refuses_to(R"(a\w)", "\\w", 2);
  refuses_to(R"(\bx)", "\\b", 1);
  refuses_to(R"(\h)", "\\h", 1);
  refuses_to(R"((a)\1)", "\\1", 4);
  refuses_to("a\\", "\\", 2);
  refuses_to(R"([\S])", "\\S in a class", 2);
  refuses_to(R"([a[b]])", "a class inside a class", 3);
  refuses_to(R"([a&&b])", "'&&' in a class", 3);
  refuses_to(R"([]a])", "']' at the beginning of a class", 2);
  refuses_to("[a", "a class that does not end", 3);
  refuses_to("^a", "'^'", 1);
  refuses_to("a$", "'$'", 2);
  refuses_to("a{2}+", "'}+'", 4);
  refuses_to("a{,2}", "'{' without a number", 2);
  refuses_to("(?m:a)", "'(?m:'", 1);
  refuses_to("(*UCP)a", "'(*'", 1);
  refuses_to(R"(\u12)", "\\u without four hex digits", 1);
  refuses_to(R"(\pL)", "\\p without {}", 1);
  refuses_to(R"(\x4)", "\\x without two hex digits or {}", 1);
  refuses(R"(\p{Nonsense})", "a pattern is wanted; unknown property");
  refuses("a*", "the pattern may match nothing, which is not supported: a*");
  refuses("a|", "the pattern may match nothing, which is not supported: a|");
}
