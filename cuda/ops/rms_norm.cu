// rms_norm on CUDA: rows in registers, one warp (or some) each; the weight's gradient through sums of blocks.
//   grid     forward a block per 256 / lanes rows; backward 396 blocks that walk over rows; other widths a warp per row
//   traffic  forward reads x, writes y; backward reads x, d_y, writes d_x, and 2 % of x
//   limits   f32 f64 bf16; fast where rows are whole 16-byte vectors, at most 768 of them; any row otherwise
//   ceiling  HBM bandwidth: 16384 rows of 768 bf16 take 17 us forward, 25 us backward at 3 TB/s
#include "tensor/ops/rms_norm.h"

#include "cuda/column_sums.cuh"
#include "cuda/rows.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256;
constexpr int most_forward = 4, most_backward = 3;  // vectors of a thread
constexpr int resident = 3;                         // blocks of a multiprocessor, backward

template <class T, int n>
__global__ void __launch_bounds__(cuda::row_threads) rms_norm_forward_kernel(const T* g_x,            // [rows,D]
                                                                             const Acc<T>* g_weight,  // [D]
                                                                             T* g_y,                  // [rows,D]
                                                                             Acc<T>* g_r,             // [rows]
                                                                             double eps, int64_t rows, int vectors) {
  using A = Acc<T>;
  constexpr int width = 16 / sizeof(T);
  __shared__ A s_warp[cuda::row_warps];
  const int64_t row = int64_t(blockIdx.x) * blockDim.z + threadIdx.z, D = int64_t(vectors) * width;
  const bool present = row < rows;
  cuda::RowPart<T, n, width> x;
  cuda::RowPart<A, n, width> w;
  x.load(g_x + row * D, vectors, present);
  w.load(g_weight, vectors, true);
  A squares = 0;
#pragma unroll
  for (int i = 0; i < n; ++i) {
    A x_i[width];
    x.get(i, x_i);
#pragma unroll
    for (int k = 0; k < width; ++k) squares += x_i[k] * x_i[k];
  }
  const A r = 1 / sqrt(cuda::row_sum(squares, s_warp) / A(D) + A(eps));
#pragma unroll
  for (int i = 0; i < n; ++i) {
    A x_i[width], y[width];
    x.get(i, x_i);
#pragma unroll
    for (int k = 0; k < width; ++k) y[k] = x_i[k] * r * w.at[i].at[k];
    cuda::store_row_vector(g_y + row * D, i, y, vectors, present);
  }
  if (present && threadIdx.x == 0) g_r[row] = r;
}

template <class T, int n>
__global__ void __launch_bounds__(cuda::row_threads, resident)
    rms_norm_backward_kernel(const T* g_x,            // [rows,D]
                             const Acc<T>* g_weight,  // [D]
                             const Acc<T>* g_r,       // [rows]
                             const T* g_d_y,          // [rows,D]
                             T* g_d_x,                // [rows,D] or absent
                             Acc<T>* g_partial,       // [blocks,D] or absent
                             int64_t rows, int vectors) {
  using A = Acc<T>;
  constexpr int width = 16 / sizeof(T);
  __shared__ A s_warp[2][cuda::row_warps], s_sum[cuda::row_threads * n * width];
  const int64_t D = int64_t(vectors) * width;
  A r_sum[n][width] = {};
  int turn = 0;
  for (int64_t first = int64_t(blockIdx.x) * blockDim.z; first < rows; first += int64_t(gridDim.x) * blockDim.z) {
    const int64_t row = first + threadIdx.z;
    const bool present = row < rows;
    cuda::RowPart<T, n, width> x, d_y;
    x.load(g_x + row * D, vectors, present);
    d_y.load(g_d_y + row * D, vectors, present);
    const A r = present ? g_r[row] : A(0);
    A dot = 0;
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const auto w = cuda::load_row_vector<A, width>(g_weight, i, vectors, true);
      A x_i[width], d_i[width];
      x.get(i, x_i);
      d_y.get(i, d_i);
#pragma unroll
      for (int k = 0; k < width; ++k) dot += d_i[k] * w.at[k] * x_i[k];
    }
    const A pull = r * r * cuda::row_sum(dot, s_warp[turn ^= 1]) / A(D);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      // Once more, from the first cache: what the sum above was made of does not fit into registers.
      A x_i[width], d_i[width], d_x[width];
      cuda::unpack<T>(cuda::load_row_vector<T, width>(g_x + row * D, i, vectors, present), x_i);
      cuda::unpack<T>(cuda::load_row_vector<T, width>(g_d_y + row * D, i, vectors, present), d_i);
      const auto w = cuda::load_row_vector<A, width>(g_weight, i, vectors, true);
#pragma unroll
      for (int k = 0; k < width; ++k) {
        d_x[k] = r * (d_i[k] * w.at[k] - x_i[k] * pull);
        r_sum[i][k] += d_i[k] * r * x_i[k];
      }
      cuda::store_row_vector(g_d_x + row * D, i, d_x, vectors, present && g_d_x);
    }
  }
  if (g_partial) cuda::store_column_sums(r_sum, s_sum, g_partial + blockIdx.x * D, vectors);
}

