// gemm: the fixed tile grid, and the blocked product that stands in where no CBLAS is.
#include "tensor/gemm.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "tensor/parallel.h"
#include "tensor/profile.h"
#include "tensor/raise.h"

#if TAPER_CBLAS
#include <cblas.h>
#endif

namespace taper {
namespace {

constexpr int64_t tile_m = 256, tile_n = 512;  // large enough that a tile's packing is cheap

// The blocked product: panels of A and B are packed so that the inner loop reads memory in order;
// the inner loop keeps a rows x lanes block of C in registers: 6 vectors of 64 bytes, which is 6 of
// AVX-512's registers, or 12 of AVX2's 16 and leaves room for the operands.
template <class T>
struct Block {
  static constexpr int64_t lanes = 64 / int64_t(sizeof(T));
  static constexpr int64_t rows = 6, depth = 256, tall = 120, wide = 512;
};

template <class T>
void micro(int64_t k, const T* a, const T* b, T* c /* [rows,lanes] */) {
  using B = Block<T>;
  typedef T Vector __attribute__((vector_size(64)));
  Vector sum[B::rows] = {};
  for (int64_t p = 0; p < k; ++p) {
    Vector row;
    std::memcpy(&row, b + p * B::lanes, sizeof row);
    for (int64_t i = 0; i < B::rows; ++i) sum[i] += a[p * B::rows + i] * row;
  }
  std::memcpy(c, sum, sizeof sum);
}

template <class T>
void scale_c(const Gemm<T>& g) {
  for (int64_t i = 0; i < g.m; ++i)
    for (int64_t j = 0; j < g.n; ++j) {
      T& c = g.c[i * g.ldc + j];
      c = g.beta == 0 ? T(0) : c * g.beta;
    }
}

template <class T>
void blocked(const Gemm<T>& g) {
  using B = Block<T>;
  scale_c(g);
  const auto padded = [](int64_t n, int64_t step) { return (n + step - 1) / step * step; };
  const int64_t depth = std::min(g.k, B::depth);  // a small product takes small panels
  std::vector<T> pa(size_t(padded(std::min(g.m, B::tall), B::rows) * depth));
  std::vector<T> pb(size_t(padded(std::min(g.n, B::wide), B::lanes) * depth));
  T block[B::rows * B::lanes];
  for (int64_t p0 = 0; p0 < g.k; p0 += B::depth) {
    const int64_t k = std::min(B::depth, g.k - p0);
    for (int64_t j0 = 0; j0 < g.n; j0 += B::wide) {
      const int64_t n = std::min(B::wide, g.n - j0);
      for (int64_t j = 0; j < n; j += B::lanes)  // pb: [panel][k][lanes], zero beyond n
        for (int64_t p = 0; p < k; ++p)
          for (int64_t l = 0; l < B::lanes; ++l) {
            const int64_t row = p0 + p, col = j0 + j + l;
            pb[size_t(j * k + p * B::lanes + l)] =
                j + l < n ? g.b[g.transpose_b ? col * g.ldb + row : row * g.ldb + col] : T(0);
          }
      for (int64_t i0 = 0; i0 < g.m; i0 += B::tall) {
        const int64_t m = std::min(B::tall, g.m - i0);
        for (int64_t i = 0; i < m; i += B::rows)
          for (int64_t p = 0; p < k; ++p)
            for (int64_t r = 0; r < B::rows; ++r) {
              const int64_t row = i0 + i + r, col = p0 + p;
              pa[size_t(i * k + p * B::rows + r)] =
                  i + r < m ? g.a[g.transpose_a ? col * g.lda + row : row * g.lda + col] : T(0);
            }
        for (int64_t j = 0; j < n; j += B::lanes)
          for (int64_t i = 0; i < m; i += B::rows) {
            micro(k, &pa[size_t(i * k)], &pb[size_t(j * k)], block);
            for (int64_t r = 0; r < std::min(B::rows, m - i); ++r)
              for (int64_t l = 0; l < std::min(B::lanes, n - j); ++l)
                g.c[(i0 + i + r) * g.ldc + j0 + j + l] += g.alpha * block[r * B::lanes + l];
          }
      }
    }
  }
}

#if TAPER_CBLAS
// An OpenBLAS built without threads does not lock its buffers: calls side by side spoil each other's
// products. One with threads locks them, and is told here to keep to the calling thread.
bool cblas_usable() {
  static const bool usable = openblas_get_parallel() != 0 && (openblas_set_num_threads(1), true);
  return usable;
}
void one_tile(const Gemm<float>& g) {
  if (!cblas_usable()) return blocked(g);
  cblas_sgemm(CblasRowMajor, g.transpose_a ? CblasTrans : CblasNoTrans, g.transpose_b ? CblasTrans : CblasNoTrans,
              int(g.m), int(g.n), int(g.k), g.alpha, g.a, int(g.lda), g.b, int(g.ldb), g.beta, g.c, int(g.ldc));
}
void one_tile(const Gemm<double>& g) {
  if (!cblas_usable()) return blocked(g);
  cblas_dgemm(CblasRowMajor, g.transpose_a ? CblasTrans : CblasNoTrans, g.transpose_b ? CblasTrans : CblasNoTrans,
              int(g.m), int(g.n), int(g.k), g.alpha, g.a, int(g.lda), g.b, int(g.ldb), g.beta, g.c, int(g.ldc));
}
#else
bool cblas_usable() { return false; }
template <class T>
void one_tile(const Gemm<T>& g) {
  blocked(g);
}
#endif

template <class T>
void timed_tile(const Gemm<T>& g) {
  if (!profiling) return one_tile(g);
  const auto begin = std::chrono::steady_clock::now();
  one_tile(g);
  profile_gemm(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
               2.0 * double(g.m) * double(g.n) * double(g.k));
}

template <class T>
void tiled(const Gemm<T>& g) {
  constexpr int64_t int_max = 0x7fffffff;  // CBLAS counts in int
  if (g.k > int_max || g.lda > int_max || g.ldb > int_max || g.ldc > int_max)
    raise("gemm: k and row lengths must be below 2^31");
  if (g.m == 0 || g.n == 0) return;
  if (g.k == 0) return scale_c(g);
  const int64_t columns = (g.n + tile_n - 1) / tile_n;
  parallel_for(gemm_tiles(g.m, g.n), 1, [&](int64_t first, int64_t last) {
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t i = tile / columns * tile_m, j = tile % columns * tile_n;
      Gemm<T> t = g;
      t.m = std::min(tile_m, g.m - i);
      t.n = std::min(tile_n, g.n - j);
      t.a = g.a + (g.transpose_a ? i : i * g.lda);
      t.b = g.b + (g.transpose_b ? j * g.ldb : j);
      t.c = g.c + i * g.ldc + j;
      timed_tile(t);
    }
  });
}

}  // namespace

void gemm(const Gemm<float>& g) { tiled(g); }
void gemm(const Gemm<double>& g) { tiled(g); }
void gemm_blocked(const Gemm<float>& g) { blocked(g); }
void gemm_blocked(const Gemm<double>& g) { blocked(g); }

int64_t gemm_tiles(int64_t m, int64_t n) { return (m + tile_m - 1) / tile_m * ((n + tile_n - 1) / tile_n); }
int64_t gemm_packed_bytes(int64_t m, int64_t n, int64_t k, int64_t threads) {
  return std::min(threads, gemm_tiles(m, n)) * (std::min(m, tile_m) + std::min(n, tile_n)) * std::min<int64_t>(k, 384) * int64_t(sizeof(float));
}

const char* gemm_backend() { return cblas_usable() ? "cblas" : "blocked"; }

}  // namespace taper
