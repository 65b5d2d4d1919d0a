// Byte-pair encoding: whole words by a table, others by a cache, the rest by merging.
#include "data/bpe.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>

#include "tensor/error.h"

namespace taper {
namespace {

constexpr size_t longest_piece = size_t(16) << 20;

constexpr size_t short_piece = 48;  // up to this length looking at every pair beats a heap

uint64_t mixed(uint64_t x) {
  x = (x ^ x >> 32) * 0x9e3779b97f4a7c15u;
  return x ^ x >> 29;
}

template <class T>
uint64_t load(const char* p) {
  T x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

// Up to eight bytes as a number, in two looks that may overlap: a copy of a length that is not fixed is a call.
uint64_t load_few(const char* p, size_t n) {
  if (n >= 4) return load<uint32_t>(p + n - 4) << 32 | load<uint32_t>(p);
  if (n >= 2) return load<uint16_t>(p + n - 2) << 16 | load<uint16_t>(p);
  return n ? uint8_t(*p) : 0;
}

uint64_t hash_of(std::string_view s) {
  uint64_t h = s.size() * 0xff51afd7ed558ccdu;
  const char* p = s.data();
  size_t n = s.size();
  for (; n > 8; p += 8, n -= 8) h = mixed(h ^ load<uint64_t>(p)) * 0xc4ceb9fe1a85ec53u;
  return mixed(h ^ load_few(p, n));
}

uint64_t key_of(int32_t left, int32_t right) { return (uint64_t(uint32_t(left)) << 32 | uint32_t(right)) + 1; }

size_t table_size(size_t entries) { return std::bit_ceil(2 * entries + 2); }

// A thread's words of several tokens, each in the one place that its hash gives it.
struct WordCache {
  static constexpr size_t places = 1 << 15, most_bytes = 31, most_ids = 7;
  struct Word {
    uint8_t bytes = 0, ids = 0;  // 0 bytes: free
    std::array<char, most_bytes> text;
    std::array<int32_t, most_ids> id;
  };
  uint64_t owner = 0;
  std::vector<Word> words;
};

}  // namespace

Bpe::Bpe(const std::vector<std::string>& tokens, const std::vector<Merge>& merges, bool whole_first) {
  static std::atomic<uint64_t> count = 0;
  serial_ = ++count;
  std::ranges::fill(bytes_, -1);
  for (size_t id = 0; id < tokens.size(); ++id) {
    begins_.push_back(uint32_t(text_.size()));
    text_ += tokens[id];
    if (tokens[id].size() == 1) bytes_[uint8_t(tokens[id][0])] = int32_t(id);
  }
  begins_.push_back(uint32_t(text_.size()));
  rules_.resize(table_size(merges.size()));
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& m = merges[rank];
    size_t at = mixed(key_of(m.left, m.right)) & (rules_.size() - 1);
    for (; rules_[at].key; at = (at + 1) & (rules_.size() - 1))
      check(rules_[at].key != key_of(m.left, m.right), "bpe: merge {} repeats merge {}", rank, rules_[at].rank);
    rules_[at] = {key_of(m.left, m.right), int32_t(rank), m.result};
  }

  wholes_.resize(table_size(tokens.size()));
  std::vector<int32_t> ids;
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].empty()) continue;
    if (!std::ranges::all_of(tokens[id], [&](char c) { return has(c); })) continue;
    if (!whole_first) {  // only where merging leads to it
      ids.clear();
      merge(tokens[id], ids);
      if (ids.size() != 1 || ids[0] != int32_t(id)) continue;
    }
    const uint64_t hash = hash_of(tokens[id]);
    size_t at = hash & (wholes_.size() - 1);
    while (wholes_[at].id >= 0) at = (at + 1) & (wholes_.size() - 1);
    wholes_[at] = {uint32_t(hash >> 32), int32_t(id)};
  }
}

const Bpe::Rule* Bpe::rule(int32_t left, int32_t right) const {
  const uint64_t key = key_of(left, right);
  for (size_t at = mixed(key) & (rules_.size() - 1);; at = (at + 1) & (rules_.size() - 1)) {
    const Rule& r = rules_[at];
    if (r.key == key) return &r;
    if (r.key == 0) return nullptr;
  }
}

int32_t Bpe::whole(std::string_view piece, uint64_t hash) const {
  for (size_t at = hash & (wholes_.size() - 1);; at = (at + 1) & (wholes_.size() - 1)) {
    const Whole& w = wholes_[at];
    if (w.id < 0) return -1;
    if (w.tag != uint32_t(hash >> 32)) continue;
    const uint32_t begin = begins_[size_t(w.id)];
    if (begins_[size_t(w.id) + 1] - begin == piece.size() && std::memcmp(text_.data() + begin, piece.data(), piece.size()) == 0) return w.id;
  }
}

