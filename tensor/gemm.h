// gemm: the one entry for matrix products on the CPU.
//
//   C[M,N] = beta*C + alpha * op(A) op(B)      op(X) = X or its transpose; row-major; f32 or f64
//
// lda, ldb, ldc are the row lengths of the stored matrices. beta = 0 never reads C. C is cut into
// fixed tiles (the cut depends on M and N alone), each computed by one thread: with CBLAS where the
// build has it, else by a blocked product of our own. The bits depend on the machine type, never on
// the number of threads.
#pragma once
#include <cstdint>

namespace taper {

template <class T>
struct Gemm {
  bool transpose_a = false, transpose_b = false;
  int64_t m = 0, n = 0, k = 0;
  const T* a = nullptr;
  int64_t lda = 0;
  const T* b = nullptr;
  int64_t ldb = 0;
  T* c = nullptr;
  int64_t ldc = 0;
  T alpha = 1, beta = 0;
};

void gemm(const Gemm<float>& g);
void gemm(const Gemm<double>& g);

// The product of our own, whole and on one thread: for tests, and the fallback's tile.
void gemm_blocked(const Gemm<float>& g);
void gemm_blocked(const Gemm<double>& g);

// For predictions of memory: the tiles of a C [m,n], which is how many threads it can keep at work, and the bytes that so
// many of these as a product has work for pack operands into (f32; of the depth that CBLAS packs at a time, 384 or near it).
int64_t gemm_tiles(int64_t m, int64_t n);
int64_t gemm_packed_bytes(int64_t m, int64_t n, int64_t k, int64_t threads);

const char* gemm_backend();  // "cblas" or "blocked"

}  // namespace taper
