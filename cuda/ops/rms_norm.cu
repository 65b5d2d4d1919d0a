// rms_norm on CUDA: rows in registers, one warp (or some) each; the weight's gradient through sums of blocks.
//   grid     forward a block per 256 / lanes rows; backward 396 blocks (264 beside a stream of f32) that walk over rows; other widths a warp per row
//   traffic  forward reads x and added, writes the sum and y; backward reads the sum, d_y and d_s, writes d_x, and 2 % of it;
//            beside a stream of f32 it writes d_added too
//   limits   f32 f64 bf16, a stream of f32 beside bf16; fast where rows are whole 16-byte vectors (of the narrower), at most
//            768 of them; any row otherwise
//   ceiling  HBM bandwidth at 3 TB/s, 16384 rows of 768: bf16 17 us forward, 25 us backward; with added 34 us each way, where
//            add, norm and the sum of two gradients take 42 and 50; f32 beside bf16 50 and 67 us
#include "tensor/ops/rms_norm.h"

#include "cuda/sums.cuh"
#include "cuda/rows.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256;
constexpr int most_forward = 4, most_backward = 3;  // vectors of a thread

// Blocks of a multiprocessor, backward: a stream of f32 beside bf16 needs more registers.
template <class T, class U>
constexpr int resident = std::is_same_v<T, U> ? 3 : 2;

template <class T, class U>
struct Forward {  // T: of the stream, U: of what is added to it and of y
  using A = Acc<T>;
  const T* g_x;       // [rows,D]
  const U* g_added;   // [rows,D] or null
  const A* g_weight;  // [D]
  T* g_sum;           // [rows,D], with g_added
  U* g_y;             // [rows,D]
  A* g_r;             // [rows]
  double eps;
  int64_t rows, D;
};

template <class T, class U>
struct Backward {
  using A = Acc<T>;
  const T* g_s;              // [rows,D]
  const A *g_weight, *g_r;   // [D] [rows]
  const U* g_d_y;            // [rows,D]
  const T* g_d_s;            // [rows,D] or null
  T* g_d_x;                  // [rows,D] or null
  U* g_d_added;              // [rows,D] or null
  int64_t rows, D;
};

template <class T, class U, int n>
__global__ void __launch_bounds__(cuda::row_threads) rms_norm_forward_kernel(const Forward<T, U> a, int vectors) {
  using A = Acc<T>;
  constexpr int width = 16 / sizeof(U);
  __shared__ A s_warp[cuda::row_warps];
  const int64_t row = int64_t(blockIdx.x) * blockDim.z + threadIdx.z, at = row * a.D;
  const bool present = row < a.rows;
  cuda::RowPart<T, n, width> s;
  cuda::RowPart<A, n, width> w;
  s.load(a.g_x + at, vectors, present);
  if (a.g_added) {
    cuda::RowPart<U, n, width> added;
    added.load(a.g_added + at, vectors, present);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      A s_i[width], added_i[width];
      s.get(i, s_i);
      added.get(i, added_i);
#pragma unroll
      for (int k = 0; k < width; ++k) s_i[k] += added_i[k];
      s.at[i] = cuda::pack<T>(s_i);
      cuda::store_row_vector(a.g_sum + at, i, s_i, vectors, present);
    }
  }
  w.load(a.g_weight, vectors, true);
  A squares = 0;
#pragma unroll
  for (int i = 0; i < n; ++i) {
    A s_i[width];
    s.get(i, s_i);
#pragma unroll
    for (int k = 0; k < width; ++k) squares += s_i[k] * s_i[k];
  }
  const A r = 1 / sqrt(cuda::row_sum(squares, s_warp) / A(a.D) + A(a.eps));
#pragma unroll
  for (int i = 0; i < n; ++i) {
    A s_i[width], y[width];
    s.get(i, s_i);
#pragma unroll
    for (int k = 0; k < width; ++k) y[k] = s_i[k] * r * w.at[i].at[k];
    cuda::store_row_vector(a.g_y + at, i, y, vectors, present);
  }
  if (present && threadIdx.x == 0) a.g_r[row] = r;
}

