// UTF-8: how far an ill-formed sequence goes.
#include "data/utf8.h"

namespace taper {
namespace {

// What may follow a first byte: how many bytes, and the range of the first of them. length 0: no such first byte.
struct Lead {
  size_t length;
  uint8_t low, high;
};
Lead lead(uint8_t c) {
  if (c < 0xc2 || c > 0xf4) return {0, 0, 0};
  if (c < 0xe0) return {2, 0x80, 0xbf};
  if (c < 0xf0) return {3, uint8_t(c == 0xe0 ? 0xa0 : 0x80), uint8_t(c == 0xed ? 0x9f : 0xbf)};
  return {4, uint8_t(c == 0xf0 ? 0x90 : 0x80), uint8_t(c == 0xf4 ? 0x8f : 0xbf)};
}


}  // namespace

size_t invalid_utf8(std::string_view text) {
  const auto byte = [&](size_t i) { return uint8_t(text[i]); };
  const Lead l = lead(byte(0));
  if (l.length == 0) return 1;
  size_t n = 1;
  while (n < l.length && n < text.size() && byte(n) >= (n == 1 ? l.low : 0x80) && byte(n) <= (n == 1 ? l.high : 0xbf)) ++n;
  return n == text.size() ? 0 : n;
}

int64_t replace_invalid_utf8(std::string_view text, std::string& to) {
  int64_t replaced = 0;
  while (true) {
    const size_t n = valid_utf8(text);
    to.append(text.substr(0, n));
    text.remove_prefix(n);
    if (text.empty()) return replaced;
    const size_t bad = invalid_utf8(text);
    text.remove_prefix(bad == 0 ? text.size() : bad);
    to += "\xef\xbf\xbd";
    ++replaced;
  }
}

}  // namespace taper
