// Unicode: UTF-8 read and judged, the classes of code points that tokenizers tell apart, and NFC.
//
// The classes are those of the PCRE2 that the program is linked with, so that what is written by hand
// agrees with a pattern; the compositions are utf8proc's. unicode_versions() says which they are.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace taper {

enum class CharClass : uint8_t { other, letter, number, space };  // \p{L}, \p{N}, White_Space, the rest

constexpr uint32_t code_points = 0x110000;
const CharClass* char_classes();  // of each code point; made once, a few milliseconds

std::string unicode_versions();  // "Unicode 14.0.0 (PCRE2 10.42), 15.0.0 (utf8proc 2.8.0)"

// The length of the longest front that is UTF-8: no overlong form, no surrogate, none cut short.
size_t valid_utf8(std::string_view text);

void append_utf8(std::string& text, uint32_t code_point);

inline bool utf8_continues(char c) { return (uint8_t(c) & 0xc0) == 0x80; }

// The code point at p, in valid UTF-8; p moves behind it.
inline uint32_t read_utf8(const char*& p) {
  const uint32_t a = uint8_t(*p++);
  if (a < 0x80) return a;
  const auto more = [&] { return uint32_t(uint8_t(*p++) & 0x3f); };
  if (a < 0xe0) return (a & 0x1f) << 6 | more();
  const uint32_t b = more();
  if (a < 0xf0) return (a & 0x0f) << 12 | b << 6 | more();
  const uint32_t c = more();
  return (a & 0x07) << 18 | b << 12 | c << 6 | more();
}

// Appends the NFC of a valid text, unless the text is in NFC already: then false, and nothing is appended.
bool append_nfc(std::string_view text, std::string& append_to);

}  // namespace taper
