// JSON line: a scanner that keeps one string.
#include "data/json_line.h"

#include <algorithm>
#include <cstdint>

namespace taper {
namespace {

constexpr int deepest = 512;

class Scanner {
 public:
  explicit Scanner(std::string_view line) : begin_(line.data()), p_(begin_), end_(begin_ + line.size()) {}

  // Each returns false at what is no JSON; at() is then its place.
  bool document(std::string_view field, std::string& value, JsonField& found) {
    space();
    if (p_ < end_ && *p_ == '{') {
      if (!object(0, &field, &value, &found)) return false;
    } else if (!skip(0)) {
      return false;
    }
    space();
    return p_ == end_;
  }
  size_t at() const { return size_t(p_ - begin_) + 1; }

 private:
  void space() {
    while (p_ < end_ && (*p_ == ' ' || *p_ == '\t' || *p_ == '\r' || *p_ == '\n')) ++p_;
  }
  bool take(char c) {
    if (p_ == end_ || *p_ != c) return false;
    ++p_;
    return true;
  }

  bool skip(int depth) {
    if (p_ == end_ || depth > deepest) return false;
    switch (*p_) {
      case '{': return object(depth, nullptr, nullptr, nullptr);
      case '[': return array(depth);
      case '"': return string(nullptr, nullptr);
      case 't': return word("true");
      case 'f': return word("false");
      case 'n': return word("null");
      default: return number();
    }
  }

  bool word(std::string_view w) {
    return std::ranges::all_of(w, [&](char c) { return take(c); });
  }

  bool digits() {
    const char* first = p_;
    while (p_ < end_ && '0' <= *p_ && *p_ <= '9') ++p_;
    return p_ > first;
  }
  bool number() {
    take('-');
    if (!take('0') && !digits()) return false;
    if (take('.') && !digits()) return false;
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      return digits();
    }
    return true;
  }

  bool array(int depth) {
    ++p_;
    space();
    if (take(']')) return true;
    do {
      space();
      if (!skip(depth + 1)) return false;
      space();
    } while (take(','));
    return take(']');
  }

  // Where `field` is given, keeps the string of that key.
  bool object(int depth, const std::string_view* field, std::string* value, JsonField* found) {
    ++p_;
    space();
    if (take('}')) return true;
    std::string key;
    do {
      space();
      key.clear();
      if (p_ == end_ || *p_ != '"' || !string(field ? &key : nullptr, nullptr)) return false;
      space();
      if (!take(':')) return false;
      space();
      if (field && key == *field) {
        *found = {};
        value->clear();
        if (p_ < end_ && *p_ == '"') {
          if (!string(value, &found->lone_surrogate)) return false;
          found->kind = JsonField::Kind::text;
        } else if (!skip(depth + 1)) {
          return false;
        }
      } else if (!skip(depth + 1)) {
        return false;
      }
      space();
    } while (take(','));
    return take('}');
  }

  bool string(std::string* to, size_t* lone) {
    ++p_;
    while (true) {
      const char* from = p_;
      while (p_ < end_ && *p_ != '"' && *p_ != '\\' && uint8_t(*p_) >= 0x20) ++p_;
      if (to) to->append(from, p_);
      if (p_ == end_ || uint8_t(*p_) < 0x20) return false;
      if (*p_++ == '"') return true;
      if (!escape(to, lone)) return false;
    }
  }

  bool escape(std::string* to, size_t* lone) {
    if (p_ == end_) return false;
    constexpr std::string_view names = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
    if (const size_t i = names.find(*p_); i != names.npos) {
      ++p_;
      if (to) *to += meanings[i];
      return true;
    }
    const size_t place = at() - 1;  // of the backslash
    uint32_t c, low;
    if (!take('u') || !hex(c)) return false;
    if (0xd800 <= c && c < 0xdc00 && end_ - p_ >= 6 && p_[0] == '\\' && p_[1] == 'u') {
      const char* back = p_;
      p_ += 2;
      if (!hex(low)) return false;
      if (0xdc00 <= low && low < 0xe000) c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
      else p_ = back;
    }
    if (0xd800 <= c && c < 0xe000) {
      if (lone && *lone == 0) *lone = place;
      c = 0xfffd;
    }
    if (to) append(*to, c);
    return true;
  }

  bool hex(uint32_t& value) {
    value = 0;
    for (int i = 0; i < 4; ++i, ++p_) {
      if (p_ == end_) return false;
      const char c = *p_;
      const bool digit = '0' <= c && c <= '9', lower = 'a' <= c && c <= 'f', upper = 'A' <= c && c <= 'F';
      if (!digit && !lower && !upper) return false;
      value = value * 16 + uint32_t(digit ? c - '0' : lower ? c - 'a' + 10 : c - 'A' + 10);
    }
    return true;
  }

  static void append(std::string& to, uint32_t c) {
    if (c < 0x80) to += char(c);
    else if (c < 0x800) to += {char(0xc0 | c >> 6), char(0x80 | (c & 0x3f))};
    else if (c < 0x10000) to += {char(0xe0 | c >> 12), char(0x80 | (c >> 6 & 0x3f)), char(0x80 | (c & 0x3f))};
    else to += {char(0xf0 | c >> 18), char(0x80 | (c >> 12 & 0x3f)), char(0x80 | (c >> 6 & 0x3f)), char(0x80 | (c & 0x3f))};
  }

  const char *begin_, *p_, *end_;
};

}  // namespace

JsonField json_field(std::string_view line, std::string_view field, std::string& value) {
  JsonField found;
  Scanner scanner(line);
  if (!scanner.document(field, value, found)) return {JsonField::Kind::not_json, scanner.at(), 0};
  return found;
}

}  // namespace taper
