// matmul, level 2: a block fetches each tile of the operands once, into shared memory, for all its threads.
//   plan     a block owns 32 x 32 of c; along K it loads 32 x 32 of op(a) and of op(b), and each thread adds 32 products
//   grid     M/32 * N/32 blocks of 1024
//   traffic  each operand is read once for every 32 rows or columns of c: a thirty-second of level 1
//   limits   f32 f64 bf16; any shape
//   ceiling  shared memory: two reads for each multiplication
#include "cuda/launch.cuh"
#include "cuda/levels/matmul.h"

namespace taper::cuda {
namespace {

constexpr int tile = 32;

template <class T, class C, bool transpose_a, bool transpose_b>
__global__ __launch_bounds__(tile* tile) void shared_tiles_kernel(const T* g_a,  // [M,K] or [K,M]
                                                                  const T* g_b,  // [K,N] or [N,K]
                                                                  C* g_c,        // [pieces][M,N]
                                                                  const C* g_added,  // [M,N], or none
                                                                  int64_t M, int64_t N, int64_t K, int64_t piece) {
  using A = Acc<T>;
  __shared__ A s_a[tile][tile + 1];  // [m][k]; the odd row length spreads a column over all banks
  __shared__ A s_b[tile][tile + 1];  // [k][n]
  const int x = int(threadIdx.x) % tile, y = int(threadIdx.x) / tile;  // x runs along what lies together in memory
  const int64_t columns = (N + tile - 1) / tile, m0 = blockIdx.x / columns * tile, n0 = blockIdx.x % columns * tile;
  const int64_t begin = blockIdx.y * piece, end = min(K, begin + piece);
  A r_sum = 0;
  for (int64_t k0 = begin; k0 < end; k0 += tile) {
    if constexpr (transpose_a) s_a[x][y] = m0 + x < M && k0 + y < end ? A(g_a[(k0 + y) * M + m0 + x]) : A(0);
    else s_a[y][x] = m0 + y < M && k0 + x < end ? A(g_a[(m0 + y) * K + k0 + x]) : A(0);
    if constexpr (transpose_b) s_b[x][y] = n0 + y < N && k0 + x < end ? A(g_b[(n0 + y) * K + k0 + x]) : A(0);
    else s_b[y][x] = n0 + x < N && k0 + y < end ? A(g_b[(k0 + y) * N + n0 + x]) : A(0);
    __syncthreads();
    for (int k = 0; k < tile; ++k) r_sum += s_a[y][k] * s_b[k][x];
    __syncthreads();
  }
  if (m0 + y >= M || n0 + x >= N) return;
  const int64_t i = (m0 + y) * N + n0 + x;
  g_c[blockIdx.y * M * N + i] = C(g_added ? A(g_added[i]) + r_sum : r_sum);
}

}  // namespace

void matmul_shared_tiles(const Product& p) {
  with_types<false>(p, [&]<class T, class C, bool transpose_a, bool transpose_b>() {
    const dim3 grid(blocks_for((p.M + tile - 1) / tile * ((p.N + tile - 1) / tile), 1), unsigned(p.pieces));
    shared_tiles_kernel<T, C, transpose_a, transpose_b>
        <<<grid, tile * tile, 0, p.stream>>>(static_cast<const T*>(p.a), static_cast<const T*>(p.b),
                                             static_cast<C*>(p.c), static_cast<const C*>(p.added), p.M, p.N, p.K, p.piece());
    cuda_check(cudaGetLastError());
  });
}

}  // namespace taper::cuda
