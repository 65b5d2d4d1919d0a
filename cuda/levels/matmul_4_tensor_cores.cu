// matmul, level 4: tensor cores multiply 16 x 8 x 16 in one instruction of a warp.
//   plan     a block of four warps owns 128 x 128 of c, a warp 64 x 64; along K in steps of 64, whose operands go
//            through registers to shared memory and wait there for each other
//   grid     M/128 * N/128 blocks of 128
//   traffic  each operand is read once for every 128 rows or columns of c; from shared memory 16 KB for 128 instructions
//   limits   bf16, sums f32; any shape and alignment: the shipped one where an operand's rows are not whole 16 bytes
//   ceiling  latency: copying and multiplying take turns
#include "cuda/launch.cuh"
#include "cuda/levels/matmul.h"
#include "cuda/levels/warp_tile.cuh"

namespace taper::cuda {
namespace {

// Rows i0.. and inner indices k0.. of an operand, zeros beyond its ends. whole: 16 bytes may move at once.
template <bool across>
__device__ void fetch(bf16* s_x, const bf16* g_x, int64_t i0, int64_t k0, int64_t rows, int64_t K, int64_t end,
                      bool whole) {
  using Step = WarpTile::Step<across>;
  const int64_t outer_end = across ? end : rows, inner_end = across ? rows : end, length = across ? rows : K;
#pragma unroll 4
  for (int j = 0; j < Step::each; ++j) {
    const int at = j * WarpTile::threads + int(threadIdx.x), row = at / Step::chunks, chunk = at % Step::chunks;
    const int64_t outer = (across ? k0 : i0) + row, inner = (across ? i0 : k0) + chunk * 8;
    const bf16* from = g_x + outer * length + inner;
    Vector<bf16> r{};
    if (outer < outer_end && inner < inner_end) {
      if (whole) r = *reinterpret_cast<const Vector<bf16>*>(from);
      else
#pragma unroll
        for (int e = 0; e < 8; ++e)
          if (inner + e < inner_end) r.at[e] = from[e];
    }
    *reinterpret_cast<Vector<bf16>*>(s_x + Step::place(row, chunk)) = r;
  }
}

template <class C, bool transpose_a, bool transpose_b>
__global__ __launch_bounds__(WarpTile::threads) void tensor_cores_kernel(const bf16* g_a,  // [M,K] or [K,M]
                                                                         const bf16* g_b,  // [K,N] or [N,K]
                                                                         C* g_c,           // [pieces][M,N]
                                                                         const C* g_added,  // [M,N], or none
                                                                         int64_t M, int64_t N, int64_t K, int64_t piece,
                                                                         bool whole_a, bool whole_b, bool pairs) {
  __shared__ __align__(16) bf16 s_a[WarpTile::size];
  __shared__ __align__(16) bf16 s_b[WarpTile::size];
  constexpr int64_t tile = WarpTile::tile;
  const int64_t columns = (N + tile - 1) / tile, m0 = blockIdx.x / columns * tile, n0 = blockIdx.x % columns * tile;
  const int64_t begin = blockIdx.y * piece, end = min(K, begin + piece);
  WarpTile c;
  for (int64_t k0 = begin; k0 < end; k0 += WarpTile::depth) {
    fetch<transpose_a>(s_a, g_a, m0, k0, M, K, end, whole_a);
    fetch<!transpose_b>(s_b, g_b, n0, k0, N, K, end, whole_b);
    __syncthreads();
    c.add<transpose_a, !transpose_b>(s_a, s_b);
    __syncthreads();
  }
  c.store(g_c + blockIdx.y * M * N, g_added, m0, n0, M, N, pairs);
}

}  // namespace

void matmul_tensor_cores(const Product& p) {
  with_types<true>(p, [&]<class T, class C, bool transpose_a, bool transpose_b>() {
    constexpr int64_t tile = WarpTile::tile;
    const dim3 grid(blocks_for((p.M + tile - 1) / tile * ((p.N + tile - 1) / tile), 1), unsigned(p.pieces));
    C* c = static_cast<C*>(p.c);
    const C* added = static_cast<const C*>(p.added);
    tensor_cores_kernel<C, transpose_a, transpose_b><<<grid, WarpTile::threads, 0, p.stream>>>(
        static_cast<const T*>(p.a), static_cast<const T*>(p.b), c, added, p.M, p.N, p.K, p.piece(), whole_a(p),
        whole_b(p), vector_fits<C>(2, p.N, {c, added}));
    cuda_check(cudaGetLastError());
  });
}

}  // namespace taper::cuda
