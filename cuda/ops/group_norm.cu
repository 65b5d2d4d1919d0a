// group_norm on CUDA: groups in registers, some threads each; gradients of weight and bias through sums of blocks.
//   grid     forward a block per 256 / (G lanes) rows; backward 264 to 528 blocks over all rows; or a warp per group
//   traffic  forward reads x, writes y; backward reads x, d_y, writes d_x, and 4 % of x
//   limits   f32 f64 bf16; fast where groups are whole 16-byte vectors, at most 768 in a row; any row otherwise
//   ceiling  HBM bandwidth: 16384 rows of 768 bf16 take 17 us forward, 25 us backward at 3 TB/s
#include "tensor/ops/group_norm.h"

#include "cuda/column_sums.cuh"
#include "cuda/rows.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256;
constexpr int most = 3;  // vectors of a thread

// Blocks of a multiprocessor, backward: two sums for each channel leave room for no more.
constexpr int resident(int n) { return 5 - n; }

// A product that is rounded before it is used: the last gradient of a group of one channel is g - g, which must be 0.
__device__ float rounded_product(float a, float b) { return __fmul_rn(a, b); }
__device__ double rounded_product(double a, double b) { return __dmul_rn(a, b); }

template <class T, int n>
__global__ void __launch_bounds__(cuda::row_threads)
    group_norm_forward_kernel(const T* g_x,                                  // [rows,G,D/G]
                              const Acc<T>* g_weight, const Acc<T>* g_bias,  // [D]
                              T* g_y,                                        // [rows,G,D/G]
                              Acc<T>* g_mean, Acc<T>* g_r,                   // [rows,G]
                              double eps, int64_t rows, int vectors) {
  using A = Acc<T>;
  constexpr int width = 16 / sizeof(T);
  __shared__ A s_warp[2][cuda::row_warps];
  const int64_t row = int64_t(blockIdx.x) * blockDim.z + threadIdx.z, group = row * blockDim.y + threadIdx.y;
  const int64_t at = group * vectors * width, channel = int64_t(threadIdx.y) * vectors * width;
  const A count = A(vectors * width);
  const bool present = row < rows;
  cuda::RowPart<T, n, width> x;
  x.load(g_x + at, vectors, present);
  A sum = 0, squares = 0;
#pragma unroll
  for (int i = 0; i < n; ++i) {
    A x_i[width];
    x.get(i, x_i);
#pragma unroll
    for (int k = 0; k < width; ++k) sum += x_i[k];
  }
  const A mean = cuda::row_sum(sum, s_warp[0]) / count;
#pragma unroll
  for (int i = 0; i < n; ++i)
    if (cuda::row_vector(i) < vectors) {
      A x_i[width];
      x.get(i, x_i);
#pragma unroll
      for (int k = 0; k < width; ++k) squares += (x_i[k] - mean) * (x_i[k] - mean);
    }
  const A r = 1 / sqrt(cuda::row_sum(squares, s_warp[1]) / count + A(eps));
#pragma unroll
  for (int i = 0; i < n; ++i) {
    const auto w = cuda::load_row_vector<A, width>(g_weight + channel, i, vectors, present);
    const auto bias = cuda::load_row_vector<A, width>(g_bias + channel, i, vectors, present);
    A x_i[width], y[width];
    x.get(i, x_i);
#pragma unroll
    for (int k = 0; k < width; ++k) y[k] = (x_i[k] - mean) * r * w.at[k] + bias.at[k];
    cuda::store_row_vector(g_y + at, i, y, vectors, present);
  }
  if (!present || threadIdx.x > 0) return;
  g_mean[group] = mean;
  g_r[group] = r;
}

template <class T>
struct Backward {
  using A = Acc<T>;
  const T *g_x, *g_d_y;              // [rows,G,n]
  const A *g_weight, *g_mean, *g_r;  // [D] [rows,G] [rows,G]
  T* g_d_x;                          // [rows,G,n] or null
  int64_t rows, G, n;
};