template <class T, class U, int n>
__global__ void __launch_bounds__(cuda::row_threads, resident<T, U>)
    rms_norm_backward_kernel(const Backward<T, U> a,
                             Acc<T>* g_partial,  // [blocks,D] or null
                             int vectors) {
  using A = Acc<T>;
  constexpr int width = 16 / sizeof(U);
  __shared__ A s_warp[2][cuda::row_warps], s_sum[cuda::row_threads * n * width];
  A r_sum[n][width] = {};
  int turn = 0;
  for (int64_t first = int64_t(blockIdx.x) * blockDim.z; first < a.rows; first += int64_t(gridDim.x) * blockDim.z) {
    const int64_t row = first + threadIdx.z, at = row * a.D;
    const bool present = row < a.rows;
    cuda::RowPart<T, n, width> s;
    cuda::RowPart<U, n, width> d_y;
    s.load(a.g_s + at, vectors, present);
    d_y.load(a.g_d_y + at, vectors, present);
    const A r = present ? a.g_r[row] : A(0);
    A dot = 0;
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const auto w = cuda::load_row_vector<A, width>(a.g_weight, i, vectors, true);
      A s_i[width], d_i[width];
      s.get(i, s_i);
      d_y.get(i, d_i);
#pragma unroll
      for (int k = 0; k < width; ++k) dot += d_i[k] * w.at[k] * s_i[k];
    }
    cuda::RowPart<T, n, width> d_s;  // on its way while the sum is made
    d_s.load(a.g_d_s + at, vectors, present && a.g_d_s);
    const A pull = r * r * cuda::row_sum(dot, s_warp[turn ^= 1]) / A(a.D);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      // Once more, from the first cache: what the sum above was made of does not fit into registers.
      A s_i[width], d_i[width], d_x[width];
      cuda::unpack<T>(cuda::load_row_vector<T, width>(a.g_s + at, i, vectors, present), s_i);
      cuda::unpack<U>(cuda::load_row_vector<U, width>(a.g_d_y + at, i, vectors, present), d_i);
      d_s.get(i, d_x);
      const auto w = cuda::load_row_vector<A, width>(a.g_weight, i, vectors, true);
#pragma unroll
      for (int k = 0; k < width; ++k) {
        d_x[k] += r * (d_i[k] * w.at[k] - s_i[k] * pull);
        r_sum[i][k] += d_i[k] * r * s_i[k];
      }
      cuda::store_row_vector(a.g_d_x + at, i, d_x, vectors, present && a.g_d_x);
      if constexpr (!std::is_same_v<T, U>) cuda::store_row_vector(a.g_d_added + at, i, d_x, vectors, present && a.g_d_added);
    }
  }
  if (g_partial) cuda::store_column_sums(r_sum, s_sum, g_partial + blockIdx.x * a.D, vectors);
}

// Any width: a warp per row.
template <class T, class U>
__global__ void rms_norm_forward_plain_kernel(const Forward<T, U> a) {
  using A = Acc<T>;
  const int64_t row = cuda::thread_index() / 32, lane = threadIdx.x % 32, at = row * a.D;
  if (row >= a.rows) return;
  if (a.g_added)
    for (int64_t j = lane; j < a.D; j += 32) a.g_sum[at + j] = T(A(a.g_x[at + j]) + A(a.g_added[at + j]));
  const T* s = (a.g_added ? a.g_sum : a.g_x) + at;  // each lane reads what it wrote
  A squares = 0;
  for (int64_t j = lane; j < a.D; j += 32) squares += A(s[j]) * A(s[j]);
  const A r = 1 / sqrt(cuda::warp_sum(squares) / A(a.D) + A(a.eps));
  for (int64_t j = lane; j < a.D; j += 32) a.g_y[at + j] = U(A(s[j]) * r * a.g_weight[j]);
  if (lane == 0) a.g_r[row] = r;
}

template <class T, class U>
__global__ void rms_norm_backward_plain_kernel(const Backward<T, U> a) {
  using A = Acc<T>;
  const int64_t row = cuda::thread_index() / 32, lane = threadIdx.x % 32, at = row * a.D;
  if (row >= a.rows) return;
  const T* s = a.g_s + at;
  const U* d_y = a.g_d_y + at;
  const A r = a.g_r[row];
  A dot = 0;
  for (int64_t j = lane; j < a.D; j += 32) dot += A(d_y[j]) * a.g_weight[j] * A(s[j]);
  const A pull = r * r * cuda::warp_sum(dot) / A(a.D);
  for (int64_t j = lane; j < a.D; j += 32) {
    A d_x = r * (A(d_y[j]) * a.g_weight[j] - A(s[j]) * pull);
    if (a.g_d_s) d_x += A(a.g_d_s[at + j]);
    if (a.g_d_x) a.g_d_x[at + j] = T(d_x);
    if (a.g_d_added) a.g_d_added[at + j] = U(d_x);
  }
}