// Any width: a warp per row.
template <class T>
__global__ void rms_norm_forward_plain_kernel(const T* g_x,            // [rows,D]
                                              const Acc<T>* g_weight,  // [D]
                                              T* g_y,                  // [rows,D]
                                              Acc<T>* g_r,             // [rows]
                                              double eps, int64_t rows, int64_t D) {
  using A = Acc<T>;
  const int64_t row = cuda::thread_index() / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  const T* x = g_x + row * D;
  A squares = 0;
  for (int64_t j = lane; j < D; j += 32) squares += A(x[j]) * A(x[j]);
  const A r = 1 / sqrt(cuda::warp_sum(squares) / A(D) + A(eps));
  for (int64_t j = lane; j < D; j += 32) g_y[row * D + j] = T(A(x[j]) * r * g_weight[j]);
  if (lane == 0) g_r[row] = r;
}

template <class T>
__global__ void rms_norm_backward_plain_kernel(const T* g_x,            // [rows,D]
                                               const Acc<T>* g_weight,  // [D]
                                               const Acc<T>* g_r,       // [rows]
                                               const T* g_d_y,          // [rows,D]
                                               T* g_d_x,                // [rows,D]
                                               int64_t rows, int64_t D) {
  using A = Acc<T>;
  const int64_t row = cuda::thread_index() / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  const T *x = g_x + row * D, *d_y = g_d_y + row * D;
  const A r = g_r[row];
  A dot = 0;
  for (int64_t j = lane; j < D; j += 32) dot += A(d_y[j]) * g_weight[j] * A(x[j]);
  const A pull = r * r * cuda::warp_sum(dot) / A(D);
  for (int64_t j = lane; j < D; j += 32) g_d_x[row * D + j] = T(r * (A(d_y[j]) * g_weight[j] - A(x[j]) * pull));
}

template <class T>
struct WeightTerm {
  const T *g_x, *g_d_y;  // [rows,D]
  const Acc<T>* g_r;     // [rows]
  int64_t D;
  __device__ Acc<T> operator()(int64_t row, int64_t j) const {
    return Acc<T>(g_d_y[row * D + j]) * Acc<T>(g_x[row * D + j]) * g_r[row];
  }
};

// A row per group of threads, if pointers and width allow.
template <class T>
cuda::RowPlan plan(const Tensor& weight, int most, std::initializer_list<const T*> pointers) {
  constexpr int width = 16 / sizeof(T);
  const int64_t D = weight.size(0);
  const bool fits =
      cuda::vector_fits<T>(width, D, pointers) && cuda::vector_fits<Acc<T>>(width, D, {weight.data<Acc<T>>()});
  return fits ? cuda::plan_rows<T>(D, 1, most) : cuda::RowPlan{};
}

void forward(const RmsNormForward& a) {
  visit<float, double, bf16>("rms_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t D = a.x.size(-1), rows = a.r.numel();
    if (rows == 0) return;
    const cudaStream_t stream = cuda::stream_of(a.device());
    const T* x = a.x.data<T>();
    T* y = a.y.data<T>();
    if (const cuda::RowPlan p = plan<T>(a.weight, most_forward, {x, y}))
      cuda::visit_row_vectors<most_forward>(p.n, [&]<int n>() {
        rms_norm_forward_kernel<T, n>
            <<<p.blocks(rows), p.block, 0, stream>>>(x, a.weight.data<A>(), y, a.r.data<A>(), a.eps, rows, p.vectors);
      });
    else
      rms_norm_forward_plain_kernel<T><<<cuda::blocks_for(rows * 32, threads), threads, 0, stream>>>(
          x, a.weight.data<A>(), y, a.r.data<A>(), a.eps, rows, D);
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const RmsNormBackward& a) {
  visit<float, double, bf16>("rms_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t D = a.x.size(-1), rows = a.r.numel();
    const cudaStream_t stream = cuda::stream_of(a.device());
    const T *x = a.x.data<T>(), *d_y = a.d_y.data<T>();
    const A *w = a.weight.data<A>(), *r = a.r.data<A>();
    T* d_x = a.d_x ? a.d_x.data<T>() : nullptr;
    const cuda::ToArray<A> to{a.d_weight ? a.d_weight.data<A>() : nullptr};
    if (const cuda::RowPlan p = plan<T>(a.weight, most_backward, {x, d_y, d_x})) {
      const int64_t blocks = cuda::partial_sums(p.blocks(rows), resident);
      const Tensor partial = a.d_weight ? Tensor(a.device(), {blocks, D}, dtype_of<A>()) : Tensor();
      cuda::visit_row_vectors<most_backward>(p.n, [&]<int n>() {
        rms_norm_backward_kernel<T, n><<<unsigned(blocks), p.block, 0, stream>>>(
            x, w, r, d_y, d_x, partial ? partial.data<A>() : nullptr, rows, p.vectors);
      });
      cuda::cuda_check(cudaGetLastError());
      if (a.d_weight) cuda::add_partials<A>(partial, to);
      return;
    }
    if (d_x && rows > 0) {
      rms_norm_backward_plain_kernel<T>
          <<<cuda::blocks_for(rows * 32, threads), threads, 0, stream>>>(x, w, r, d_y, d_x, rows, D);
      cuda::cuda_check(cudaGetLastError());
    }
    if (a.d_weight) cuda::column_sums<A>(a.device(), WeightTerm<T>{x, d_y, r, D}, to, rows, D);
  });
}

const Implement f{rms_norm_forward, DeviceKind::cuda, forward};
const Implement b{rms_norm_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
