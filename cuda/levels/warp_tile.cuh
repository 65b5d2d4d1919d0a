// The tensor-core tile that levels 4 and 5 share: 128 x 128 of c by four warps, from operands in shared memory.
//
// A step of 64 along K of one operand is 16 KB, in chunks of 8 numbers. Where k runs along the operand's rows in memory
// it lies as [128][64], where k runs across them as [64][128]: as it came, never transposed; ldmatrix turns 8x8 pieces
// on the way to registers. The chunk's place in its row is xored with the row, so that the eight rows ldmatrix asks for
// at once, which are 128 or 256 bytes apart, are in eight different groups of banks.
#pragma once
#include "cuda/mma.cuh"
#include "cuda/vector.cuh"

namespace taper::cuda {

struct WarpTile {
  static constexpr int threads = 128, tile = 128, depth = 64, size = tile * depth;

  template <bool across>  // does k run across the operand's rows?
  struct Step {
    static constexpr int rows = across ? depth : tile, chunks = (across ? tile : depth) / 8,
                         each = rows * chunks / threads;
    __device__ static int place(int row, int chunk) { return (row * chunks + (chunk ^ (row & 7))) * 8; }
  };

  float r_c[4][8][4] = {};  // of a warp: 64 x 64 in pieces of 16 x 8
  const int lane = int(threadIdx.x) % 32, m = int(threadIdx.x) / 64 * 64, n = int(threadIdx.x) / 32 % 2 * 64;

  // r_c += the step's products. The next 16 of k come to registers while these are multiplied.
  template <bool across_a, bool across_b>
  __device__ void add(const bf16* s_a, const bf16* s_b) {
    const int row16 = lane % 16, chunk16 = lane / 16;                  // where the first 8x8 pieces follow along rows
    const int row8 = lane % 8 + lane / 16 * 8, chunk8 = lane / 8 % 2;  // where they follow along a row
    uint32_t r_a[2][4][4], r_b[2][4][4];
    auto fetch = [&](int k, uint32_t(&r_a)[4][4], uint32_t(&r_b)[4][4]) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (across_a) ldmatrix_x4_trans(r_a[i], s_a + Step<true>::place(k + row8, (m + i * 16) / 8 + chunk8));
        else ldmatrix_x4(r_a[i], s_a + Step<false>::place(m + i * 16 + row16, k / 8 + chunk16));
        if constexpr (across_b)
          ldmatrix_x4_trans(r_b[i], s_b + Step<true>::place(k + row16, (n + i * 16) / 8 + chunk16));
        else ldmatrix_x4(r_b[i], s_b + Step<false>::place(n + i * 16 + row8, k / 8 + chunk8));
      }
    };
    fetch(0, r_a[0], r_b[0]);
#pragma unroll
    for (int k = 0; k < depth / 16; ++k) {
      if (k + 1 < depth / 16) fetch((k + 1) * 16, r_a[(k + 1) % 2], r_b[(k + 1) % 2]);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j)
          mma_bf16(r_c[i][j], r_a[k % 2][i], {r_b[k % 2][j / 2][j % 2 * 2], r_b[k % 2][j / 2][j % 2 * 2 + 1]});
    }
  }

  // To rows m0.. and columns n0.. of g_c [M,N], added to those of g_added, if any; two at a time where pairs are aligned.
  template <class C>
  __device__ void store(C* g_c, const C* g_added, int64_t m0, int64_t n0, int64_t M, int64_t N, bool pairs) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t row = m0 + m + i * 16 + half * 8 + lane / 4;
        if (row >= M) continue;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const int64_t column = n0 + n + j * 8 + lane % 4 * 2;
          C* c = g_c + row * N + column;
          const C* added = g_added ? g_added + row * N + column : nullptr;
          const float x = r_c[i][j][half * 2], y = r_c[i][j][half * 2 + 1];
          if (pairs && column < N) {
            const Vector<C, 2> old = added ? *reinterpret_cast<const Vector<C, 2>*>(added) : Vector<C, 2>{};
            *reinterpret_cast<Vector<C, 2>*>(c) =
                added ? Vector<C, 2>{C(float(old.at[0]) + x), C(float(old.at[1]) + y)} : Vector<C, 2>{C(x), C(y)};
          } else {
            if (column < N) c[0] = C(added ? float(added[0]) + x : x);
            if (column + 1 < N) c[1] = C(added ? float(added[1]) + y : y);
          }
        }
      }
  }
};

}  // namespace taper::cuda
