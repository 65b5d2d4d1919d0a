// Unicode: the classes by asking PCRE2 for runs in a text of all code points, NFC where a text may need it.
#include "data/unicode.h"

#include <utf8proc.h>

#include <bit>
#include <cstring>
#include <memory>
#include <vector>

#include "data/regex.h"
#include "tensor/error.h"

namespace taper {
namespace {

std::vector<CharClass> read_classes() {
  std::string all;
  all.reserve(4 * size_t(code_points));
  for (uint32_t c = 0; c < code_points; ++c)
    if (c < 0xd800 || c >= 0xe000) append_utf8(all, c);
  std::vector<CharClass> classes(code_points, CharClass::other);
  for (const auto& [pattern, kind] : {std::pair{"\\p{L}+", CharClass::letter}, {"\\p{N}+", CharClass::number}, {"\\s+", CharClass::space}}) {
    const Regex regex(pattern, "unicode");
    size_t begin = 0, end = 0;
    for (RegexMatcher matcher(regex, all); matcher.next(end, begin, end);)
      for (const char *p = all.data() + begin, *stop = all.data() + end; p < stop;) classes[read_utf8(p)] = kind;
  }
  return classes;
}

// Code points before which a text may be cut for normalising, and that NFC leaves alone themselves.
class Steady {
 public:
  Steady() : bits_(code_points, true) {
    for (uint32_t c = 0x300; c < code_points; ++c) {
      const utf8proc_property_t& p = *utf8proc_get_property(int32_t(c));
      if (p.combining_class != 0) bits_[c] = false;
      // What stands behind another in some decomposition may be composed with it.
      if (p.decomp_type == 0 && p.decomp_seqindex != UINT16_MAX) see_decomposition(c);
    }
    for (uint32_t c = 0xc0; c < 0x300; ++c) see_decomposition(c);
    for (uint32_t c = 0x1161; c < 0x1200; ++c) bits_[c] = false;  // Hangul's vowels and finals
    // It is none of them, the finals are counted from it: utf8proc would compose it into the syllable before it, and it was lost.
    bits_[0x11a7] = true;
    for (uint32_t c = 0; c < 0x300; ++c) check(bits_[c], "unicode: no letter below U+0300 may combine; U+{:04X} does", c);
  }
  bool operator()(uint32_t c) const { return bits_[c]; }

 private:
  void see_decomposition(uint32_t c) {
    int32_t parts[32];
    int last = 0;
    const auto n = utf8proc_decompose_char(int32_t(c), parts, 32, utf8proc_option_t(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE), &last);
    for (utf8proc_ssize_t i = 1; i < n && i < 32; ++i) bits_[size_t(parts[i])] = false;
    // It composes back to itself, or it is not steady either.
    std::string s;
    append_utf8(s, c);
    uint8_t* out = nullptr;
    const auto bytes = utf8proc_map(reinterpret_cast<const uint8_t*>(s.data()), utf8proc_ssize_t(s.size()), &out,
                                    utf8proc_option_t(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    const std::unique_ptr<uint8_t, void (*)(void*)> owner(out, std::free);
    if (bytes != utf8proc_ssize_t(s.size()) || std::memcmp(out, s.data(), s.size()) != 0) bits_[c] = false;
  }
  std::vector<bool> bits_;
};

void append_normalised(std::string_view text, std::string& append_to) {
  uint8_t* out = nullptr;
  const auto bytes = utf8proc_map(reinterpret_cast<const uint8_t*>(text.data()), utf8proc_ssize_t(text.size()), &out,
                                  utf8proc_option_t(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<uint8_t, void (*)(void*)> owner(out, std::free);
  check(bytes >= 0, "unicode: NFC of {} bytes failed: {}", text.size(), utf8proc_errmsg(bytes));
  append_to.append(reinterpret_cast<const char*>(out), size_t(bytes));
}

}  // namespace

const CharClass* char_classes() {
  static const std::vector<CharClass> classes = read_classes();
  return classes.data();
}

std::string unicode_versions() {
  return fmt::format("Unicode {} (PCRE2 {}), {} (utf8proc {})", regex_unicode(), regex_version(), utf8proc_unicode_version(), utf8proc_version());
}

void append_utf8(std::string& text, uint32_t c) {
  if (c < 0x80) {
    text += char(c);
  } else if (c < 0x800) {
    text += {char(0xc0 | c >> 6), char(0x80 | (c & 63))};
  } else if (c < 0x10000) {
    text += {char(0xe0 | c >> 12), char(0x80 | (c >> 6 & 63)), char(0x80 | (c & 63))};
  } else {
    text += {char(0xf0 | c >> 18), char(0x80 | (c >> 12 & 63)), char(0x80 | (c >> 6 & 63)), char(0x80 | (c & 63))};
  }
}

size_t valid_utf8(std::string_view s) {
  const auto byte = [&](size_t i) { return uint8_t(s[i]); };
  const auto continues = [&](size_t i, uint8_t low = 0x80, uint8_t high = 0xbf) { return i < s.size() && byte(i) >= low && byte(i) <= high; };
  size_t i = 0;
  while (i < s.size()) {
    if (i + 8 <= s.size()) {
      uint64_t eight;
      std::memcpy(&eight, s.data() + i, 8);
      if ((eight & 0x8080808080808080u) == 0) {
        i += 8;
        continue;
      }
    }
    const uint8_t a = byte(i);
    if (a < 0x80) {
      ++i;
    } else if (a >= 0xc2 && a < 0xe0) {
      if (!continues(i + 1)) break;
      i += 2;
    } else if (a >= 0xe0 && a < 0xf0) {
      if (!continues(i + 1, a == 0xe0 ? 0xa0 : 0x80, a == 0xed ? 0x9f : 0xbf) || !continues(i + 2)) break;
      i += 3;
    } else if (a >= 0xf0 && a < 0xf5) {
      if (!continues(i + 1, a == 0xf0 ? 0x90 : 0x80, a == 0xf4 ? 0x8f : 0xbf) || !continues(i + 2) || !continues(i + 3)) break;
      i += 4;
    } else {
      break;
    }
  }
  return i;
}

// Only the stretches that may change are normalised: each from the last steady code point before one that is
// not steady to the next that is. No code point below U+0300 (its bytes are below 0xcc) is unsteady.
bool append_nfc(std::string_view text, std::string& append_to) {
  const char *begin = text.data(), *end = begin + text.size(), *p = begin;
  const auto skip = [&] {
    while (p < end && uint8_t(*p) < 0xcc) ++p;
  };
  skip();
  if (p == end) return false;
  static const Steady steady;
  const char* done = begin;  // what lies before it is appended
  const size_t before = append_to.size();
  bool changed = false;
  while (p < end) {
    const char* here = p;
    if (steady(read_utf8(p))) {
      skip();
      continue;
    }
    const char* from = here;
    if (from > done) {
      do --from;
      while (utf8_continues(*from));
    }
    const char* to = p;
    while (to < end) {
      const char* next = to;
      if (steady(read_utf8(next))) break;
      to = next;
    }
    append_to.append(done, from);
    const size_t at = append_to.size();
    append_normalised({from, size_t(to - from)}, append_to);
    changed = changed || std::string_view(append_to).substr(at) != std::string_view(from, size_t(to - from));
    done = p = to;
    skip();
  }
  if (!changed) {
    append_to.resize(before);
    return false;
  }
  append_to.append(done, end);
  return true;
}

}  // namespace taper
