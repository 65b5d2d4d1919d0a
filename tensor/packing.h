// Packing: where documents begin inside a batch of token windows. An argument of every op that
// looks back in time (scan, convolution, position taper, ...): at a document start the state, the
// history and the position begin anew.
//
//   start [B,T] i32   index of the document start that governs each position; absent: all 0
//   t0    [B]   i64   tokens the carried state has already consumed; absent: all 0
//
// start = 0 means the document that the carried state belongs to (or, with no state, the window's
// first). Position, 1-based: t0 + t + 1 where start is 0, else t - start + 1.
#pragma once
#include "tensor/tensor.h"

namespace taper {

struct Packing {
  Tensor start = {}, t0 = {};
};

struct PackingView {  // what a kernel reads
  const int32_t* start = nullptr;
  const int64_t* t0 = nullptr;
  int64_t T = 0;

  PackingView(const Packing& p, int64_t T)
      : start(p.start ? p.start.data<int32_t>() : nullptr),
        t0(p.t0 ? p.t0.data<int64_t>() : nullptr), T(T) {}

  HOST_DEVICE int64_t start_of(int64_t b, int64_t t) const { return start ? start[b * T + t] : 0; }
  HOST_DEVICE int64_t position(int64_t b, int64_t t) const {
    const int64_t s = start_of(b, t);
    return s ? t - s + 1 : (t0 ? t0[b] : 0) + t + 1;
  }
  // True where a new document begins: nothing before t may be seen from t on.
  HOST_DEVICE bool resets(int64_t b, int64_t t) const { return t > 0 && start_of(b, t) == t; }
};

// Raises unless start is [B,T] i32 and t0 is [B] i64, where present.
void check_packing(const char* who, const Packing& p, int64_t B, int64_t T);

// start from document starts on the host: starts[b] lists the indices at which documents begin.
Packing make_packing(Device& device, int64_t B, int64_t T,
                     const std::vector<std::vector<int64_t>>& starts);

}  // namespace taper
