// Draws: random choices in sequence, from one (seed, purpose).
#pragma once
#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor/random.h"

namespace taper {

class Draws {
 public:
  Draws(uint64_t seed, std::string_view purpose) : random_(seed, purpose) {}
  uint64_t bits() { return random_.bits(next_++); }
  uint64_t below(uint64_t n) { return random_.below(next_++, n); }
  template <class T>
  const T& of(const std::vector<T>& all) { return all[below(all.size())]; }
  template <class T>
  void shuffle(std::vector<T>& all) {
    for (size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[below(i)]);
  }
  // k different numbers below n, in the order they were drawn.
  std::vector<uint64_t> different(uint64_t k, uint64_t n) {
    std::vector<uint64_t> all(n);
    std::iota(all.begin(), all.end(), uint64_t(0));
    for (uint64_t i = 0; i < k; ++i) std::swap(all[i], all[i + below(n - i)]);
    all.resize(k);
    return all;
  }
  std::string letters(size_t n, char first) {  // of 26 that follow each other
    std::string s;
    while (s.size() < n) s += char(first + int(below(26)));
    return s;
  }

 private:
  Random random_;
  uint64_t next_ = 0;
};

}  // namespace taper
