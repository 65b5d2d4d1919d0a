// Packing: its checks, and how one is made.
#include "tensor/packing.h"

#include "tensor/error.h"

namespace taper {

void check_packing(const char* who, const Packing& p, int64_t B, int64_t T) {
  check(!p.start || (p.start.dtype() == Dtype::i32 && p.start.shape() == Shape{B, T}),
        "{}: packing start must be i32 [{},{}]; got {} {}", who, B, T, name(p.start.dtype()), p.start.shape().text());
  check(!p.t0 || (p.t0.dtype() == Dtype::i64 && p.t0.shape() == Shape{B}),
        "{}: packing t0 must be i64 [{}]; got {} {}", who, B, name(p.t0.dtype()), p.t0.shape().text());
}

Packing make_packing(Device& device, int64_t B, int64_t T, const std::vector<std::vector<int64_t>>& starts) {
  check(int64_t(starts.size()) == B, "packing: want starts for {} rows; got {}", B, starts.size());
  std::vector<int32_t> start(size_t(B * T), 0);
  for (int64_t b = 0; b < B; ++b)
    for (int64_t s : starts[size_t(b)]) {
      check(0 <= s && s < T, "packing: a document start must lie in [0,{}); got {}", T, s);
      for (int64_t t = s; t < T; ++t) start[size_t(b * T + t)] = int32_t(s);
    }
  return {from_host<int32_t>(device, {B, T}, start), {}};
}

}  // namespace taper
