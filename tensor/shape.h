// Shape: up to six 64-bit sizes, no heap. Row-major, always contiguous.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <string>

#include "tensor/raise.h"

namespace taper {

class Shape {
 public:
  static constexpr int max_rank = 6;
  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes) {
    for (int64_t s : sizes) push_back(s);
  }
  void push_back(int64_t size) {
    if (rank_ == max_rank) raise("shape: at most 6 dimensions; got a seventh");
    if (size < 0) raise("shape: sizes must be >= 0; got " + std::to_string(size));
    sizes_[rank_++] = size;
  }
  int rank() const { return rank_; }
  int64_t operator[](int i) const {  // negative i counts from the end
    const int k = i < 0 ? i + rank_ : i;
    if (k < 0 || k >= rank_)
      raise("shape: dimension " + std::to_string(i) + " of " + text() + " does not exist");
    return sizes_[k];
  }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i)
      if (__builtin_mul_overflow(n, sizes_[i], &n)) raise("shape: " + text() + " overflows 64 bits");
    return n;
  }
  const int64_t* begin() const { return sizes_; }
  const int64_t* end() const { return sizes_ + rank_; }
  bool operator==(const Shape& o) const {
    if (rank_ != o.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if (sizes_[i] != o.sizes_[i]) return false;
    return true;
  }
  std::string text() const {  // "[2,128,12]"
    std::string s = "[";
    for (int i = 0; i < rank_; ++i) (s += i ? "," : "") += std::to_string(sizes_[i]);
    return s + "]";
  }

 private:
  int64_t sizes_[max_rank] = {};
  int rank_ = 0;
};

}  // namespace taper
