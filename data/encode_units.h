// Encode units: what a corpus hands out, as the tokens that shards hold. Each unit is independent of the others.
#pragma once
#include <cstddef>
#include <cstdint>
#include <exception>
#include <string_view>
#include <vector>

#include "data/corpus.h"
#include "data/journal.h"
#include "data/prepare.h"
#include "data/shard.h"
#include "data/tokenizer.h"

namespace taper {

// One unit's tokens, as shards hold them.
struct EncodedUnit {
  struct Part {
    bool validation, begin;
    size_t chunk;  // that its tokens lie in, behind those of the part before
    int64_t tokens, bytes;
  };
  std::vector<Part> parts;
  std::vector<std::vector<char>> chunks;  // a long document has several, so that no large one is ever copied
  ByteCounts counts[2]{};
  int64_t empty = 0, left_out = 0, replaced = 0, forced = 0;
  std::exception_ptr error;  // in the unit's first bad document
  void clear() {  // keeps the memory of an ordinary one
    std::vector<std::vector<char>> memory;
    memory.swap(chunks);
    if (memory.size() > 1) memory.clear();
    for (auto& chunk : memory) chunk.clear();
    *this = {};
    chunks.swap(memory);
  }
  size_t weight() const {
    size_t n = 0;
    for (const auto& chunk : chunks) n += chunk.size();
    return n;
  }
};

// Any number of threads use it at once.
struct UnitEncoder {
  const Tokenizer& tokenizer;
  const ShardFormat& format;
  const SplitRule& rule;
  const PrepareOptions& options;
  const std::vector<InputFile>& files;

  void encode(Unit& unit, EncodedUnit& out) const;  // may take the unit's text; what is wrong with it is out.error

 private:
  void lines(Unit& unit, EncodedUnit& out) const;
  void ids(const Unit& unit, EncodedUnit& out) const;
  void document(std::string_view text, bool validation, EncodedUnit& out) const;
  void add(std::string_view text, bool validation, bool begin, EncodedUnit& out) const;
};

}  // namespace taper
