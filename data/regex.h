// Regex: the patterns of tokenizer files. They are written for Oniguruma and run by PCRE2; what the two
// read differently, or nobody writes, is refused by name.
//
// Supported: literals and escapes of punctuation, \r \n \t \f \v \xHH \x{...} \uHHHH, \s \S \d \D, \p{..}
// \P{..}, classes without nesting, groups ( ) (?: ) (?i: ), lookaround, alternatives, greedy, lazy and
// possessive repetition. \s is White_Space. A pattern that matches the empty text is refused, too.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace taper {

class Regex {
 public:
  Regex(std::string_view pattern, const std::string& who);  // `who` names the pattern's place in errors (65)
  ~Regex();
  Regex(const Regex&) = delete;
  bool looks_behind() const { return looks_behind_; }  // a match may depend on what precedes it

 private:
  friend class RegexMatcher;
  std::string who_;
  void* code_ = nullptr;
  bool jit_ = false, looks_behind_ = false;
};

// The matches in one text, which must be valid UTF-8. One at a time on a thread.
class RegexMatcher {
 public:
  RegexMatcher(const Regex& regex, std::string_view text) : regex_(regex), text_(text) {}
  // The first match at or behind `from`: [begin, end), not empty.
  bool next(size_t from, size_t& begin, size_t& end) const;
  // The same, where it is the first whatever text follows this one; else false.
  bool next_certain(size_t from, size_t& begin, size_t& end) const;

 private:
  bool match(size_t from, uint32_t options, size_t& begin, size_t& end) const;
  const Regex& regex_;
  std::string_view text_;
};

std::string regex_version();  // of PCRE2
std::string regex_unicode();  // of its tables

}  // namespace taper
