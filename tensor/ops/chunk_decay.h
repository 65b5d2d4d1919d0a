// ChunkDecay: the decays inside one chunk of a scan with one decay per head, document starts worked in.
//
// G_i = sum of log_a up to i, from the chunk's beginning. It is kept in f64, so that a difference
// G_i - G_j <= 0 is exact even behind a huge decay; only such differences are exponentiated.
#pragma once
#include <algorithm>
#include <vector>

#include "tensor/packing.h"
#include "tensor/vector_math.h"

namespace taper::kernels {

template <class T>
struct ChunkDecay {
  std::vector<double> sum;    // [L] G
  std::vector<T> in;          // [L] exp(G_i), 0 where a document start hides the state before the chunk from i
  std::vector<T> out;         // [L] exp(G_L - G_j), 0 where one hides j from the chunk's end
  T whole = 0;                // exp(G_L), 0 if a document starts inside
  std::vector<int64_t> from;  // [L] the first j of i's document inside the chunk

  explicit ChunkDecay(int64_t chunk) : sum(size_t(chunk)), in(size_t(chunk)), out(size_t(chunk)), from(size_t(chunk)) {}

  // The L tokens from `begin` on of batch row n; log_a points at the first, `stride` apart.
  void load(const PackingView& packing, const T* log_a, int64_t stride, int64_t n, int64_t begin, int64_t L) {
    double s = 0;
    for (int64_t i = 0; i < L; ++i) {
      sum[size_t(i)] = s += double(log_a[i * stride]);
      // A start at the chunk's first token cuts the state off too, unless it is the window's first.
      const int64_t start = packing.start_of(n, begin + i);
      const bool sees = begin == 0 ? start == 0 : start < begin;
      from[size_t(i)] = std::max<int64_t>(0, start - begin);
      in[size_t(i)] = sees ? T(math::exp(T(s))) : T(0);
      if (i == L - 1) whole = in[size_t(i)];
    }
    for (int64_t j = 0; j < L; ++j) out[size_t(j)] = j >= from[size_t(L - 1)] ? math::exp(T(s - sum[size_t(j)])) : T(0);
  }

  // E [L,L] = exp(G_i - G_j) for j <= i of the same document, else 0: masked before the exponential.
  void matrix(int64_t L, T* E) const {
    for (int64_t i = 0; i < L; ++i) {
      T* row = E + i * L;
      const double at = sum[size_t(i)];
      std::fill(row, row + from[size_t(i)], T(0));
      for (int64_t j = from[size_t(i)]; j <= i; ++j) row[j] = math::exp(T(at - sum[size_t(j)]));
      std::fill(row + i + 1, row + L, T(0));
    }
  }
};

}  // namespace taper::kernels
