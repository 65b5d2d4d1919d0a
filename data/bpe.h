// Byte-pair encoding: a piece of text into tokens by merging, again and again, the two neighbours whose
// merge has the lowest rank, the leftmost where there are several.
//
// A piece of n bytes takes O(n log n) and about 24n bytes of memory; one of more than 16 MiB is refused (65). Words met before come from a cache
// that each thread has; nothing depends on what is in it.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace taper {

struct Merge {
  int32_t left = 0, right = 0, result = 0;  // ids; its rank is its place in the list
};

class Bpe {
 public:
  // tokens: the bytes of each id; empty: the id takes no part. whole_first: a piece that is a token is that
  // token, even where merging leads elsewhere (tokenizer.json's ignore_merges). No pair stands in two merges.
  Bpe(const std::vector<std::string>& tokens, const std::vector<Merge>& merges, bool whole_first);
  bool has(char byte) const { return bytes_[uint8_t(byte)] >= 0; }  // is this byte a token? encode() wants all of them to be
  void encode(std::string_view piece, std::vector<int32_t>& append_to) const;

 private:
  struct Rule {  // key 0: free
    uint64_t key = 0;
    int32_t rank = 0, result = 0;
  };
  struct Whole {  // id -1: free
    uint32_t tag = 0;
    int32_t id = -1;
  };
  const Rule* rule(int32_t left, int32_t right) const;
  int32_t whole(std::string_view piece, uint64_t hash) const;  // the token that this piece is as a whole; -1: none
  void merge_short(std::string_view piece, std::vector<int32_t>& append_to) const;
  void merge_long(std::string_view piece, std::vector<int32_t>& append_to) const;
  void merge(std::string_view piece, std::vector<int32_t>& append_to) const;

  uint64_t serial_;  // of this object, for the caches
  int32_t bytes_[256];
  std::vector<Rule> rules_;   // a table, by hash, of a power of two
  std::vector<Whole> wholes_;  // the same
  std::string text_;          // of the tokens, one behind the other
  std::vector<uint32_t> begins_;
};

}  // namespace taper
