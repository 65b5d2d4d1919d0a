// matmul, level 5: the copies of later steps are under way while the tensor cores multiply this one.
//   plan     as level 4, with three steps in shared memory: cp.async fills two while one is multiplied; neighbouring
//   blocks
//            take tiles of one band of c
//   grid     M/128 * N/128 blocks of 128, two on a multiprocessor
//   traffic  as level 4, from L2 for all but the first block of a band
//   limits   bf16, sums f32; addresses and rows of whole 16 bytes: the shipped one where there is no wgmma
//   ceiling  mma.sync, about three fifths of what wgmma reaches on an H100: 16384 x 3352 x 768 in 0.2 ms
#include "cuda/launch.cuh"
#include "cuda/levels/matmul.h"
#include "cuda/levels/tile_order.cuh"
#include "cuda/levels/warp_tile.cuh"

namespace taper::cuda {
namespace {

constexpr int steps = 3, band = 16;  // in shared memory; rows of tiles
constexpr int shared_bytes = steps * 2 * WarpTile::size * int(sizeof(bf16));

// Begins the copy of rows i0.. and inner indices k0.. of an operand, zeros beyond its ends.
template <bool across>
__device__ void begin_copy(bf16* s_x, const bf16* g_x, int64_t i0, int64_t k0, int64_t rows, int64_t K, int64_t end) {
  using Step = WarpTile::Step<across>;
  const int64_t outer_end = across ? end : rows, inner_end = across ? rows : end, length = across ? rows : K;
#pragma unroll
  for (int j = 0; j < Step::each; ++j) {
    const int at = j * WarpTile::threads + int(threadIdx.x), row = at / Step::chunks, chunk = at % Step::chunks;
    const int64_t outer = (across ? k0 : i0) + row, inner = (across ? i0 : k0) + chunk * 8;
    const bool present = outer < outer_end && inner < inner_end;
    copy_async(s_x + Step::place(row, chunk), present ? g_x + outer * length + inner : g_x, present);
  }
}

template <class C, bool transpose_a, bool transpose_b>
__global__ __launch_bounds__(WarpTile::threads, 2) void pipelined_kernel(const bf16* g_a,  // [M,K] or [K,M]
                                                                         const bf16* g_b,  // [K,N] or [N,K]
                                                                         C* g_c,           // [pieces][M,N]
                                                                         int64_t M, int64_t N, int64_t K, int64_t piece,
                                                                         bool accumulate) {
  extern __shared__ __align__(16) bf16 s_steps[];  // [steps][a, b][size]
  constexpr int64_t tile = WarpTile::tile, depth = WarpTile::depth;
  const TilePlace at = tile_place(int(blockIdx.x), int((M + tile - 1) / tile), int((N + tile - 1) / tile), band);
  const int64_t m0 = at.row * tile, n0 = at.column * tile, begin = blockIdx.y * piece, end = min(K, begin + piece);
  auto fill = [&](int64_t k0, int slot) {
    if (k0 < end) {
      begin_copy<transpose_a>(s_steps + slot * 2 * WarpTile::size, g_a, m0, k0, M, K, end);
      begin_copy<!transpose_b>(s_steps + (slot * 2 + 1) * WarpTile::size, g_b, n0, k0, N, K, end);
    }
    copy_async_commit();  // empty at the end, so that the count of groups stays right
  };
  WarpTile c;
  for (int slot = 0; slot + 1 < steps; ++slot) fill(begin + slot * depth, slot);
  int slot = 0;
  for (int64_t k0 = begin; k0 < end; k0 += depth) {
    copy_async_wait<steps - 2>();
    __syncthreads();  // this step has come for all, and the one before it has been read by all: its slot is free
    fill(k0 + (steps - 1) * depth, slot == 0 ? steps - 1 : slot - 1);
    c.add<transpose_a, !transpose_b>(s_steps + slot * 2 * WarpTile::size, s_steps + (slot * 2 + 1) * WarpTile::size);
    slot = slot + 1 == steps ? 0 : slot + 1;
  }
  c.store(g_c + blockIdx.y * M * N, m0, n0, M, N, accumulate, true);
}

}  // namespace

bool matmul_pipelined_takes(const Product& p) { return p.operands == Dtype::bf16 && rows_of_16_bytes(p); }

void matmul_pipelined(const Product& p) {
  with_types<true>(p, [&]<class T, class C, bool transpose_a, bool transpose_b>() {
    constexpr int64_t tile = WarpTile::tile;
    const dim3 grid(blocks_for((p.M + tile - 1) / tile * ((p.N + tile - 1) / tile), 1), unsigned(p.pieces));
    const auto kernel = pipelined_kernel<C, transpose_a, transpose_b>;
    cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
    kernel<<<grid, WarpTile::threads, shared_bytes, p.stream>>>(static_cast<const T*>(p.a), static_cast<const T*>(p.b),
                                                                static_cast<C*>(p.c), p.M, p.N, p.K, p.piece(),
                                                                p.accumulate);
    cuda_check(cudaGetLastError());
  });
}

}  // namespace taper::cuda
