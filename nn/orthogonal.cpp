// Orthogonal: Cholesky-QR by blocks. One pass loses as many digits as the square of the condition number has; the
// second starts from a matrix that is nearly orthonormal and loses none.
#include "nn/orthogonal.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"
#include "tensor/gemm.h"
#include "tensor/parallel.h"

namespace taper {
namespace {

constexpr int64_t block = 64;  // rows and columns that one thread works on at a time; products are of these, so that all have work

// g [n,n] = a a^T, a [n,m]: its lower triangle, and what of the blocks on the diagonal lies above.
void gram(const std::vector<double>& a, std::vector<double>& g, int64_t n, int64_t m) {
  parallel_for(n, block, [&](int64_t first, int64_t last) {
    gemm({.transpose_b = true, .m = last - first, .n = last, .k = m, .a = &a[size_t(first * m)], .lda = m, .b = a.data(), .ldb = m,
          .c = &g[size_t(first * n)], .ldc = n});
  });
}

// Columns [first,last) of some rows of L, from the rows [first,last) above them. Several at a time: each element is a long
// chain of subtractions, which wait for one another.
template <int rows>
void substitute(double* row, const double* above, int64_t n, int64_t first, int64_t last) {
  for (int64_t j = first; j < last; ++j, above += n) {
    double x[rows];
    for (int r = 0; r < rows; ++r) x[r] = row[r * n + j];
    for (int64_t c = first; c < j; ++c)
      for (int r = 0; r < rows; ++r) x[r] -= row[r * n + c] * above[c];
    for (int r = 0; r < rows; ++r) row[r * n + j] = x[r] / above[j];
  }
}

// g [n,n], symmetric positive, its lower triangle given: that becomes L, lower triangular, with L L^T = g.
void cholesky(std::vector<double>& g, int64_t n) {
  for (int64_t k = 0; k < n; k += block) {
    const int64_t end = std::min(n, k + block);
    for (int64_t j = k; j < end; ++j) {
      substitute<1>(&g[size_t(j * n)], &g[size_t(k * n)], n, k, j);
      double* row = &g[size_t(j * n)];
      for (int64_t c = k; c < j; ++c) row[j] -= row[c] * row[c];
      check(row[j] > 0, "orthogonal: the matrix must be of full rank");
      row[j] = std::sqrt(row[j]);
    }
    parallel_for(n - end, 16, [&](int64_t begin, int64_t stop) {
      int64_t i = begin;
      for (; i + 8 <= stop; i += 8) substitute<8>(&g[size_t((end + i) * n)], &g[size_t(k * n)], n, k, end);
      for (; i < stop; ++i) substitute<1>(&g[size_t((end + i) * n)], &g[size_t(k * n)], n, k, end);
    });
    parallel_for(n - end, block, [&](int64_t begin, int64_t stop) {  // what is left, less the outer product of these columns
      gemm({.transpose_b = true, .m = stop - begin, .n = stop, .k = end - k, .a = &g[size_t((end + begin) * n + k)], .lda = n,
            .b = &g[size_t(end * n + k)], .ldb = n, .c = &g[size_t((end + begin) * n + end)], .ldc = n, .alpha = -1, .beta = 1});
    });
  }
}

// Rows of q [n,m] turn into those of L^-1 q: each column by itself.
void solve(const std::vector<double>& l, std::vector<double>& q, int64_t n, int64_t m) {
  parallel_for(m, block, [&](int64_t first, int64_t last) {
    for (int64_t k = 0; k < n; k += block) {
      const int64_t end = std::min(n, k + block);
      if (k)
        gemm({.m = end - k, .n = last - first, .k = k, .a = &l[size_t(k * n)], .lda = n, .b = &q[size_t(first)], .ldb = m,
              .c = &q[size_t(k * m + first)], .ldc = m, .alpha = -1, .beta = 1});
      for (int64_t i = k; i < end; ++i) {
        double* row = &q[size_t(i * m)];
        for (int64_t j = k; j < i; ++j) {
          const double by = l[size_t(i * n + j)], *above = &q[size_t(j * m)];
          for (int64_t c = first; c < last; ++c) row[c] -= by * above[c];
        }
        const double by = 1 / l[size_t(i * n + i)];
        for (int64_t c = first; c < last; ++c) row[c] *= by;
      }
    }
  });
}

void transpose(std::vector<double>& a, int64_t rows, int64_t columns) {
  std::vector<double> t(a.size());
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) t[size_t(j * rows + i)] = a[size_t(i * columns + j)];
  a = std::move(t);
}

}  // namespace

void orthogonalize(std::vector<double>& a, int64_t rows, int64_t columns) {
  const bool tall = rows > columns;
  if (tall) transpose(a, rows, columns);
  const int64_t n = std::min(rows, columns), m = std::max(rows, columns);  // a [n,m]: its rows become orthonormal
  std::vector<double> l(size_t(n * n));
  for (int pass = 0; pass < 2; ++pass) {
    gram(a, l, n, m);
    cholesky(l, n);
    solve(l, a, n, m);
  }
  if (tall) transpose(a, n, m);
}

}  // namespace taper
