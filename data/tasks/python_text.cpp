// Python text: simple mappings are utf8proc's; what maps to several code points stands here.
#include "data/tasks/python_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <utility>

namespace taper::python {
namespace {

// Title case of one code point that is several (Unicode's SpecialCasing.txt, the unconditional lines).
struct Several {
  int32_t code_point;
  const char* title;
};
constexpr std::array several{
    Several{0xdf, "\u0053\u0073"},         Several{0x149, "\u02bc\u004e"},        Several{0x1f0, "\u004a\u030c"},  Several{0x390, "\u0399\u0308\u0301"},
    Several{0x3b0, "\u03a5\u0308\u0301"},  Several{0x587, "\u0535\u0582"},        Several{0x1e96, "\u0048\u0331"}, Several{0x1e97, "\u0054\u0308"},
    Several{0x1e98, "\u0057\u030a"},       Several{0x1e99, "\u0059\u030a"},       Several{0x1e9a, "\u0041\u02be"}, Several{0x1f50, "\u03a5\u0313"},
    Several{0x1f52, "\u03a5\u0313\u0300"}, Several{0x1f54, "\u03a5\u0313\u0301"}, Several{0x1f56, "\u03a5\u0313\u0342"},
    Several{0x1fb2, "\u1fba\u0345"},       Several{0x1fb4, "\u0386\u0345"},       Several{0x1fb6, "\u0391\u0342"}, Several{0x1fb7, "\u0391\u0342\u0345"},
    Several{0x1fc2, "\u1fca\u0345"},       Several{0x1fc4, "\u0389\u0345"},       Several{0x1fc6, "\u0397\u0342"}, Several{0x1fc7, "\u0397\u0342\u0345"},
    Several{0x1fd2, "\u0399\u0308\u0300"}, Several{0x1fd3, "\u0399\u0308\u0301"}, Several{0x1fd6, "\u0399\u0342"}, Several{0x1fd7, "\u0399\u0308\u0342"},
    Several{0x1fe2, "\u03a5\u0308\u0300"}, Several{0x1fe3, "\u03a5\u0308\u0301"}, Several{0x1fe4, "\u03a1\u0313"}, Several{0x1fe6, "\u03a5\u0342"},
    Several{0x1fe7, "\u03a5\u0308\u0342"}, Several{0x1ff2, "\u1ffa\u0345"},       Several{0x1ff4, "\u038f\u0345"}, Several{0x1ff6, "\u03a9\u0342"},
    Several{0x1ff7, "\u03a9\u0342\u0345"}, Several{0xfb00, "\u0046\u0066"},       Several{0xfb01, "\u0046\u0069"}, Several{0xfb02, "\u0046\u006c"},
    Several{0xfb03, "\u0046\u0066\u0069"}, Several{0xfb04, "\u0046\u0066\u006c"}, Several{0xfb05, "\u0053\u0074"}, Several{0xfb06, "\u0053\u0074"},
    Several{0xfb13, "\u0544\u0576"},       Several{0xfb14, "\u0544\u0565"},       Several{0xfb15, "\u0544\u056b"}, Several{0xfb16, "\u054e\u0576"},
    Several{0xfb17, "\u0544\u056d"}};

bool is_cased(int32_t c) {
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT: return true;
    default: return false;
  }
}

bool is_case_ignorable(int32_t c) {  // marks, modifiers, and punctuation inside words
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_ME: case UTF8PROC_CATEGORY_CF: case UTF8PROC_CATEGORY_LM: case UTF8PROC_CATEGORY_SK: return true;
    default: break;
  }
  constexpr std::array inside{0x27,   0x2e,   0x3a,   0xb7,   0x387,  0x55f,  0x5f4,  0x2018, 0x2019, 0x2024,
                              0x2027, 0xfe13, 0xfe52, 0xfe55, 0xff07, 0xff0e, 0xff1a};
  return std::ranges::binary_search(inside, c);
}

// A capital sigma ends a word: a cased letter before it and none after, ignorable ones left out.
bool is_final_sigma(const std::vector<int32_t>& text, size_t at) {
  size_t before = at;
  while (before > 0 && is_case_ignorable(text[before - 1])) --before;
  if (before == 0 || !is_cased(text[before - 1])) return false;
  size_t after = at + 1;
  while (after < text.size() && is_case_ignorable(text[after])) ++after;
  return after == text.size() || !is_cased(text[after]);
}

