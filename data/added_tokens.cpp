// Added tokens: a sorted list, entered by the first byte.
#include "data/added_tokens.h"

#include <algorithm>

#include "data/unicode.h"

namespace taper {
namespace {

bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Where the code point before the end of a text begins.
size_t last_begin(std::string_view s) {
  size_t i = s.size() - 1;
  while (utf8_continues(s[i])) --i;
  return i;
}

bool is_space(std::string_view code_point) {
  const char* p = code_point.data();
  return char_classes()[read_utf8(p)] == CharClass::space;
}

std::string_view first_of(std::string_view s) {
  size_t n = 1;
  while (n < s.size() && utf8_continues(s[n])) ++n;
  return s.substr(0, n);
}

// Does the text begin with what a word is made of (Alphabetic, marks, digits, connectors, joiners)?
bool is_word(std::string_view text) {
  static const Regex word(
      "[\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}\\x{200c}\\x{200d}]",
      "added tokens");
  size_t begin = 0, end = 0;
  return RegexMatcher(word, first_of(text)).next(0, begin, end);
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::ranges::sort(tokens_, {}, &AddedToken::content);
  for (uint32_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& t = tokens_[i];
    auto& [begin, end] = first_[uint8_t(t.content[0])];
    if (begin == end) begin = i;
    end = i + 1;
    bool reaches_over = t.lstrip || (t.single_word && t.content[0] == ' ');
    for (size_t k = 1; k < t.content.size(); ++k) reaches_over = reaches_over || (t.content[k] == ' ' && letter(t.content[k - 1]));
    cuts_before_words_ = cuts_before_words_ && !reaches_over;
  }
}

const AddedToken* AddedTokens::longest(std::string_view rest) const {
  const auto [begin, end] = first_[uint8_t(rest[0])];
  const AddedToken* best = nullptr;
  if (end - begin <= 16) {
    for (uint32_t i = begin; i < end; ++i)  // in order: a longer one that fits stands behind a shorter one
      if (rest.starts_with(tokens_[i].content)) best = &tokens_[i];
    return best;
  }
  // The last token that is not behind `rest`, and, where that does not fit, the last before it that may: one
  // that shares more with it than the others and is shorter.
  auto from = tokens_.begin() + begin, to = tokens_.begin() + end;
  while (from != to) {
    const auto at = std::upper_bound(from, to, rest, [](std::string_view r, const AddedToken& t) { return r < t.content; });
    if (at == from) return nullptr;
    const std::string& c = std::prev(at)->content;
    if (rest.starts_with(c)) return &*std::prev(at);
    const size_t common = size_t(std::ranges::mismatch(c, rest).in1 - c.begin());
    rest = rest.substr(0, common);
    to = std::prev(at);
  }
  return best;
}

void AddedTokens::split(std::string_view text, bool special, const std::function<void(std::string_view)>& between,
                        const std::function<void(int32_t)>& token) const {
  size_t done = 0;
  for (size_t i = 0; i < text.size();) {
    const auto [begin, end] = first_[uint8_t(text[i])];
    const AddedToken* t = begin == end ? nullptr : longest(text.substr(i));
    if (!t) {
      ++i;
      continue;
    }
    size_t from = i, to = i + t->content.size();
    i = to;
    if (t->special && !special) continue;
    if (t->single_word) {
      const bool word_before = from > 0 && is_word(text.substr(last_begin(text.substr(0, from))));
      if (word_before || (to < text.size() && is_word(text.substr(to)))) continue;
    }
    if (t->lstrip)
      while (from > done) {
        const size_t before = last_begin(text.substr(0, from));
        if (before < done || !is_space(text.substr(before))) break;
        from = before;
      }
    if (t->rstrip)
      while (to < text.size() && is_space(text.substr(to))) to += first_of(text.substr(to)).size();
    if (done < from) between(text.substr(done, from - done));
    token(t->id);
    done = to;
    i = std::max(i, to);
  }
  if (done < text.size()) between(text.substr(done));
}

}  // namespace taper