void Bpe::encode(std::string_view piece, std::vector<int32_t>& append_to) const {
  if (piece.empty()) return;
  if (piece.size() == 1) return append_to.push_back(bytes_[uint8_t(piece[0])]);
  const uint64_t hash = hash_of(piece);
  if (const int32_t id = whole(piece, hash); id >= 0) return append_to.push_back(id);
  if (piece.size() > WordCache::most_bytes) return merge(piece, append_to);

  static thread_local WordCache cache;
  if (cache.owner != serial_) {
    cache.owner = serial_;
    cache.words.assign(WordCache::places, {});
  }
  WordCache::Word& word = cache.words[hash & (WordCache::places - 1)];
  if (word.bytes == piece.size() && std::memcmp(word.text.data(), piece.data(), piece.size()) == 0) {
    append_to.insert(append_to.end(), word.id.begin(), word.id.begin() + word.ids);
    return;
  }
  const size_t before = append_to.size();
  merge(piece, append_to);
  const size_t n = append_to.size() - before;
  if (n > WordCache::most_ids) return;
  word.bytes = uint8_t(piece.size());
  word.ids = uint8_t(n);
  std::memcpy(word.text.data(), piece.data(), piece.size());
  std::copy_n(append_to.end() - std::ptrdiff_t(n), n, word.id.begin());
}

void Bpe::merge(std::string_view piece, std::vector<int32_t>& append_to) const {
  piece.size() <= short_piece ? merge_short(piece, append_to) : merge_long(piece, append_to);
}

void Bpe::merge_short(std::string_view piece, std::vector<int32_t>& append_to) const {
  constexpr int32_t none = INT32_MAX;
  int32_t id[short_piece], rank[short_piece], result[short_piece];  // rank, result: of the pair that begins here
  size_t n = piece.size();
  for (size_t i = 0; i < n; ++i) id[i] = bytes_[uint8_t(piece[i])];
  const auto look = [&](size_t i) {
    const Rule* r = i + 1 < n ? rule(id[i], id[i + 1]) : nullptr;
    rank[i] = r ? r->rank : none;
    result[i] = r ? r->result : -1;
  };
  for (size_t i = 0; i < n; ++i) look(i);
  for (;;) {
    size_t best = 0;
    for (size_t i = 1; i < n; ++i)
      if (rank[i] < rank[best]) best = i;
    if (rank[best] == none) break;
    id[best] = result[best];
    --n;
    for (size_t i = best + 1; i < n; ++i) id[i] = id[i + 1], rank[i] = rank[i + 1], result[i] = result[i + 1];
    look(best);
    if (best > 0) look(best - 1);
  }
  append_to.insert(append_to.end(), id, id + n);
}

// A list of symbols and a heap of pairs. An entry of the heap whose pair is no longer there, or has another
// rank by now, is passed over.
void Bpe::merge_long(std::string_view piece, std::vector<int32_t>& append_to) const {
  check(piece.size() <= longest_piece, Exit::bad_data, "a word of {} bytes is too long to encode: text needs a place to cut (a space, for one) in every {}",
        piece.size(), longest_piece);
  const uint32_t n = uint32_t(piece.size()), nowhere = UINT32_MAX;
  struct Symbol {
    int32_t id;  // -1: merged into the one before
    uint32_t before, next;
  };
  struct Pair {
    int32_t rank;
    uint32_t at;
    bool operator<(const Pair& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }  // the lowest on top
  };
  std::vector<Symbol> symbols(n);
  for (uint32_t i = 0; i < n; ++i) symbols[i] = {bytes_[uint8_t(piece[i])], i ? i - 1 : nowhere, i + 1 < n ? i + 1 : nowhere};
  const auto rule_at = [&](uint32_t i) { return symbols[i].id < 0 || symbols[i].next == nowhere ? nullptr : rule(symbols[i].id, symbols[symbols[i].next].id); };
  std::vector<Pair> heap;
  for (uint32_t i = 0; i < n; ++i)
    if (const Rule* r = rule_at(i)) heap.push_back({r->rank, i});
  std::make_heap(heap.begin(), heap.end());
  const auto push = [&](uint32_t i) {
    if (const Rule* r = rule_at(i)) {
      heap.push_back({r->rank, i});
      std::push_heap(heap.begin(), heap.end());
    }
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Pair top = heap.back();
    heap.pop_back();
    const Rule* r = rule_at(top.at);
    if (!r || r->rank != top.rank) continue;
    Symbol &left = symbols[top.at], &right = symbols[left.next];
    left.id = r->result;
    left.next = right.next;
    right.id = -1;
    if (left.next != nowhere) symbols[left.next].before = top.at;
    push(top.at);
    if (left.before != nowhere) push(left.before);
  }
  for (uint32_t i = 0; i != nowhere; i = symbols[i].next) append_to.push_back(symbols[i].id);
}

}  // namespace taper
