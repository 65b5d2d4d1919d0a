// l2_norm on CUDA: rows in registers, one warp (or some, or a part of one) each.
//   grid     a block per 256 / lanes rows; other widths a warp per row
//   traffic  forward reads x, writes y; backward reads x, d_y, writes d_x
//   limits   f32 f64 bf16; fast where rows are whole 16-byte vectors, at most 1024 of them; any row otherwise
//   ceiling  HBM bandwidth: 98304 rows of 128 bf16 (or 196608 of 64) take 17 us forward, 25 us backward at 3 TB/s
#include "tensor/ops/l2_norm.h"

#include "cuda/rows.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256;
constexpr int most = 4;  // vectors of a thread

template <class T, int n>
__global__ void __launch_bounds__(cuda::row_threads) l2_norm_forward_kernel(const T* g_x,  // [rows,D]
                                                                            T* g_y,        // [rows,D]
                                                                            Acc<T>* g_r,   // [rows]
                                                                            double eps, int64_t rows, int vectors) {
  using A = Acc<T>;
  constexpr int width = 16 / sizeof(T);
  __shared__ A s_warp[cuda::row_warps];
  const int64_t row = int64_t(blockIdx.x) * blockDim.z + threadIdx.z, at = row * vectors * width;
  const bool present = row < rows;
  cuda::RowPart<T, n, width> x;
  x.load(g_x + at, vectors, present);
  A squares = 0;
#pragma unroll
  for (int i = 0; i < n; ++i) {
    A x_i[width];
    x.get(i, x_i);
#pragma unroll
    for (int k = 0; k < width; ++k) squares += x_i[k] * x_i[k];
  }
  const A r = 1 / sqrt(cuda::row_sum(squares, s_warp) + A(eps));
#pragma unroll
  for (int i = 0; i < n; ++i) {
    A x_i[width], y[width];
    x.get(i, x_i);
#pragma unroll
    for (int k = 0; k < width; ++k) y[k] = x_i[k] * r;
    cuda::store_row_vector(g_y + at, i, y, vectors, present);
  }
  if (present && threadIdx.x == 0) g_r[row] = r;
}

template <class T, int n>
__global__ void __launch_bounds__(cuda::row_threads) l2_norm_backward_kernel(const T* g_x,       // [rows,D]
                                                                             const Acc<T>* g_r,  // [rows]
                                                                             const T* g_d_y,     // [rows,D]
                                                                             T* g_d_x,           // [rows,D]
                                                                             int64_t rows, int vectors) {
  using A = Acc<T>;
  constexpr int width = 16 / sizeof(T);
  __shared__ A s_warp[cuda::row_warps];
  const int64_t row = int64_t(blockIdx.x) * blockDim.z + threadIdx.z, at = row * vectors * width;
  const bool present = row < rows;
  cuda::RowPart<T, n, width> x, d_y;
  x.load(g_x + at, vectors, present);
  d_y.load(g_d_y + at, vectors, present);
  const A r = present ? g_r[row] : A(0);
  A dot = 0;  // with y = x r formed first: r^3 alone can leave f32's range
#pragma unroll
  for (int i = 0; i < n; ++i) {
    A x_i[width], d_i[width];
    x.get(i, x_i);
    d_y.get(i, d_i);
#pragma unroll
    for (int k = 0; k < width; ++k) dot += x_i[k] * r * d_i[k];
  }
  dot = cuda::row_sum(dot, s_warp);
#pragma unroll
  for (int i = 0; i < n; ++i) {
    A x_i[width], d_i[width], d_x[width];
    x.get(i, x_i);
    d_y.get(i, d_i);
#pragma unroll
    for (int k = 0; k < width; ++k) d_x[k] = r * (d_i[k] - x_i[k] * r * dot);
    cuda::store_row_vector(g_d_x + at, i, d_x, vectors, present);
  }
}

// Any width: a warp per row.
template <class T>
__global__ void l2_norm_forward_plain_kernel(const T* g_x,  // [rows,D]
                                             T* g_y,        // [rows,D]
                                             Acc<T>* g_r,   // [rows]
                                             double eps, int64_t rows, int64_t D) {
  using A = Acc<T>;
  const int64_t row = cuda::thread_index() / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  const T* x = g_x + row * D;
  A squares = 0;
  for (int64_t j = lane; j < D; j += 32) squares += A(x[j]) * A(x[j]);
  const A r = 1 / sqrt(cuda::warp_sum(squares) + A(eps));
  for (int64_t j = lane; j < D; j += 32) g_y[row * D + j] = T(A(x[j]) * r);
  if (lane == 0) g_r[row] = r;
}

template <class T>
__global__ void l2_norm_backward_plain_kernel(const T* g_x,       // [rows,D]
                                              const Acc<T>* g_r,  // [rows]
                                              const T* g_d_y,     // [rows,D]
                                              T* g_d_x,           // [rows,D]
                                              int64_t rows, int64_t D) {
  using A = Acc<T>;
  const int64_t row = cuda::thread_index() / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  const T *x = g_x + row * D, *d_y = g_d_y + row * D;
  const A r = g_r[row];
  A dot = 0;
  for (int64_t j = lane; j < D; j += 32) dot += A(x[j]) * r * A(d_y[j]);
  dot = cuda::warp_sum(dot);
  for (int64_t j = lane; j < D; j += 32) g_d_x[row * D + j] = T(r * (A(d_y[j]) - A(x[j]) * r * dot));
}

template <class T>
cuda::RowPlan plan(int64_t D, std::initializer_list<const T*> pointers) {
  return cuda::vector_fits<T>(16 / sizeof(T), D, pointers) ? cuda::plan_rows<T>(D, 1, most) : cuda::RowPlan{};
}

void forward(const L2NormForward& a) {
  visit<float, double, bf16>("l2_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t D = a.x.size(-1), rows = a.r.numel();
    if (rows == 0) return;
    const cudaStream_t stream = cuda::stream_of(a.device());
    const T* x = a.x.data<T>();
    T* y = a.y.data<T>();
    A* r = a.r.data<A>();
    if (const cuda::RowPlan p = plan<T>(D, {x, y}))
      cuda::visit_row_vectors<most>(p.n, [&]<int n>() {
        l2_norm_forward_kernel<T, n><<<p.blocks(rows), p.block, 0, stream>>>(x, y, r, a.eps, rows, p.vectors);
      });
    else
      l2_norm_forward_plain_kernel<T>
          <<<cuda::blocks_for(rows * 32, threads), threads, 0, stream>>>(x, y, r, a.eps, rows, D);
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const L2NormBackward& a) {
  visit<float, double, bf16>("l2_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t D = a.x.size(-1), rows = a.r.numel();
    if (rows == 0) return;
    const cudaStream_t stream = cuda::stream_of(a.device());
    const T *x = a.x.data<T>(), *d_y = a.d_y.data<T>();
    const A* r = a.r.data<A>();
    T* d_x = a.d_x.data<T>();
    if (const cuda::RowPlan p = plan<T>(D, {x, d_y, d_x}))
      cuda::visit_row_vectors<most>(p.n, [&]<int n>() {
        l2_norm_backward_kernel<T, n><<<p.blocks(rows), p.block, 0, stream>>>(x, r, d_y, d_x, rows, p.vectors);
      });
    else
      l2_norm_backward_plain_kernel<T>
          <<<cuda::blocks_for(rows * 32, threads), threads, 0, stream>>>(x, r, d_y, d_x, rows, D);
    cuda::cuda_check(cudaGetLastError());
  });
}

const Implement f{l2_norm_forward, DeviceKind::cuda, forward};
const Implement b{l2_norm_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
