// Permutation: a shuffled order of n samples that needs no memory. A pure function of (seed, epoch, n).
//
// A Feistel network over the smallest even number of bits that holds n is a bijection whatever its
// round function; walking on from a value >= n until one falls below n makes it a bijection of [0, n)
// (Black and Rogaway, CT-RSA 2002).
#pragma once
#include <bit>
#include <cstdint>

#include "tensor/random.h"

namespace taper {

class Permutation {
 public:
  Permutation(uint64_t n, uint64_t seed, uint64_t epoch)
      : n_(n), round_(Random(seed, "data.order").bits(epoch), "data.order.round") {
    const int bits = n > 1 ? std::bit_width(n - 1) : 0;
    half_ = bits < 2 * smallest_half ? smallest_half : (bits + 1) / 2;
  }

  uint64_t operator()(uint64_t i) const {  // i < n
    do i = once(i);
    while (i >= n_);
    return i;
  }

 private:
  // Very small domains are walked inside a larger one: few bits give few different networks.
  static constexpr int smallest_half = 3, rounds = 8;

  uint64_t once(uint64_t x) const {
    const uint64_t mask = (uint64_t(1) << half_) - 1;
    uint64_t left = x >> half_, right = x & mask;
    for (uint64_t r = 0; r < rounds; ++r) {
      const uint64_t next = left ^ (round_.bits(r << 32 | right) & mask);
      left = right;
      right = next;
    }
    return left << half_ | right;
  }

  uint64_t n_;
  Random round_;
  int half_;
};

}  // namespace taper
