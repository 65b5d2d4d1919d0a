// The calls in which the lanes of a warp meet: shuffles, votes, reductions. A lane that reads one that is not there
// gets NaN.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

#include "tests/emulator/block.h"

namespace emulator {

struct Swap {  // what a lane brings to a shuffle
  uint64_t mine;
  int from;  // the lane it reads; itself where the shuffle leaves the segment
  uint64_t got;
};
inline void finish_swap(void* const* items, unsigned lanes) {
  for (unsigned rest = lanes; rest; rest &= rest - 1) {
    Swap& s = *static_cast<Swap*>(items[std::countr_zero(rest)]);
    s.got = lanes >> s.from & 1 ? static_cast<Swap*>(items[s.from])->mine : ~uint64_t(0);
  }
}
template <class T>
T swap(unsigned mask, T x, int from, const char* call, Place at) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) >= 4, "a shuffle moves int, long long, float, double");
  Swap s{0, from, 0};
  std::memcpy(&s.mine, &x, sizeof x);
  meet(mask, call, &s, finish_swap, at);
  std::memcpy(&x, &s.got, sizeof x);
  return x;
}

struct Vote {
  uint64_t mine;
  uint64_t got;
};
template <class F>
void finish_vote(void* const* items, unsigned lanes, F&& f) {  // got = f(bits of the lanes with a nonzero number)
  unsigned ballot = 0;
  for (unsigned rest = lanes; rest; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    ballot |= unsigned(static_cast<Vote*>(items[l])->mine != 0) << l;
  }
  for (unsigned rest = lanes; rest; rest &= rest - 1)
    static_cast<Vote*>(items[std::countr_zero(rest)])->got = f(ballot);
}
template <class T, class F>
void finish_reduce(void* const* items, unsigned lanes, F&& f) {
  T sum{};
  bool first = true;
  for (unsigned rest = lanes; rest; rest &= rest - 1) {
    const T x = T(static_cast<Vote*>(items[std::countr_zero(rest)])->mine);
    sum = first ? x : T(f(sum, x));
    first = false;
  }
  for (unsigned rest = lanes; rest; rest &= rest - 1)
    static_cast<Vote*>(items[std::countr_zero(rest)])->got = uint64_t(sum);
}
inline uint64_t vote(unsigned mask, uint64_t x, Finish finish, const char* call, Place at) {
  Vote v{x, 0};
  meet(mask, call, &v, finish, at);
  return v.got;
}

}  // namespace emulator

inline void __syncwarp(unsigned mask = ~0u, emulator::Place at = emulator::Place::current()) {
  emulator::meet(
      mask, "__syncwarp", nullptr, [](void* const*, unsigned) {}, at);
}
inline unsigned __activemask() { return emulator::live_lanes(); }

template <class T>
T __shfl_sync(unsigned mask, T x, int from, int width = 32, emulator::Place at = emulator::Place::current()) {
  const int lane = int(emulator::lane());
  return emulator::swap(mask, x, (lane & ~(width - 1)) | (from & (width - 1)), "__shfl_sync", at);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int bits, int width = 32, emulator::Place at = emulator::Place::current()) {
  const int lane = int(emulator::lane()), from = lane ^ bits;
  return emulator::swap(mask, x, from > (lane | (width - 1)) ? lane : from, "__shfl_xor_sync", at);
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, unsigned delta, int width = 32, emulator::Place at = emulator::Place::current()) {
  const int lane = int(emulator::lane()), from = lane - int(delta);
  return emulator::swap(mask, x, from < (lane & ~(width - 1)) ? lane : from, "__shfl_up_sync", at);
}
template <class T>
T __shfl_down_sync(unsigned mask, T x, unsigned delta, int width = 32,
                   emulator::Place at = emulator::Place::current()) {
  const int lane = int(emulator::lane()), from = lane + int(delta);
  return emulator::swap(mask, x, from > (lane | (width - 1)) ? lane : from, "__shfl_down_sync", at);
}

inline unsigned __ballot_sync(unsigned mask, int p, emulator::Place at = emulator::Place::current()) {
  return unsigned(emulator::vote(
      mask, p != 0, [](void* const* i, unsigned l) { emulator::finish_vote(i, l, [](unsigned b) { return b; }); },
      "__ballot_sync", at));
}
inline int __any_sync(unsigned mask, int p, emulator::Place at = emulator::Place::current()) {
  return int(emulator::vote(
      mask, p != 0, [](void* const* i, unsigned l) { emulator::finish_vote(i, l, [](unsigned b) { return b != 0; }); },
      "__any_sync", at));
}
inline int __all_sync(unsigned mask, int p, emulator::Place at = emulator::Place::current()) {
  return int(emulator::vote(
      mask, p != 0, [](void* const* i, unsigned l) { emulator::finish_vote(i, l, [l](unsigned b) { return b == l; }); },
      "__all_sync", at));
}
template <class T>
unsigned __match_any_sync(unsigned mask, T x, emulator::Place at = emulator::Place::current()) {
  uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof x);
  return unsigned(emulator::vote(
      mask, bits,
      [](void* const* items, unsigned lanes) {
        for (unsigned a = lanes; a; a &= a - 1) {
          auto& mine = *static_cast<emulator::Vote*>(items[std::countr_zero(a)]);
          mine.got = 0;
          for (unsigned b = lanes; b; b &= b - 1) {
            const int l = std::countr_zero(b);
            mine.got |= uint64_t(static_cast<emulator::Vote*>(items[l])->mine == mine.mine) << l;
          }
        }
      },
      "__match_any_sync", at));
}

template <class T>
T __reduce_add_sync(unsigned mask, T x, emulator::Place at = emulator::Place::current()) {
  return T(emulator::vote(
      mask, uint64_t(x),
      [](void* const* i, unsigned l) { emulator::finish_reduce<T>(i, l, [](T a, T b) { return a + b; }); },
      "__reduce_add_sync", at));
}
template <class T>
T __reduce_min_sync(unsigned mask, T x, emulator::Place at = emulator::Place::current()) {
  return T(emulator::vote(
      mask, uint64_t(x),
      [](void* const* i, unsigned l) { emulator::finish_reduce<T>(i, l, [](T a, T b) { return a < b ? a : b; }); },
      "__reduce_min_sync", at));
}
template <class T>
T __reduce_max_sync(unsigned mask, T x, emulator::Place at = emulator::Place::current()) {
  return T(emulator::vote(
      mask, uint64_t(x),
      [](void* const* i, unsigned l) { emulator::finish_reduce<T>(i, l, [](T a, T b) { return a > b ? a : b; }); },
      "__reduce_max_sync", at));
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned x, emulator::Place at = emulator::Place::current()) {
  return unsigned(emulator::vote(
      mask, x,
      [](void* const* i, unsigned l) {
        emulator::finish_reduce<unsigned>(i, l, [](unsigned a, unsigned b) { return a | b; });
      },
      "__reduce_or_sync", at));
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned x, emulator::Place at = emulator::Place::current()) {
  return unsigned(emulator::vote(
      mask, x,
      [](void* const* i, unsigned l) {
        emulator::finish_reduce<unsigned>(i, l, [](unsigned a, unsigned b) { return a & b; });
      },
      "__reduce_and_sync", at));
}
