// Haystack: a grammar, and sentences found in text.
#include "data/tasks/haystack.h"

#include <algorithm>
#include <array>

#include "data/tasks/draws.h"
#include "data/tasks/python_text.h"
#include "data/tasks/words.h"
#include "tensor/error.h"

namespace taper {
namespace {

// A = adjective, N = noun, V = verb; a word "a" before a vowel becomes "an".
constexpr std::array patterns{
    "The A N will V beside the N.",
    "A N can V before the A N does.",
    "If the N should V, the A N must V too.",
    "Nobody in the A N expected that a N would V.",
    "Near the N, a A N and a A N used to V every evening.",
    "To V a N is easier than to V the A N.",
    "She asked whether the N might V, but the A N did not answer.",
    "Whoever wants to V should bring a N and a A N.",
    "It took the N a whole season to V the A N.",
    "We saw the A N V while the N began to V.",
    "Once a year the A N of the N would V.",
    "Between the N and the A N there was room for a N to V.",
    "He said that a A N does not V unless the N can V.",
    "There was no N in the A N, and no reason to V.",
    "They let the N V until the A N came back.",
    "Why the A N had to V, the N never told us.",
};

bool is_vowel(char c) { return std::string_view("aeiou").find(c) != std::string_view::npos; }

constexpr std::array abbreviations{"mr", "mrs", "ms", "dr", "prof", "st", "vs", "etc", "e.g", "i.e", "inc", "jr", "sr", "no", "vol", "fig", "gen", "col",
    "capt", "u.s"};

bool closes(int32_t c) { return c == '"' || c == '\'' || c == ')' || c == ']' || c == 0x201d || c == 0x2019; }
bool opens(int32_t c) { return c == '"' || c == '\'' || c == '(' || c == '[' || c == 0x201c || c == 0x2018; }

bool begins_sentence(std::string_view text, size_t at) {
  const python::CodePoint c = python::next_code_point(text, at);
  if (opens(c.value) || ('0' <= c.value && c.value <= '9')) return true;
  const std::string_view letter = text.substr(at, c.bytes);
  return c.bytes && python::lower(letter) != letter;
}

bool is_abbreviation(std::string_view before) {  // what stands before a point
  size_t begin = before.size();
  while (begin > 0 && uint8_t(before[begin - 1]) > ' ' && !opens(uint8_t(before[begin - 1]))) --begin;
  const std::string_view word = before.substr(begin);
  if (word.size() == 1 && 'A' <= word[0] && word[0] <= 'Z' && word[0] != 'I') return true;  // an initial
  return std::ranges::find(abbreviations, python::lower(word)) != abbreviations.end();
}

}  // namespace

std::string synthetic_sentence(uint64_t i) {
  Draws draws(0, "haystack." + std::to_string(i));
  const Words& words = built_in_words();
  std::string out;
  const std::string_view pattern = patterns[draws.below(patterns.size())];
  for (const std::string_view piece : python::words(pattern)) {
    const char kind = piece[0];
    const bool drawn = piece.size() == 1 || !('a' <= (piece[1] | 32) && (piece[1] | 32) <= 'z');
    std::string word(piece);
    if (drawn && (kind == 'N' || kind == 'V' || (kind == 'A' && !out.empty())))
      word = draws.of(kind == 'N' ? words.nouns : kind == 'V' ? words.verbs : words.adjectives) + std::string(piece.substr(1));
    if ((out.ends_with(" a") || out == "A") && is_vowel(word[0])) out += 'n';
    out += (out.empty() ? "" : " ") + word;
  }
  return out;
}

Haystack Haystack::synthetic(int64_t words) {
  Haystack h;
  h.name_ = "synthetic";
  for (uint64_t i = 0; h.words() < words; ++i) {
    const std::string sentence = synthetic_sentence(i);
    for (const std::string_view word : python::words(sentence)) {
      h.text_.append(h.text_.empty() ? "" : " ").append(word);
      h.ends_.push_back(h.text_.size());
    }
  }
  return h;
}

Haystack Haystack::of_files(const std::vector<Path>& files, int64_t words) {
  std::string all;
  Haystack h;
  for (const Path& file : files) {
    all += read_file(file) + " ";
    h.name_ += (h.name_.empty() ? "" : " ") + file.filename().string();
  }
  const std::vector<std::string_view> pieces = python::words(all);
  check(!pieces.empty(), Exit::bad_data, "{}: a haystack must hold text; it holds none", files.empty() ? "--haystack" : files[0].string());
  for (size_t i = 0; i < pieces.size() || h.words() < words; ++i) {
    h.text_.append(h.text_.empty() ? "" : " ").append(pieces[i % pieces.size()]);
    h.ends_.push_back(h.text_.size());
    h.repeated_ = i >= pieces.size();
  }
  return h;
}

std::string_view Haystack::front(int64_t n) const {
  check(0 <= n && n <= words(), "haystack: wants 0 to {} words; got {}", words(), n);
  return n ? std::string_view(text_).substr(0, ends_[size_t(n - 1)]) : std::string_view{};
}

std::vector<std::string_view> split_sentences(std::string_view text) {
  std::vector<std::string_view> all;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i++];
    if (c != '.' && c != '!' && c != '?') continue;
    if (c == '.' && is_abbreviation(text.substr(begin, i - 1 - begin))) continue;
    size_t end = i;
    while (end < text.size() && (text[end] == '.' || text[end] == '!' || text[end] == '?')) ++end;
    for (python::CodePoint p; p = python::next_code_point(text, end), p.bytes && closes(p.value);) end += p.bytes;
    size_t next = end;
    for (python::CodePoint p; p = python::next_code_point(text, next), p.bytes && python::is_space(p.value);) next += p.bytes;
    i = end;
    if (next < text.size() && (next == end || !begins_sentence(text, next))) continue;
    all.push_back(text.substr(begin, end - begin));
    i = begin = next;
  }
  if (const std::string_view rest = python::rstrip(text.substr(begin)); !rest.empty()) all.push_back(rest);
  return all;
}

}  // namespace taper