template <class T, int n>
__global__ void __launch_bounds__(cuda::row_threads, resident(n))
    group_norm_backward_kernel(const Backward<T> a,
                               Acc<T>* g_partial,  // [blocks,2,D]: weight and bias; or null
                               int vectors) {
  using A = Acc<T>;
  constexpr int width = 16 / sizeof(T);
  __shared__ A s_warp[4][cuda::row_warps], s_sum[cuda::row_threads * n * width];
  const A* g_weight = a.g_weight + threadIdx.y * a.n;
  A r_weight[n][width] = {}, r_bias[n][width] = {};
  int turn = 0;
  for (int64_t first = int64_t(blockIdx.x) * blockDim.z; first < a.rows; first += int64_t(gridDim.x) * blockDim.z) {
    const int64_t row = first + threadIdx.z, group = row * blockDim.y + threadIdx.y, at = group * a.n;
    const bool present = row < a.rows;
    cuda::RowPart<T, n, width> x, d_y;
    x.load(a.g_x + at, vectors, present);
    d_y.load(a.g_d_y + at, vectors, present);
    const A mean = present ? a.g_mean[group] : A(0), r = present ? a.g_r[group] : A(0);
    A sum = 0, dot = 0;
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const auto w = cuda::load_row_vector<A, width>(g_weight, i, vectors, present);
      A x_i[width], d_i[width];
      x.get(i, x_i);
      d_y.get(i, d_i);
#pragma unroll
      for (int k = 0; k < width; ++k) {
        const A g = d_i[k] * w.at[k];  // 0 past the end of the group
        sum += g;
        dot += g * (x_i[k] - mean);
      }
    }
    turn ^= 2;
    const A mean_g = cuda::row_sum(sum, s_warp[turn]) / A(a.n);
    const A pull = r * r * cuda::row_sum(dot, s_warp[turn + 1]) / A(a.n);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      // Once more, from the first cache: what the sums above were made of does not fit into registers.
      A x_i[width], d_i[width], d_x[width];
      cuda::unpack<T>(cuda::load_row_vector<T, width>(a.g_x + at, i, vectors, present), x_i);
      cuda::unpack<T>(cuda::load_row_vector<T, width>(a.g_d_y + at, i, vectors, present), d_i);
      const auto w = cuda::load_row_vector<A, width>(g_weight, i, vectors, present);
#pragma unroll
      for (int k = 0; k < width; ++k) {
        const A centred = x_i[k] - mean;
        d_x[k] = r * (d_i[k] * w.at[k] - mean_g - centred * pull);
        r_weight[i][k] += d_i[k] * r * centred;
        r_bias[i][k] += d_i[k];
      }
      cuda::store_row_vector(a.g_d_x + at, i, d_x, vectors, present && a.g_d_x);
    }
  }
  if (!g_partial) return;
  const int64_t D = a.G * a.n;
  cuda::store_column_sums(r_weight, s_sum, g_partial + blockIdx.x * 2 * D, vectors);
  cuda::store_column_sums(r_bias, s_sum, g_partial + (blockIdx.x * 2 + 1) * D, vectors);
}

template <class A>
struct ToBoth {              // from [2,D]
  A *g_d_weight, *g_d_bias;  // [D] or null
  int64_t D;
  __device__ void operator()(int64_t column, double sum) const {
    if (column < D && g_d_weight) g_d_weight[column] = A(sum);
    if (column >= D && g_d_bias) g_d_bias[column - D] = A(sum);
  }
};

// Any width: a warp per group.
template <class T>
__global__ void group_norm_forward_plain_kernel(const T* g_x,                                  // [rows,G,n]
                                                const Acc<T>* g_weight, const Acc<T>* g_bias,  // [D]
                                                T* g_y,                                        // [rows,G,n]
                                                Acc<T>* g_mean, Acc<T>* g_r,                   // [rows,G]
                                                double eps, int64_t groups, int64_t G, int64_t n) {
  using A = Acc<T>;
  const int64_t group = cuda::thread_index() / 32, lane = threadIdx.x % 32;
  if (group >= groups) return;
  const T* x = g_x + group * n;
  const A *w = g_weight + group % G * n, *bias = g_bias + group % G * n;
  A sum = 0, squares = 0;
  for (int64_t j = lane; j < n; j += 32) sum += A(x[j]);
  const A mean = cuda::warp_sum(sum) / A(n);
  for (int64_t j = lane; j < n; j += 32) squares += (A(x[j]) - mean) * (A(x[j]) - mean);
  const A r = 1 / sqrt(cuda::warp_sum(squares) / A(n) + A(eps));
  for (int64_t j = lane; j < n; j += 32) g_y[group * n + j] = T((A(x[j]) - mean) * r * w[j] + bias[j]);
  if (lane > 0) return;
  g_mean[group] = mean;
  g_r[group] = r;
}

template <class T>
__global__ void group_norm_backward_plain_kernel(const Backward<T> a) {
  using A = Acc<T>;
  const int64_t group = cuda::thread_index() / 32, lane = threadIdx.x % 32;
  if (group >= a.rows * a.G) return;
  const T *x = a.g_x + group * a.n, *d_y = a.g_d_y + group * a.n;
  const A *w = a.g_weight + group % a.G * a.n, mean = a.g_mean[group], r = a.g_r[group];
  A sum = 0, dot = 0;
  for (int64_t j = lane; j < a.n; j += 32) {
    sum += A(d_y[j]) * w[j];
    dot += A(d_y[j]) * w[j] * (A(x[j]) - mean);
  }
  const A mean_g = cuda::warp_sum(sum) / A(a.n), pull = r * r * cuda::warp_sum(dot) / A(a.n);
  for (int64_t j = lane; j < a.n; j += 32)
    a.g_d_x[group * a.n + j] = T(r * (rounded_product(A(d_y[j]), w[j]) - mean_g - (A(x[j]) - mean) * pull));
}