constexpr int32_t capital_sigma = 0x3a3, small_sigma = 0x3c3, final_sigma = 0x3c2, dotted_i = 0x130;

std::string lower_from(std::string_view text, std::string head, size_t first) {
  std::vector<int32_t> all;
  std::vector<size_t> at;
  for (size_t i = 0; i < text.size(); i += next_code_point(text, i).bytes) all.push_back(next_code_point(text, i).value), at.push_back(i);
  for (size_t i = first; i < all.size(); ++i) {
    if (all[i] < 0) head += text[at[i]];
    else if (all[i] == capital_sigma) append_code_point(is_final_sigma(all, i) ? final_sigma : small_sigma, head);
    else if (all[i] == dotted_i) head += "i\u0307";
    else append_code_point(utf8proc_tolower(all[i]), head);
  }
  return head;
}

}  // namespace

CodePoint next_code_point(std::string_view text, size_t at) {
  if (at >= text.size()) return {};
  utf8proc_int32_t value = -1;
  const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at, utf8proc_ssize_t(text.size() - at), &value);
  return n > 0 ? CodePoint{value, size_t(n)} : CodePoint{-1, 1};
}

void append_code_point(int32_t value, std::string& to) {
  utf8proc_uint8_t bytes[4];
  to.append(reinterpret_cast<const char*>(bytes), size_t(utf8proc_encode_char(value, bytes)));
}

int64_t length(std::string_view text) {
  int64_t n = 0;
  for (size_t i = 0; i < text.size(); i += next_code_point(text, i).bytes) ++n;
  return n;
}

bool is_space(int32_t c) {
  return (9 <= c && c <= 13) || (28 <= c && c <= 32) || c == 0x85 || c == 0xa0 || c == 0x1680 || (0x2000 <= c && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

std::string_view rstrip(std::string_view text) {
  size_t end = 0;
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = next_code_point(text, i);
    i += c.bytes;
    if (!is_space(c.value)) end = i;
  }
  return text.substr(0, end);
}

std::string_view strip(std::string_view text) {
  size_t begin = 0;
  for (CodePoint c; c = next_code_point(text, begin), c.bytes && is_space(c.value);) begin += c.bytes;
  return rstrip(text.substr(begin));
}

std::string lower(std::string_view text) { return lower_from(text, "", 0); }

std::string capitalize(std::string_view text) {
  const CodePoint first = next_code_point(text, 0);
  std::string head;
  const auto found = std::ranges::find(several, first.value, &Several::code_point);
  if (first.value < 0) head = text.substr(0, first.bytes);
  else if (found != several.end()) head = found->title;
  else append_code_point(utf8proc_totitle(first.value), head);
  return lower_from(text, std::move(head), 1);
}

int64_t count_split(std::string_view text) {
  int64_t runs = 0;
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = next_code_point(text, i);
    const bool space = is_space(c.value);
    runs += space && !inside;
    inside = space;
    i += c.bytes;
  }
  return runs + 1;
}

std::vector<std::string_view> words(std::string_view text) {
  std::vector<std::string_view> pieces;
  size_t begin = 0;
  for (size_t i = 0;;) {
    const CodePoint c = next_code_point(text, i);
    if (c.bytes == 0 || is_space(c.value)) {
      if (i > begin) pieces.push_back(text.substr(begin, i - begin));
      begin = i + c.bytes;
    }
    if (c.bytes == 0) return pieces;
    i += c.bytes;
  }
}

std::string repr(std::string_view text) {
  const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    if (c == '\\' || c == quote) out += '\\', out += c;
    else if (c == '\n') out += "\\n";
    else if (c == '\r') out += "\\r";
    else if (c == '\t') out += "\\t";
    else out += c;
  }
  return out += quote;
}

std::string repr(const std::vector<std::string>& list) {
  std::string out = "[";
  for (const std::string& text : list) out += (out.size() > 1 ? ", " : "") + repr(std::string_view(text));
  return out + "]";
}

std::string replace(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (size_t at; (at = text.find(from)) != std::string_view::npos; text.remove_prefix(at + from.size())) out.append(text.substr(0, at)).append(to);
  return out.append(text);
}

}  // namespace taper::python
