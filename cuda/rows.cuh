// Rows held in registers: how a block lies over them, the vectors of a thread, sums along a row.
//
// A row is `groups` stretches of `vectors` 16-byte vectors each; a norm's sums run along a group. threadIdx is (lane,
// group, row of the block). Lane l holds vectors l, l + lanes, ... of its group: at most n, the template argument.
#pragma once
#include "cuda/launch.cuh"
#include "cuda/pack.cuh"

namespace taper::cuda {

constexpr int row_threads = 256, row_warps = row_threads / 32;  // of a block, at most

struct RowPlan {
  int n = 0;  // 0: such rows are not held in registers
  int vectors = 0;
  dim3 block = {};  // (lanes, groups, rows); lanes: a power of two up to 32, or whole warps

  explicit operator bool() const { return n > 0; }
  unsigned blocks(int64_t rows) const { return blocks_for(rows, int(block.z)); }
};

// The plan that leaves the fewest threads without work, in one warp where it can be: then no barrier is needed. `most`:
// vectors of a thread, 4 or less; with sums over rows kept too, 3 are what fits into registers.
template <class T>
RowPlan plan_rows(int64_t width, int64_t groups, int most) {
  const int64_t vectors = width / (16 / int64_t(sizeof(T)));
  RowPlan best;
  int64_t least = 0;
  for (int n = 1; n <= most; ++n) {
    int64_t lanes = (vectors + n - 1) / n;
    if (lanes > 32) lanes = (lanes + 31) / 32 * 32;
    else lanes = int64_t(std::bit_ceil(uint64_t(lanes)));
    if (lanes > row_threads || lanes * groups > row_threads) continue;
    const int64_t idle = lanes * n - vectors;
    if (best && (idle > least || (idle == least && best.block.x <= 32))) continue;
    const int64_t rows = std::min<int64_t>(64, row_threads / (lanes * groups));  // 64: the most that z may be
    best = {n, int(vectors), dim3(unsigned(lanes), unsigned(groups), unsigned(rows))};
    least = idle;
  }
  return best;
}

// visit_row_vectors<most>(plan.n, [&]<int n>() { ... })
template <int most, class F>
void visit_row_vectors(int n, F&& f) {
  if (n == most) f.template operator()<most>();
  else if constexpr (most > 1) visit_row_vectors<most - 1>(n, f);
}

// Vector i of this thread, in the group; inside the group if below `vectors`.
__device__ inline int row_vector(int i) { return i * int(blockDim.x) + int(threadIdx.x); }

// Vector i of this thread, or zeros where the group has ended or is not `present`.
template <class T, int width>
__device__ Packed<T, width> load_row_vector(const T* g_group, int i, int vectors, bool present) {
  return present && row_vector(i) < vectors ? load_packed<T, width>(g_group + row_vector(i) * width)
                                            : Packed<T, width>{};
}

// All that a thread holds of a group.
template <class T, int n, int width>
struct RowPart {
  Packed<T, width> at[n];

  __device__ void load(const T* g_group, int vectors, bool present) {
#pragma unroll
    for (int i = 0; i < n; ++i) at[i] = load_row_vector<T, width>(g_group, i, vectors, present);
  }
  __device__ void get(int i, Acc<T> (&r)[width]) const { unpack<T>(at[i], r); }
};

// Writes vector i of this thread.
template <class T, int width>
__device__ void store_row_vector(T* g_group, int i, const Acc<T> (&r)[width], int vectors, bool present) {
  if (present && row_vector(i) < vectors) store_packed<T, width>(g_group + row_vector(i) * width, pack<T>(r));
}

// The sum of x along the group, the same bits to each of its threads. Every thread of the block calls it. s_warp may be
// used again once a call with another s_warp lies between.
template <class A>
__device__ A row_sum(A x, A (&s_warp)[row_warps]) {
  const int lanes = int(blockDim.x);
  for (int far = min(lanes, 32) / 2; far > 0; far /= 2) x += __shfl_xor_sync(0xffffffffu, x, far);
  if (lanes <= 32) return x;
  const int warps = lanes / 32, first = int(threadIdx.y + blockDim.y * threadIdx.z) * warps;
  if (threadIdx.x % 32 == 0) s_warp[first + int(threadIdx.x) / 32] = x;
  __syncthreads();
  x = 0;
  for (int w = 0; w < warps; ++w) x += s_warp[first + w];
  return x;
}

// The sum of x over a warp, the same bits to each lane.
template <class A>
__device__ A warp_sum(A x) {
  for (int far = 16; far > 0; far /= 2) x += __shfl_xor_sync(0xffffffffu, x, far);
  return x;
}

// Column sums of a block: r added over its rows in their order, written to g_sum [groups * vectors * width]. s_sum may
// be used again at once.
template <class A, int n, int width>
__device__ void store_column_sums(const A (&r)[n][width], A (&s_sum)[row_threads * n * width], A* g_sum, int vectors) {
  const int columns = int(blockDim.y) * vectors;  // vectors of a row
  auto* s_vector = reinterpret_cast<Vector<A, width>*>(s_sum);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < n; ++i)
    if (row_vector(i) < vectors) {
      Vector<A, width>& to = s_vector[int(threadIdx.z) * columns + int(threadIdx.y) * vectors + row_vector(i)];
#pragma unroll
      for (int k = 0; k < width; ++k) to.at[k] = r[i][k];
    }
  __syncthreads();
  const int threads = int(blockDim.x * blockDim.y * blockDim.z);
  const int thread = int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  for (int j = thread; j < columns * width; j += threads) {
    A sum = s_sum[j];
    for (int row = 1; row < int(blockDim.z); ++row) sum += s_sum[row * columns * width + j];
    g_sum[j] = sum;
  }
}

}  // namespace taper::cuda
