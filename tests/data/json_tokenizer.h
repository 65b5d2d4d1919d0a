// A small tokenizer.json for tests: every byte, some merges, and whatever a test adds or spoils.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "data/unicode.h"
#include "tests/support/scratch.h"

namespace taper::test {

using Ids = std::vector<int32_t>;

inline Ids encoded(const Tokenizer& t, std::string_view text, const EncodeOptions& options = {}) {
  Ids ids;
  t.encode(text, ids, options);
  return ids;
}

// The ids of a text that comes in pieces, each time encoding what precedes a cut.
inline Ids encoded_in_pieces(const Tokenizer& t, std::string_view text, size_t piece) {
  Ids ids;
  std::string held;
  for (size_t i = 0; i < text.size(); i += piece) {
    held += text.substr(i, piece);
    const size_t cut = t.cut(held);
    t.encode(std::string_view(held).substr(0, cut), ids);
    held.erase(0, cut);
  }
  CHECK(held.size() < text.size() / 2);  // most of it did not wait for the end
  t.encode(held, ids);
  return ids;
}

// The letter that stands for a byte in a byte-level vocabulary, worked out as its inventors' program does: the
// printable bytes first, then the others counted from U+0100 on.
inline std::string byte_letter(int byte) {
  int others = 0;
  for (int b = 0; b <= byte; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
    std::string s;
    append_utf8(s, uint32_t(printable ? b : 0x100 + others));
    if (b == byte) return s;
    others += !printable;
  }
  return {};
}

inline std::string byte_letters(std::string_view bytes) {
  std::string s;
  for (const char c : bytes) s += byte_letter(uint8_t(c));
  return s;
}

// Ids 0..255 are the bytes, then the merges' results in order, then <|endoftext|>.
inline nlohmann::json small_json(const std::vector<std::pair<std::string, std::string>>& merges = {}) {
  nlohmann::json vocab = nlohmann::json::object(), list = nlohmann::json::array();
  for (int b = 0; b < 256; ++b) vocab[byte_letter(b)] = b;
  for (const auto& [a, b] : merges) {
    list.push_back(byte_letters(a) + " " + byte_letters(b));
    vocab.emplace(byte_letters(a + b), vocab.size());
  }
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", {{{"id", vocab.size()}, {"content", "<|endoftext|>"}, {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", list}}}};
}

inline std::unique_ptr<Tokenizer> open_json(const Scratch& s, const nlohmann::json& json) {
  write_file(s / "tokenizer.json", json.dump());
  return open_tokenizer((s / "tokenizer.json").string());
}

}  // namespace taper::test