template <class T, class U>
struct WeightTerm {
  Backward<T, U> a;
  __device__ Acc<T> operator()(int64_t row, int64_t j) const {
    return Acc<T>(a.g_d_y[row * a.D + j]) * Acc<T>(a.g_s[row * a.D + j]) * a.g_r[row];
  }
};

// A row per group of threads, if pointers and width allow.
template <class T, class U>
cuda::RowPlan plan(int64_t D, int most, std::initializer_list<const T*> stream, std::initializer_list<const U*> beside,
                   const Acc<T>* weight) {
  constexpr int width = 16 / sizeof(U);
  const bool fits = cuda::vector_fits<T>(width, D, stream) && cuda::vector_fits<U>(width, D, beside) &&
                    cuda::vector_fits<Acc<T>>(width, D, {weight});
  return fits ? cuda::plan_rows<U>(D, 1, most) : cuda::RowPlan{};
}

void forward(const RmsNormForward& f) {
  visit_stream("rms_norm", f.x.dtype(), f.y.dtype(), [&]<class T, class U>() {
    using A = Acc<T>;
    const Forward<T, U> a{.g_x = f.x.data<T>(),
                          .g_added = cuda::data_or_null<U>(f.added),
                          .g_weight = f.weight.data<A>(),
                          .g_sum = cuda::data_or_null<T>(f.sum),
                          .g_y = f.y.data<U>(),
                          .g_r = f.r.data<A>(),
                          .eps = f.eps,
                          .rows = f.r.numel(),
                          .D = f.x.size(-1)};
    if (a.rows == 0) return;
    const cudaStream_t stream = cuda::stream_of(f.device());
    if (const cuda::RowPlan p = plan<T, U>(a.D, most_forward, {a.g_x, a.g_sum}, {a.g_added, a.g_y}, a.g_weight))
      cuda::visit_row_vectors<most_forward>(
          p.n, [&]<int n>() { rms_norm_forward_kernel<T, U, n><<<p.blocks(a.rows), p.block, 0, stream>>>(a, p.vectors); });
    else rms_norm_forward_plain_kernel<<<cuda::blocks_for(a.rows * 32, threads), threads, 0, stream>>>(a);
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const RmsNormBackward& b) {
  visit_stream("rms_norm", b.sum.dtype(), b.d_y.dtype(), [&]<class T, class U>() {
    using A = Acc<T>;
    const Backward<T, U> a{.g_s = b.sum.data<T>(),
                           .g_weight = b.weight.data<A>(),
                           .g_r = b.r.data<A>(),
                           .g_d_y = b.d_y.data<U>(),
                           .g_d_s = cuda::data_or_null<T>(b.d_sum),
                           .g_d_x = cuda::data_or_null<T>(b.d_x),
                           .g_d_added = cuda::data_or_null<U>(b.d_added),
                           .rows = b.r.numel(),
                           .D = b.sum.size(-1)};
    const cudaStream_t stream = cuda::stream_of(b.device());
    const cuda::ToArray<A> to{cuda::data_or_null<A>(b.d_weight)};
    if (const cuda::RowPlan p = plan<T, U>(a.D, most_backward, {a.g_s, a.g_d_s, a.g_d_x}, {a.g_d_y, a.g_d_added}, a.g_weight)) {
      const int64_t blocks = cuda::partial_sums(p.blocks(a.rows), resident<T, U>);
      const Tensor partial = b.d_weight ? Tensor(b.device(), {blocks, a.D}, dtype_of<A>()) : Tensor();
      cuda::visit_row_vectors<most_backward>(p.n, [&]<int n>() {
        rms_norm_backward_kernel<T, U, n><<<unsigned(blocks), p.block, 0, stream>>>(a, cuda::data_or_null<A>(partial), p.vectors);
      });
      cuda::cuda_check(cudaGetLastError());
      if (b.d_weight) cuda::add_partials<A>(partial, to);
      return;
    }
    if ((b.d_x || b.d_added) && a.rows > 0) {
      rms_norm_backward_plain_kernel<<<cuda::blocks_for(a.rows * 32, threads), threads, 0, stream>>>(a);
      cuda::cuda_check(cudaGetLastError());
    }
    if (b.d_weight) cuda::column_sums(b.device(), WeightTerm<T, U>{a}, to, a.rows, a.D);
  });
}

const Implement f{rms_norm_forward, DeviceKind::cuda, forward};
const Implement b{rms_norm_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