template <class T>
struct BothTerms {  // of [2,D]
  Backward<T> a;
  __device__ Acc<T> operator()(int64_t row, int64_t column) const {
    using A = Acc<T>;
    const int64_t D = a.G * a.n, j = column % D, at = row * D + j, group = row * a.G + j / a.n;
    const A d_y = A(a.g_d_y[at]);
    return column < D ? d_y * (A(a.g_x[at]) - a.g_mean[group]) * a.g_r[group] : d_y;
  }
};

// Some threads for each group, if pointers and width allow.
template <class T>
cuda::RowPlan plan(int64_t n, int64_t G, std::initializer_list<const T*> pointers,
                   std::initializer_list<const Acc<T>*> wide_pointers) {
  constexpr int width = 16 / sizeof(T);
  const bool fits = cuda::vector_fits<T>(width, n, pointers) && cuda::vector_fits<Acc<T>>(width, n, wide_pointers);
  return fits ? cuda::plan_rows<T>(n, G, most) : cuda::RowPlan{};
}

void forward(const GroupNormForward& a) {
  visit<float, double, bf16>("group_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t rows = a.r.size(0), G = a.r.size(1), n = a.x.size(-1) / G;
    if (rows == 0) return;
    const cudaStream_t stream = cuda::stream_of(a.device());
    const T* x = a.x.data<T>();
    const A *w = a.weight.data<A>(), *bias = a.bias.data<A>();
    T* y = a.y.data<T>();
    A *mean = a.mean.data<A>(), *r = a.r.data<A>();
    if (const cuda::RowPlan p = plan<T>(n, G, {x, y}, {w, bias}))
      cuda::visit_row_vectors<most>(p.n, [&]<int of_thread>() {
        group_norm_forward_kernel<T, of_thread>
            <<<p.blocks(rows), p.block, 0, stream>>>(x, w, bias, y, mean, r, a.eps, rows, p.vectors);
      });
    else
      group_norm_forward_plain_kernel<T><<<cuda::blocks_for(rows * G * 32, threads), threads, 0, stream>>>(
          x, w, bias, y, mean, r, a.eps, rows * G, G, n);
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const GroupNormBackward& a) {
  visit<float, double, bf16>("group_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t rows = a.r.size(0), D = a.x.size(-1), G = a.r.size(1);
    const cudaStream_t stream = cuda::stream_of(a.device());
    const Backward<T> all{.g_x = a.x.data<T>(),
                          .g_d_y = a.d_y.data<T>(),
                          .g_weight = a.weight.data<A>(),
                          .g_mean = a.mean.data<A>(),
                          .g_r = a.r.data<A>(),
                          .g_d_x = a.d_x ? a.d_x.data<T>() : nullptr,
                          .rows = rows,
                          .G = G,
                          .n = D / G};
    const ToBoth<A> to{a.d_weight ? a.d_weight.data<A>() : nullptr, a.d_bias ? a.d_bias.data<A>() : nullptr, D};
    const bool with_parameters = a.d_weight || a.d_bias;
    if (const cuda::RowPlan p = plan<T>(all.n, G, {all.g_x, all.g_d_y, all.g_d_x}, {all.g_weight})) {
      const int64_t blocks = cuda::partial_sums(p.blocks(rows), resident(p.n));
      const Tensor partial = with_parameters ? Tensor(a.device(), {blocks, 2 * D}, dtype_of<A>()) : Tensor();
      cuda::visit_row_vectors<most>(p.n, [&]<int n>() {
        group_norm_backward_kernel<T, n>
            <<<unsigned(blocks), p.block, 0, stream>>>(all, partial ? partial.data<A>() : nullptr, p.vectors);
      });
      cuda::cuda_check(cudaGetLastError());
      if (with_parameters) cuda::add_partials<A>(partial, to);
      return;
    }
    if (a.d_x && rows > 0) {
      group_norm_backward_plain_kernel<T><<<cuda::blocks_for(rows * G * 32, threads), threads, 0, stream>>>(all);
      cuda::cuda_check(cudaGetLastError());
    }
    if (with_parameters) cuda::column_sums<A>(a.device(), BothTerms<T>{all}, to, rows, 2 * D);
  });
}

const Implement f{group_norm_forward, DeviceKind::cuda, forward};
const Implement b{group_norm_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
