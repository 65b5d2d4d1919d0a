// matmul, level 5: the copies of later steps are under way while the tensor cores multiply this one.
//   plan     as level 4, with three steps in shared memory: cp.async fills two while one is multiplied; neighbouring
//            blocks take tiles of one band of c
//   grid     M/128 * N/128 blocks of 128, two on a multiprocessor
//   traffic  as level 4, from L2 for all but the first block of a band
//   limits   bf16, sums f32; addresses and rows of the operands whole 16 bytes: the shipped one where there is no wgmma
//   ceiling  mma.sync, about three fifths of what wgmma reaches on an H100: 16384 x 3352 x 768 in 0.2 ms
#include "cuda/launch.cuh"
#include "cuda/levels/matmul.h"
#include "cuda/levels/tile_order.cuh"
#include "cuda/levels/warp_tile.cuh"

namespace taper::cuda {
namespace {

constexpr int steps = 3, band = 16;  // in shared memory; rows of tiles
constexpr int shared_bytes = steps * 2 * WarpTile::size * int(sizeof(bf16));

// One operand, step by step along k: rows or columns i0... of c, zeros beyond the operand's ends. across: as in
// warp_tile.cuh.
template <bool across>
class Copies {
 public:
  __device__ Copies(const bf16* g_x, int64_t i0, int64_t rows, int64_t K, int64_t begin, int64_t end)
      : g_x_(g_x), hop_((across ? rows : K) * stride), step_(across ? WarpTile::depth * rows : WarpTile::depth) {
    const int row = int(threadIdx.x) / Step::chunks, chunk = int(threadIdx.x) % Step::chunks;
    at_ = (across ? begin + row : i0 + row) * (across ? rows : K) + (across ? i0 : begin) + chunk * 8;
    i_left_ = int(min(rows - i0, int64_t(WarpTile::tile))) - (across ? chunk * 8 : row);
    k_left_ = int(end - begin) - (across ? row : chunk * 8);
    place_ = Step::place(row, chunk);
  }
  __device__ void begin_next(bf16* s_x) {
#pragma unroll
    for (int j = 0; j < Step::each; ++j) {  // rows `stride` apart, a multiple of 8: each chunk's place in its row stays
      const bool present = across ? i_left_ > 0 && k_left_ > j * stride : i_left_ > j * stride && k_left_ > 0;
      copy_async(s_x + place_ + j * stride * Step::chunks * 8, g_x_ + (present ? at_ + j * hop_ : 0), present);
    }
    at_ += step_;
    k_left_ -= WarpTile::depth;
  }

 private:
  using Step = WarpTile::Step<across>;
  static constexpr int stride = WarpTile::threads / Step::chunks;
  const bf16* g_x_;
  const int64_t hop_, step_;
  int64_t at_;
  int i_left_, k_left_, place_;
};

template <class C, bool transpose_a, bool transpose_b>
__global__ __launch_bounds__(WarpTile::threads, 2) void pipelined_kernel(const bf16* g_a,  // [M,K] or [K,M]
                                                                         const bf16* g_b,  // [K,N] or [N,K]
                                                                         C* g_c,           // [pieces][M,N]
                                                                         const C* g_added,  // [M,N], or none
                                                                         int64_t M, int64_t N, int64_t K, int64_t piece,
                                                                         bool pairs) {
  extern __shared__ __align__(16) bf16 s_steps[];  // [steps][a, b][size]
  constexpr int64_t tile = WarpTile::tile, depth = WarpTile::depth;
  const TilePlace at = tile_place(int(blockIdx.x), int((M + tile - 1) / tile), int((N + tile - 1) / tile), band);
  const int64_t m0 = at.row * tile, n0 = at.column * tile, begin = blockIdx.y * piece, end = min(K, begin + piece);
  Copies<transpose_a> a(g_a, m0, M, K, begin, end);
  Copies<!transpose_b> b(g_b, n0, N, K, begin, end);
  auto fill = [&](int64_t k0, int slot) {
    if (k0 < end) {
      a.begin_next(s_steps + slot * 2 * WarpTile::size);
      b.begin_next(s_steps + (slot * 2 + 1) * WarpTile::size);
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
  c.store(g_c + blockIdx.y * M * N, g_added, m0, n0, M, N, pairs);
}

}  // namespace

bool matmul_pipelined_takes(const Product& p) {
  return p.operands == Dtype::bf16 && whole_a(p) && whole_b(p) && shared_bytes <= most_shared_memory();
}

void matmul_pipelined(const Product& p) {
  with_types<true>(p, [&]<class T, class C, bool transpose_a, bool transpose_b>() {
    constexpr int64_t tile = WarpTile::tile;
    const dim3 grid(blocks_for((p.M + tile - 1) / tile * ((p.N + tile - 1) / tile), 1), unsigned(p.pieces));
    const auto kernel = pipelined_kernel<C, transpose_a, transpose_b>;
    allow_shared(kernel, shared_bytes);
    C* c = static_cast<C*>(p.c);
    const C* added = static_cast<const C*>(p.added);
    kernel<<<grid, WarpTile::threads, shared_bytes, p.stream>>>(static_cast<const T*>(p.a), static_cast<const T*>(p.b),
                                                                c, added, p.M, p.N, p.K, p.piece(),
                                                                vector_fits<C>(2, p.N, {c, added}));
    cuda_check(cudaGetLastError());
  });
}

}  // namespace taper::cuda
