// Random: Philox4x32-10, a counter-based generator (Salmon et al., SC 2011). A value is a pure
// function of (seed, purpose, index): no state, no order, the same on every device and thread count.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

#include "tensor/host_device.h"

namespace taper {

// FNV-1a, 64 bits: turns the name of a purpose ("layers.0.mixer.D") into a number.
constexpr uint64_t hash_name(std::string_view s) {
  uint64_t h = 0xcbf29ce484222325u;
  for (char c : s) h = (h ^ uint8_t(c)) * 0x100000001b3u;
  return h;
}

class Random {
 public:
  HOST_DEVICE constexpr Random(uint64_t seed, uint64_t purpose) : seed_(seed), purpose_(purpose) {}
  constexpr Random(uint64_t seed, std::string_view purpose) : Random(seed, hash_name(purpose)) {}

  // The generator as two integers, for a tensor that a kernel reads it from.
  constexpr std::array<int64_t, 2> key() const { return {int64_t(seed_), int64_t(purpose_)}; }
  HOST_DEVICE static constexpr Random of_key(const int64_t* key) { return {uint64_t(key[0]), uint64_t(key[1])}; }

  HOST_DEVICE constexpr std::array<uint32_t, 4> block(uint64_t index) const {
    uint32_t c0 = uint32_t(index), c1 = uint32_t(index >> 32);
    uint32_t c2 = uint32_t(purpose_), c3 = uint32_t(purpose_ >> 32);
    uint32_t k0 = uint32_t(seed_), k1 = uint32_t(seed_ >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
      const uint32_t n0 = uint32_t(p1 >> 32) ^ c1 ^ k0, n2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
      c1 = uint32_t(p1);
      c3 = uint32_t(p0);
      c0 = n0;
      c2 = n2;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return {c0, c1, c2, c3};
  }
  constexpr uint64_t bits(uint64_t index) const {
    const auto b = block(index);
    return uint64_t(b[1]) << 32 | b[0];
  }
  // In (0, 1), 53 bits: never 0, never 1.
  constexpr double uniform(uint64_t index) const { return (double(bits(index) >> 12) + 0.5) * 0x1p-52; }
  // Integer in [0, n), without bias beyond 2^-64.
  constexpr uint64_t below(uint64_t index, uint64_t n) const {
    return uint64_t((unsigned __int128)(bits(index)) * n >> 64);
  }
  // Two standard normals by Box-Muller: those of indices 2 pair and 2 pair + 1.
  std::array<double, 2> normal_pair(uint64_t pair) const {
    const auto b = block(pair);
    const double u = (double((uint64_t(b[1]) << 32 | b[0]) >> 12) + 0.5) * 0x1p-52;
    const double v = (double((uint64_t(b[3]) << 32 | b[2]) >> 12) + 0.5) * 0x1p-52;
    const double r = std::sqrt(-2 * std::log(u)), phi = 2 * std::numbers::pi * v;
    return {r * std::cos(phi), r * std::sin(phi)};
  }
  double normal(uint64_t index) const { return normal_pair(index >> 1)[index & 1]; }

 private:
  uint64_t seed_, purpose_;
};

}  // namespace taper
