// Sums in a fixed order, written so that they run in vector registers: the order depends on the sizes
// alone, never on the number of threads.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "tensor/parallel.h"

namespace taper {

// f(0) + ... + f(n-1) in A: sixteen running sums, then a tree over them.
template <class A, class F>
A lane_sum(int64_t n, F&& f) {
  constexpr int64_t lanes = 16;
  A sum[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int64_t l = 0; l < lanes; ++l) sum[l] += A(f(i + l));
  for (int64_t l = 0; i < n; ++i, ++l) sum[l] += A(f(i));
  for (int64_t width = lanes / 2; width > 0; width /= 2)
    for (int64_t l = 0; l < width; ++l) sum[l] += sum[l + width];
  return sum[0];
}

// Column sums over rows, in f64: f(begin, end, sum) adds rows [begin, end) to sum[columns], which comes
// zeroed. Rows are cut into at most 64 blocks; the blocks' sums are added in their order.
template <class F>
std::vector<double> sum_columns(int64_t rows, int64_t columns, F&& f) {
  const int64_t enough = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, columns));
  const int64_t grain = std::max(enough, (rows + 63) / 64);
  const int64_t blocks = rows > 0 ? (rows + grain - 1) / grain : 0;
  std::vector<double> partial(size_t(blocks * columns)), sum(static_cast<size_t>(columns));
  parallel_for(rows, grain,
               [&](int64_t begin, int64_t end) { f(begin, end, partial.data() + begin / grain * columns); });
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t j = 0; j < columns; ++j) sum[size_t(j)] += partial[size_t(b * columns + j)];
  return sum;
}

}  // namespace taper
