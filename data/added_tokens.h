// Added tokens: texts that are tokens wherever they stand, found before anything else is done with a text.
//
// At each place the longest that fits is taken, from left to right. single_word: only where no letter, mark,
// digit or connector adjoins it; lstrip, rstrip: it takes the white space before or behind it along.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/regex.h"

namespace taper {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false, lstrip = false, rstrip = false, normalized = true, special = false;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  explicit AddedTokens(std::vector<AddedToken> tokens);
  bool empty() const { return tokens_.empty(); }

  // The parts of a valid text in order: between(part) for what lies between tokens, and token(id). A special
  // token that is not wanted is left in the text, where it also hides the tokens inside it.
  void split(std::string_view text, bool special, const std::function<void(std::string_view)>& between,
             const std::function<void(int32_t)>& token) const;

  // No token depends on, or reaches over, the place between an ASCII letter and a space.
  bool cuts_before_words() const { return cuts_before_words_; }

 private:
  const AddedToken* longest(std::string_view rest) const;
  std::vector<AddedToken> tokens_;            // by content
  std::array<std::pair<uint32_t, uint32_t>, 256> first_{};  // the tokens that begin with each byte
  bool cuts_before_words_ = true;
};

}  // namespace taper
