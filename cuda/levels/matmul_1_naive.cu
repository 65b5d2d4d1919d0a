// matmul, level 1: one thread per element of c.
//   plan     a thread walks a row of op(a) and a column of op(b) in global memory
//   grid     M*N/256 blocks of 256, neighbours along a row of c
//   traffic  2 K reads for each element of c; a warp shares its element of a, and what L1 keeps of both
//   limits   f32 f64 bf16; any shape
//   ceiling  loads issued: two for each multiplication, about 1 in 50 of the f32 rate
#include "cuda/launch.cuh"
#include "cuda/levels/matmul.h"

namespace taper::cuda {
namespace {

constexpr int threads = 256;

template <class T, class C, bool transpose_a, bool transpose_b>
__global__ void naive_kernel(const T* g_a,  // [M,K] or [K,M]
                             const T* g_b,  // [K,N] or [N,K]
                             C* g_c,        // [pieces][M,N]
                             const C* g_added,           // [M,N], or none
                             int64_t M, int64_t N, int64_t K, int64_t piece) {
  const int64_t i = thread_index();
  if (i >= M * N) return;
  const int64_t m = i / N, n = i % N, begin = blockIdx.y * piece, end = min(K, begin + piece);
  Acc<T> r_sum = 0;
  for (int64_t k = begin; k < end; ++k)
    r_sum += Acc<T>(g_a[transpose_a ? k * M + m : m * K + k]) * Acc<T>(g_b[transpose_b ? n * K + k : k * N + n]);
  g_c[blockIdx.y * M * N + i] = C(g_added ? Acc<T>(g_added[i]) + r_sum : r_sum);
}

}  // namespace

void matmul_naive(const Product& p) {
  with_types<false>(p, [&]<class T, class C, bool transpose_a, bool transpose_b>() {
    const dim3 grid(blocks_for(p.M * p.N, threads), unsigned(p.pieces));
    naive_kernel<T, C, transpose_a, transpose_b>
        <<<grid, threads, 0, p.stream>>>(static_cast<const T*>(p.a), static_cast<const T*>(p.b), static_cast<C*>(p.c),
                                         static_cast<const C*>(p.added), p.M, p.N, p.K, p.piece());
    cuda_check(cudaGetLastError());
  });
}

}  // namespace taper::cuda
