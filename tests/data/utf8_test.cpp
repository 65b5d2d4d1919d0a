// utf8: what is valid, where a text stops being it, and what replaces it.
#include "data/utf8.h"

#include <doctest/doctest.h>

#include <optional>

#include "tensor/random.h"

using namespace taper;

namespace {

// By decoding: the length of the character at the text's begin; nothing where there is none.
std::optional<size_t> character(std::string_view s) {
  const auto c = [&](size_t i) { return uint32_t(uint8_t(s[i])); };
  const uint32_t first = c(0);
  const size_t n = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 0;
  if (n == 0 || s.size() < n) return {};
  uint32_t value = n == 1 ? first : first & (0xff >> (n + 1));
  for (size_t i = 1; i < n; ++i) {
    if (c(i) >> 6 != 2) return {};
    value = value << 6 | (c(i) & 63);
  }
  constexpr uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  if (value < least[n] || value > 0x10ffff || (0xd800 <= value && value < 0xe000)) return {};
  return n;
}

size_t valid_by_decoding(std::string_view s) {
  size_t at = 0;
  while (at < s.size()) {
    const auto n = character(s.substr(at));
    if (!n) break;
    at += *n;
  }
  return at;
}

std::string replaced(std::string_view s) {
  std::string to;
  replace_invalid_utf8(s, to);
  return to;
}

}  // namespace

TEST_CASE("every sequence of up to three bytes, and many of four, is judged as by decoding it") {
  std::string s;
  int64_t wrong = 0;
  for (uint32_t v = 0; v < 1u << 24; v += v < 1u << 16 ? 1 : 7) {
    s = {char(v), char(v >> 8), char(v >> 16)};
    wrong += valid_utf8(s) != valid_by_decoding(s);
  }
  const Random random(1, "bytes");
  for (uint64_t i = 0; i < 300'000; ++i) {
    const uint64_t r = random.below(i, 1u << 30);
    s = {char(0xf0 + (r & 7)), char(0x70 + (r >> 3 & 127)), char(0x70 + (r >> 10 & 127)), char(0x70 + (r >> 17 & 127)), char(r >> 24)};
    wrong += valid_utf8(s) != valid_by_decoding(s);
  }
  CHECK(wrong == 0);
}

TEST_CASE("in long texts the place is found at any distance from ASCII") {
  for (size_t before = 0; before < 40; ++before)
    for (const char* bad : {"\xff", "\xc3", "\xe2\x82", "\x80"}) {
      const std::string text = std::string(before, 'a') + "\xc3\xa9" + std::string(before, 'b') + bad + std::string(20, 'c');
      CHECK(valid_utf8(text) == 2 * before + 2);
      CHECK(valid_utf8(text) == valid_by_decoding(text));
    }
}

TEST_CASE("one U+FFFD stands for each maximal subpart: the standard's examples") {
  const std::string r = "\xef\xbf\xbd";
  CHECK(replaced("a\xf1\x80\x80\xe1\x80\xc2" "b\x80" "c\x80\xbf" "d") == "a" + r + r + r + "b" + r + "c" + r + r + "d");
  CHECK(replaced("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41") == r + r + r + r + r + r + r + r + "A");
  CHECK(replaced("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41") == r + r + r + r + r + r + r + r + "A");
  CHECK(replaced("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42") == r + r + r + r + r + "A" + r + r + "B");
  CHECK(replaced("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41") == r + r + r + r + "A");
  CHECK(replaced("whole \xe2\x82\xac") == "whole \xe2\x82\xac");
  std::string to = "kept ";
  CHECK(replace_invalid_utf8("\xff\xff", to) == 2);
  CHECK(to == "kept " + r + r);
}

TEST_CASE("a sequence cut short is told from one that is wrong") {
  CHECK(invalid_utf8("\xe2\x82") == 0);
  CHECK(invalid_utf8("\xf0") == 0);
  CHECK(invalid_utf8("\xe2\x82x") == 2);
  CHECK(invalid_utf8("\xe2x") == 1);
  CHECK(invalid_utf8("\xff") == 1);
  CHECK(invalid_utf8("\xed\xa0") == 1);  // would be a surrogate
}
