// Lanes: sixteen numbers side by side, for inner loops that a compiler would not vectorise by itself.
//
// A local is Lanes<T>, aligned as its registers want. Memory is reached through lanes(p), which may
// point anywhere: the two must be different types, or a compiler takes one alignment for the other.
#pragma once
#include <cstdint>

namespace taper {

constexpr int64_t lane_count = 16;

template <class T>
struct LaneTypes {
  typedef T Aligned __attribute__((vector_size(lane_count * sizeof(T))));
  typedef T Anywhere __attribute__((vector_size(lane_count * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <class T>
using Lanes = typename LaneTypes<T>::Aligned;

template <class T>
typename LaneTypes<T>::Anywhere& lanes(T* p) {
  return *reinterpret_cast<typename LaneTypes<T>::Anywhere*>(p);
}
template <class T>
const typename LaneTypes<T>::Anywhere& lanes(const T* p) {
  return *reinterpret_cast<const typename LaneTypes<T>::Anywhere*>(p);
}

}  // namespace taper
