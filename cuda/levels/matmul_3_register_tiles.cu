// matmul, level 3: a thread owns a square of c in registers, and each number it fetches serves a row or a column of it.
//   plan     a block of 16 x 16 threads owns 128 x 128 of c (f64: 64 x 64), a thread 8 x 8 (f64: 4 x 4); along K in
//            steps of 8, the next step's numbers travel to registers while this step's, in shared memory, are multiplied
//   grid     M/128 * N/128 blocks of 256
//   traffic  each operand is read once for every 128 rows or columns of c; from shared memory 16 numbers for 64
//            multiplications
//   limits   f32 f64 bf16; any shape; sums in f32 (f64), in the order of k
//   ceiling  multiply-add issue: 67 TFLOP/s in f32; 16384 x 3352 x 768 takes 1.3 ms at best
#include "cuda/launch.cuh"
#include "cuda/levels/matmul.h"
#include "cuda/vector.cuh"

namespace taper::cuda {
namespace {

constexpr int side = 16, threads = side * side, depth = 8;  // threads along m and along n; the step along k

// A thread's: `own` x `own` elements, in vectors of `n` that neighbours interleave, so that no bank is hit twice.
template <class A>
struct Square {
  static constexpr int n = 16 / int(sizeof(A)), own = sizeof(A) == 8 ? 4 : 8, tile = side * own;
  static constexpr int row = tile + n;  // of shared memory
  __device__ static int place(int thread, int i) { return i / n * (side * n) + thread * n + i % n; }
};

// One operand, step by step along k: [tile] rows or columns of c by [depth], on the way through registers to s_x
// [depth][row]. across: k runs across the rows of g_x, else along them. Neighbouring threads take what lies together.
template <class T, bool across>
class Steps {
 public:
  using A = Acc<T>;
  using S = Square<A>;

  __device__ Steps(const T* g_x, int64_t i0, int64_t rows, int64_t K, int64_t begin, int64_t end)
      : hop_((across ? rows : K) * stride), step_(across ? depth * rows : depth) {
    const int at = int(threadIdx.x);
    i_ = across ? at % S::tile : at / depth;
    k_ = across ? at / S::tile : at % depth;
    g_x_ = g_x + (across ? (begin + k_) * rows + i0 + i_ : (i0 + i_) * K + begin + k_);
    i_left_ = int(min(rows - i0, int64_t(S::tile))) - i_;
    k_left_ = int(end - begin) - k_;
  }
  __device__ void load() {  // the next step
#pragma unroll
    for (int j = 0; j < each; ++j) {
      const bool inside = across ? i_left_ > 0 && k_left_ > j * stride : i_left_ > j * stride && k_left_ > 0;
      r_x_[j] = inside ? A(g_x_[j * hop_]) : A(0);
    }
    g_x_ += step_;
    k_left_ -= depth;
  }
  __device__ void store(A (*s_x)[S::row]) const {
#pragma unroll
    for (int j = 0; j < each; ++j) s_x[across ? k_ + j * stride : k_][across ? i_ : i_ + j * stride] = r_x_[j];
  }

 private:
  static constexpr int each = S::tile * depth / threads, stride = threads / (across ? S::tile : depth);
  const T* g_x_;
  const int64_t hop_, step_;
  int i_, k_, i_left_, k_left_;
  A r_x_[each];
};

template <class T, class C, bool transpose_a, bool transpose_b>
__global__ __launch_bounds__(threads, 2) void register_tiles_kernel(const T* g_a,  // [M,K] or [K,M]
                                                                    const T* g_b,  // [K,N] or [N,K]
                                                                    C* g_c,        // [pieces][M,N]
                                                                    const C* g_added,  // [M,N], or none
                                                                    int64_t M, int64_t N, int64_t K, int64_t piece) {
  using A = Acc<T>;
  using S = Square<A>;
  using V = Vector<A>;
  __shared__ __align__(16) A s_a[depth][S::row];
  __shared__ __align__(16) A s_b[depth][S::row];
  const int x = int(threadIdx.x) % side, y = int(threadIdx.x) / side;
  const int64_t columns = (N + S::tile - 1) / S::tile, m0 = blockIdx.x / columns * S::tile,
                n0 = blockIdx.x % columns * S::tile;
  const int64_t begin = blockIdx.y * piece, end = min(K, begin + piece);
  Steps<T, transpose_a> a(g_a, m0, M, K, begin, end);
  Steps<T, !transpose_b> b(g_b, n0, N, K, begin, end);
  A r_c[S::own][S::own] = {};
  a.load();
  b.load();
  for (int64_t k0 = begin; k0 < end; k0 += depth) {
    __syncthreads();
    a.store(s_a);
    b.store(s_b);
    __syncthreads();
    if (k0 + depth < end) {
      a.load();
      b.load();
    }
#pragma unroll
    for (int k = 0; k < depth; ++k) {
      V r_a[S::own / S::n], r_b[S::own / S::n];
#pragma unroll
      for (int v = 0; v < S::own / S::n; ++v) {
        r_a[v] = *reinterpret_cast<const V*>(&s_a[k][S::place(y, v * S::n)]);
        r_b[v] = *reinterpret_cast<const V*>(&s_b[k][S::place(x, v * S::n)]);
      }
#pragma unroll
      for (int i = 0; i < S::own; ++i)
#pragma unroll
        for (int j = 0; j < S::own; ++j) r_c[i][j] += r_a[i / S::n].at[i % S::n] * r_b[j / S::n].at[j % S::n];
    }
  }
  g_c += blockIdx.y * M * N;
#pragma unroll
  for (int i = 0; i < S::own; ++i)
#pragma unroll
    for (int j = 0; j < S::own; ++j) {
      const int64_t m = m0 + S::place(y, i), n = n0 + S::place(x, j);
      if (m >= M || n >= N) continue;
      g_c[m * N + n] = C(g_added ? A(g_added[m * N + n]) + r_c[i][j] : r_c[i][j]);
    }
}

}  // namespace

void matmul_register_tiles(const Product& p) {
  with_types<false>(p, [&]<class T, class C, bool transpose_a, bool transpose_b>() {
    constexpr int64_t tile = Square<Acc<T>>::tile;
    const dim3 grid(blocks_for((p.M + tile - 1) / tile * ((p.N + tile - 1) / tile), 1), unsigned(p.pieces));
    register_tiles_kernel<T, C, transpose_a, transpose_b>
        <<<grid, threads, 0, p.stream>>>(static_cast<const T*>(p.a), static_cast<const T*>(p.b), static_cast<C*>(p.c),
                                         static_cast<const C*>(p.added), p.M, p.N, p.K, p.piece());
    cuda_check(cudaGetLastError());
  });
}

}  // namespace taper::cuda
