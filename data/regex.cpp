// Regex: Oniguruma's patterns in PCRE2's words, and PCRE2 itself.
#include "data/regex.h"

#include <pcre2.h>

#include <cctype>

#include "tensor/error.h"

namespace taper {
namespace {

// White_Space. PCRE2's own \s has U+180E beside it.
constexpr std::string_view white_space = "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";

class Translation {
 public:
  Translation(std::string_view pattern, const std::string& who) : p_(pattern), who_(who) {}

  std::string run() {
    while (i_ < p_.size()) step();
    if (in_class_) refuse("a class that does not end");
    return out_;
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    fail(Exit::bad_data, "{}: the pattern has {}, which is not supported; byte {} of {}", who_, what, i_ + 1, p_);
  }
  char at(size_t i) const { return i < p_.size() ? p_[i] : '\0'; }
  void copy(size_t n) {
    out_ += p_.substr(i_, n);
    i_ += n;
  }

  void step() {
    const char c = p_[i_];
    if (c == '\\') return escape();
    if (in_class_) {
      if (c == '[') refuse("a class inside a class");
      if (c == '&' && at(i_ + 1) == '&') refuse("'&&' in a class");
      if (c == ']') in_class_ = false;
      return copy(1);
    }
    if (c == '[') {
      in_class_ = true;
      copy(at(i_ + 1) == '^' ? 2 : 1);
      if (at(i_) == ']') refuse("']' at the beginning of a class");
      return;
    }
    if (c == '^' || c == '$') refuse(fmt::format("'{}'", c));
    if (c == '}' && at(i_ + 1) == '+') refuse("'}+'");
    if (c == '{' && (at(i_ + 1) == ',' || !std::isdigit(uint8_t(at(i_ + 1))))) refuse("'{' without a number");
    if (c == '(' && at(i_ + 1) == '?') return group();
    if (c == '(' && at(i_ + 1) == '*') refuse("'(*'");
    copy(1);
  }

  void group() {
    for (const std::string_view known : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"})
      if (p_.substr(i_).starts_with(known)) return copy(known.size());
    refuse(fmt::format("'{}'", p_.substr(i_, 4)));
  }

  void escape() {
    const char e = at(i_ + 1);
    if (e == 's' || e == 'S') {
      if (in_class_ && e == 'S') refuse("\\S in a class");
      out_ += in_class_ ? fmt::format("{}", white_space) : fmt::format("[{}{}]", e == 'S' ? "^" : "", white_space);
      i_ += 2;
    } else if (e == 'v') {
      out_ += "\\x0b";
      i_ += 2;
    } else if (e == 'u') {
      for (size_t k = 2; k < 6; ++k)
        if (!std::isxdigit(uint8_t(at(i_ + k)))) refuse("\\u without four hex digits");
      out_ += fmt::format("\\x{{{}}}", p_.substr(i_ + 2, 4));
      i_ += 6;
    } else if (e == 'p' || e == 'P') {
      const size_t close = p_.find('}', i_);
      if (at(i_ + 2) != '{' || close == p_.npos) refuse(fmt::format("\\{} without {{}}", e));
      copy(close + 1 - i_);
    } else if (e == 'x') {
      const size_t close = p_.find('}', i_);
      if (at(i_ + 2) == '{' && close != p_.npos) copy(close + 1 - i_);
      else if (std::isxdigit(uint8_t(at(i_ + 2))) && std::isxdigit(uint8_t(at(i_ + 3)))) copy(4);
      else refuse("\\x without two hex digits or {}");
    } else if (e != '\0' && (std::string_view("rntfdD").find(e) != std::string_view::npos || std::ispunct(uint8_t(e)))) {
      copy(2);
    } else {
      refuse(fmt::format("\\{}", e ? std::string(1, e) : std::string()));
    }
  }

  std::string_view p_;
  const std::string& who_;
  std::string out_;
  size_t i_ = 0;
  bool in_class_ = false;
};

std::string error_text(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

// What a match needs beside the pattern; one for each thread.
struct Workspace {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(size_t(64) << 10, size_t(32) << 20, nullptr);
  Workspace() { pcre2_jit_stack_assign(context, nullptr, stack); }
  ~Workspace() {
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
    pcre2_match_data_free(data);
  }
};

std::string config_text(uint32_t what) {
  char text[64] = {};
  pcre2_config(what, text);
  return text;
}

}  // namespace

Regex::Regex(std::string_view pattern, const std::string& who) : who_(who) {
  const std::string translated = Translation(pattern, who).run();
  int error = 0;
  size_t at = 0;
  const std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)> context(pcre2_compile_context_create(nullptr),
                                                                                         pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                                   &error, &at, context.get());
  check(code != nullptr, Exit::bad_data, "{}: a pattern is wanted; {}: {}", who, error_text(error), pattern);
  code_ = code;
  uint32_t empty = 0;
  pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &empty);
  if (empty) {
    pcre2_code_free(code);
    fail(Exit::bad_data, "{}: the pattern may match nothing, which is not supported: {}", who, pattern);
  }
  uint32_t behind = 0;
  pcre2_pattern_info(code, PCRE2_INFO_MAXLOOKBEHIND, &behind);
  looks_behind_ = behind > 0;
  jit_ = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD) == 0;
}

Regex::~Regex() { pcre2_code_free(static_cast<pcre2_code*>(code_)); }

bool RegexMatcher::next(size_t from, size_t& begin, size_t& end) const { return match(from, 0, begin, end); }
bool RegexMatcher::next_certain(size_t from, size_t& begin, size_t& end) const { return match(from, PCRE2_PARTIAL_HARD, begin, end); }

bool RegexMatcher::match(size_t from, uint32_t options, size_t& begin, size_t& end) const {
  static thread_local Workspace work;
  const auto* code = static_cast<const pcre2_code*>(regex_.code_);
  const auto* text = reinterpret_cast<PCRE2_SPTR>(text_.data());
  const int n = regex_.jit_ ? pcre2_jit_match(code, text, text_.size(), from, options, work.data, work.context)
                            : pcre2_match(code, text, text_.size(), from, PCRE2_NO_UTF_CHECK | options, work.data, work.context);
  if (n == PCRE2_ERROR_NOMATCH || n == PCRE2_ERROR_PARTIAL) return false;
  check(n >= 0, Exit::bad_data, "{}: the pattern gave up on a text of {} bytes: {}", regex_.who_, text_.size(), error_text(n));
  const size_t* found = pcre2_get_ovector_pointer(work.data);
  check(found[1] > found[0], Exit::bad_data, "{}: the pattern matched nothing at byte {}, which is not supported", regex_.who_, found[0]);
  begin = found[0];
  end = found[1];
  return true;
}

std::string regex_version() {
  const std::string text = config_text(PCRE2_CONFIG_VERSION);  // "10.42 2022-12-11"
  return text.substr(0, text.find(' '));
}

std::string regex_unicode() { return config_text(PCRE2_CONFIG_UNICODE_VERSION); }

}  // namespace taper
