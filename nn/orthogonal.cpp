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

constexpr int64_t block = 64;

// g [n,n], symmetric positive: becomes L, lower triangular, with L L^T = g. Above the diagonal: anything.
void cholesky(std::vector<double>& g, int64_t n) {
  for (int64_t k = 0; k < n; k += block) {
    const int64_t end = std::min(n, k + block);
    // A row of the block from those above it: its elements left of the diagonal, for all rows below the same.
    const auto substitute = [&](int64_t i) {
      double* row = &g[size_t(i * n)];
      for (int64_t j = k; j < std::min(i, end); ++j) {
        const double* above = &g[size_t(j * n)];
        for (int64_t c = k; c < j; ++c) row[j] -= row[c] * above[c];
        row[j] /= above[j];
      }
    };
    for (int64_t j = k; j < end; ++j) {
      substitute(j);
      double* row = &g[size_t(j * n)];
      for (int64_t c = k; c < j; ++c) row[j] -= row[c] * row[c];
      check(row[j] > 0, "orthogonal: the matrix must be of full rank");
      row[j] = std::sqrt(row[j]);
    }
    parallel_for(n - end, 16, [&](int64_t begin, int64_t stop) {
      for (int64_t i = begin; i < stop; ++i) substitute(end + i);
    });
    if (end < n)
      gemm({.transpose_b = true, .m = n - end, .n = n - end, .k = end - k, .a = &g[size_t(end * n + k)], .lda = n,
            .b = &g[size_t(end * n + k)], .ldb = n, .c = &g[size_t(end * n + end)], .ldc = n, .alpha = -1, .beta = 1});
  }
}

// Rows of q [n,m] turn into those of L^-1 q.
void solve(const std::vector<double>& l, std::vector<double>& q, int64_t n, int64_t m) {
  for (int64_t k = 0; k < n; k += block) {
    const int64_t end = std::min(n, k + block);
    if (k)
      gemm({.m = end - k, .n = m, .k = k, .a = &l[size_t(k * n)], .lda = n, .b = q.data(), .ldb = m, .c = &q[size_t(k * m)], .ldc = m,
            .alpha = -1, .beta = 1});
    parallel_for(m, 128, [&](int64_t first, int64_t last) {  // columns
      for (int64_t i = k; i < end; ++i) {
        double* row = &q[size_t(i * m)];
        for (int64_t j = k; j < i; ++j) {
          const double by = l[size_t(i * n + j)], *above = &q[size_t(j * m)];
          for (int64_t c = first; c < last; ++c) row[c] -= by * above[c];
        }
        const double by = 1 / l[size_t(i * n + i)];
        for (int64_t c = first; c < last; ++c) row[c] *= by;
      }
    });
  }
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
  std::vector<double> gram(size_t(n * n));
  for (int pass = 0; pass < 2; ++pass) {
    gemm({.transpose_b = true, .m = n, .n = n, .k = m, .a = a.data(), .lda = m, .b = a.data(), .ldb = m, .c = gram.data(), .ldc = n});
    cholesky(gram, n);
    solve(gram, a, n, m);
  }
  if (tall) transpose(a, n, m);
}

}  // namespace taper
