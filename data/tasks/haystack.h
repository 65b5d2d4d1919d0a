// Haystack: the running text that needles are hidden in.
//
// The built-in one is made by a small grammar, sentence i a pure function of i; it holds no digit. Files are read in their
// order, with each run of whitespace a space; where they are shorter than wanted they are repeated.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/file.h"

namespace taper {

class Haystack {
 public:
  static Haystack synthetic(int64_t words);
  static Haystack of_files(const std::vector<Path>& files, int64_t words);  // none of text: 65
  std::string_view front(int64_t words) const;  // the first so many words
  int64_t words() const { return int64_t(ends_.size()); }
  bool contains(std::string_view text) const { return text_.find(text) != std::string::npos; }
  bool repeated() const { return repeated_; }
  const std::string& name() const { return name_; }

 private:
  std::string text_, name_;
  std::vector<size_t> ends_;  // of each word, in text_
  bool repeated_ = false;
};

std::string synthetic_sentence(uint64_t i);

// At . ! or ? with what closes behind it, before whitespace and a capital, a digit or an opening quote; not behind a known
// abbreviation or a single capital. The sentences without the whitespace between them.
std::vector<std::string_view> split_sentences(std::string_view text);

}  // namespace taper
