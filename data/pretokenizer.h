// Pre-tokenizer: cuts a text into the pieces that are encoded each by itself.
//
// Steps follow one another, each cutting the pieces of the one before. A step is a pattern or the runs
// of numerals; what it does with the matches and with the rest is its behaviour. The patterns of GPT-2,
// Llama-3 and Qwen-2 are recognised by their text and run by hand; any other runs in PCRE2.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/regex.h"
#include "data/unicode.h"

namespace taper {

extern const std::string_view gpt2_pattern, llama3_pattern, qwen2_pattern;

// isolated: every match and every gap is a piece. removed: only the gaps are. contiguous: adjoining matches
// are one piece. merged_with_...: a match belongs to the gap before or behind it.
enum class SplitBehavior : uint8_t { isolated, removed, contiguous, merged_with_previous, merged_with_next };

class SplitStep {
 public:
  // `invert`: gaps take the matches' part and the other way round. by_hand = false: always PCRE2, for tests.
  static SplitStep pattern(std::string_view pattern, const std::string& who, SplitBehavior behavior, bool invert, bool by_hand = true);
  static SplitStep literal(std::string_view text, SplitBehavior behavior, bool invert);  // every occurrence of a text
  static SplitStep digits(bool individual);                                              // \p{N}, one by one or in runs

  using Sink = std::function<void(std::string_view)>;
  void split(std::string_view text, const Sink& piece) const;  // of valid UTF-8; no piece is empty

  // Run by hand, and every match a piece: there are no gaps, piece_end() gives the end of the piece that begins
  // at p, and a piece always ends between an ASCII letter and a single space before another, whatever is around.
  bool by_hand() const { return kind_ <= Kind::qwen2 && behavior_ == SplitBehavior::isolated; }
  const char* piece_end(const char* p, const char* end) const;

  // Run by PCRE2, and every match and every gap a piece that depends on nothing before it: cut() can find places.
  bool searchable() const { return kind_ == Kind::regex && behavior_ == SplitBehavior::isolated && !regex_->looks_behind(); }
  // The last place of the text, from whose beginning pieces count, between an ASCII letter and a single space before another, where
  // a piece ends whatever follows the text, and also where the text ends there. 0: none. Looks at the whole text twice.
  size_t cut(std::string_view text) const;

 private:
  enum class Kind : uint8_t { gpt2, llama3, qwen2, regex, literal, digits };
  explicit SplitStep(Kind kind, SplitBehavior behavior = SplitBehavior::isolated, bool invert = false)
      : kind_(kind), behavior_(behavior), invert_(invert), classes_(char_classes()) {}
  bool next(std::string_view text, size_t from, size_t& begin, size_t& end) const;

  Kind kind_;
  SplitBehavior behavior_;
  bool invert_;
  const CharClass* classes_;
  std::shared_ptr<const Regex> regex_;
  std::string literal_;
};

}  // namespace taper
