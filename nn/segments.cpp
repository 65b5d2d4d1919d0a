// Segments: columns of a batch, and starts counted from each piece's beginning.
#include "nn/segments.h"

#include <algorithm>

#include "tensor/error.h"

namespace taper {

std::vector<Segment> cut_into_segments(const Tensor& ids, const Tensor& labels, const Packing& packing, int64_t n, Device& to) {
  const int64_t B = ids.size(0), T = ids.size(1), L = T / n;
  check(n >= 1 && T % n == 0, "segments: T must be divisible by their number; got {} and {}", T, n);
  const std::vector<int32_t> id = to_host<int32_t>(ids), label = to_host<int32_t>(labels);
  const std::vector<int32_t> start = packing.start ? to_host<int32_t>(packing.start) : std::vector<int32_t>(id.size(), 0);
  std::vector<Segment> segments;
  for (int64_t begin = 0; begin < T; begin += L) {
    Segment s;
    std::vector<int32_t> i, l, from, keep;
    for (int64_t b = 0; b < B; ++b) {
      const int64_t row = b * T + begin;
      i.insert(i.end(), id.begin() + row, id.begin() + row + L);
      l.insert(l.end(), label.begin() + row, label.begin() + row + L);
      for (int64_t t = 0; t < L; ++t) from.push_back(std::max(0, int32_t(start[size_t(row + t)] - begin)));
      keep.push_back(start[size_t(row)] != begin);
    }
    s.ids = from_host<int32_t>(to, {B, L}, i);
    s.labels = from_host<int32_t>(to, {B, L}, l);
    if (packing.start) s.packing.start = from_host<int32_t>(to, {B, L}, from);
    if (packing.start && begin > 0) s.keep = from_host<int32_t>(to, {B}, keep);
    segments.push_back(std::move(s));
  }
  return segments;
}

}  // namespace taper
