// group_norm on CUDA: groups in registers, some threads each; gradients of weight and bias through sums of blocks.
//   grid     forward a block per 256 / (G lanes) rows; backward 264 to 528 blocks over all rows; or a warp per group
//   traffic  forward reads x and added, writes the sum and y; backward reads the sum, d_y and d_s, writes d_x, and 4 % of it;
//            beside a stream of f32 it writes d_added too
//   limits   f32 f64 bf16, a stream of f32 beside bf16; fast where groups are whole 16-byte vectors (of the narrower), at most
//            768 of them in a row; any row otherwise
//   ceiling  HBM bandwidth at 3 TB/s, 16384 rows of 768: bf16 17 us forward, 25 us backward; with added 34 us each way, where
//            add, norm and the sum of two gradients take 42 and 50; f32 beside bf16 50 and 67 us
#include "tensor/ops/group_norm.h"

#include <algorithm>

#include "cuda/sums.cuh"
#include "cuda/rows.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256;
constexpr int most = 3;  // vectors of a thread

// Blocks of a multiprocessor, backward: two sums for each channel leave room for no more, a stream of f32 beside bf16 for
// fewer.
template <class T, class U>
constexpr int resident(int n) {
  return std::is_same_v<T, U> ? 5 - n : std::max(2, 4 - n);
}

// A product that is rounded before it is used: the last gradient of a group of one channel is g - g, which must be 0.
__device__ float rounded_product(float a, float b) { return __fmul_rn(a, b); }
__device__ double rounded_product(double a, double b) { return __dmul_rn(a, b); }

template <class T, class U>
struct Forward {  // T: of the stream, U: of what is added to it and of y; n channels a group
  using A = Acc<T>;
  const T* g_x;                 // [rows,G,n]
  const U* g_added;             // [rows,G,n] or null
  const A *g_weight, *g_bias;   // [D]
  T* g_sum;                     // [rows,G,n], with g_added
  U* g_y;                       // [rows,G,n]
  A *g_mean, *g_r;              // [rows,G]
  double eps;
  int64_t rows, G, n;
};

template <class T, class U>
struct Backward {
  using A = Acc<T>;
  const T* g_s;                      // [rows,G,n]
  const U* g_d_y;                    // [rows,G,n]
  const A *g_weight, *g_mean, *g_r;  // [D] [rows,G] [rows,G]
  const T* g_d_s;                    // [rows,G,n] or null
  T* g_d_x;                          // [rows,G,n] or null
  U* g_d_added;                      // [rows,G,n] or null
  int64_t rows, G, n;
};

template <class T, class U, int of_thread>
__global__ void __launch_bounds__(cuda::row_threads) group_norm_forward_kernel(const Forward<T, U> a, int vectors) {
  using A = Acc<T>;
  constexpr int width = 16 / sizeof(U);
  __shared__ A s_warp[2][cuda::row_warps];
  const int64_t row = int64_t(blockIdx.x) * blockDim.z + threadIdx.z, group = row * blockDim.y + threadIdx.y;
  const int64_t at = group * a.n, channel = int64_t(threadIdx.y) * a.n;
  const bool present = row < a.rows;
  cuda::RowPart<T, of_thread, width> s;
  s.load(a.g_x + at, vectors, present);
  if (a.g_added) {
    cuda::RowPart<U, of_thread, width> added;
    added.load(a.g_added + at, vectors, present);
#pragma unroll
    for (int i = 0; i < of_thread; ++i) {
      A s_i[width], added_i[width];
      s.get(i, s_i);
      added.get(i, added_i);
#pragma unroll
      for (int k = 0; k < width; ++k) s_i[k] += added_i[k];
      s.at[i] = cuda::pack<T>(s_i);
      cuda::store_row_vector(a.g_sum + at, i, s_i, vectors, present);
    }
  }
  A sum = 0, squares = 0;
#pragma unroll
  for (int i = 0; i < of_thread; ++i) {
    A s_i[width];
    s.get(i, s_i);
#pragma unroll
    for (int k = 0; k < width; ++k) sum += s_i[k];
  }
  const A mean = cuda::row_sum(sum, s_warp[0]) / A(a.n);
#pragma unroll
  for (int i = 0; i < of_thread; ++i)
    if (cuda::row_vector(i) < vectors) {
      A s_i[width];
      s.get(i, s_i);
#pragma unroll
      for (int k = 0; k < width; ++k) squares += (s_i[k] - mean) * (s_i[k] - mean);
    }
  const A r = 1 / sqrt(cuda::row_sum(squares, s_warp[1]) / A(a.n) + A(a.eps));
#pragma unroll
  for (int i = 0; i < of_thread; ++i) {
    const auto w = cuda::load_row_vector<A, width>(a.g_weight + channel, i, vectors, present);
    const auto bias = cuda::load_row_vector<A, width>(a.g_bias + channel, i, vectors, present);
    A s_i[width], y[width];
    s.get(i, s_i);
#pragma unroll
    for (int k = 0; k < width; ++k) y[k] = (s_i[k] - mean) * r * w.at[k] + bias.at[k];
    cuda::store_row_vector(a.g_y + at, i, y, vectors, present);
  }
  if (!present || threadIdx.x > 0) return;
  a.g_mean[group] = mean;
  a.g_r[group] = r;
}

template <class T, class U, int of_thread>
__global__ void __launch_bounds__(cuda::row_threads, resident<T, U>(of_thread))
    group_norm_backward_kernel(const Backward<T, U> a,
                               Acc<T>* g_partial,  // [blocks,2,D]: weight and bias; or null
                               int vectors) {
  using A = Acc<T>;
  constexpr int width = 16 / sizeof(U);
  __shared__ A s_warp[4][cuda::row_warps], s_sum[cuda::row_threads * of_thread * width];
  const A* g_weight = a.g_weight + threadIdx.y * a.n;
  A r_weight[of_thread][width] = {}, r_bias[of_thread][width] = {};
  int turn = 0;
  for (int64_t first = int64_t(blockIdx.x) * blockDim.z; first < a.rows; first += int64_t(gridDim.x) * blockDim.z) {
    const int64_t row = first + threadIdx.z, group = row * blockDim.y + threadIdx.y, at = group * a.n;
    const bool present = row < a.rows;
    cuda::RowPart<T, of_thread, width> s;
    cuda::RowPart<U, of_thread, width> d_y;
    s.load(a.g_s + at, vectors, present);
    d_y.load(a.g_d_y + at, vectors, present);
    const A mean = present ? a.g_mean[group] : A(0), r = present ? a.g_r[group] : A(0);
    A sum = 0, dot = 0;
#pragma unroll
    for (int i = 0; i < of_thread; ++i) {
      const auto w = cuda::load_row_vector<A, width>(g_weight, i, vectors, present);
      A s_i[width], d_i[width];
      s.get(i, s_i);
      d_y.get(i, d_i);
#pragma unroll
      for (int k = 0; k < width; ++k) {
        const A g = d_i[k] * w.at[k];  // 0 past the end of the group
        sum += g;
        dot += g * (s_i[k] - mean);
      }
    }
    cuda::RowPart<T, of_thread, width> d_s;  // on its way while the sums are made
    d_s.load(a.g_d_s + at, vectors, present && a.g_d_s);
    turn ^= 2;
    const A mean_g = cuda::row_sum(sum, s_warp[turn]) / A(a.n);
    const A pull = r * r * cuda::row_sum(dot, s_warp[turn + 1]) / A(a.n);
#pragma unroll
    for (int i = 0; i < of_thread; ++i) {
      // Once more, from the first cache: what the sums above were made of does not fit into registers.
      A s_i[width], d_i[width], d_x[width];
      cuda::unpack<T>(cuda::load_row_vector<T, width>(a.g_s + at, i, vectors, present), s_i);
      cuda::unpack<U>(cuda::load_row_vector<U, width>(a.g_d_y + at, i, vectors, present), d_i);
      d_s.get(i, d_x);
      const auto w = cuda::load_row_vector<A, width>(g_weight, i, vectors, present);
#pragma unroll
      for (int k = 0; k < width; ++k) {
        const A centred = s_i[k] - mean;
        d_x[k] += r * (d_i[k] * w.at[k] - mean_g - centred * pull);
        r_weight[i][k] += d_i[k] * r * centred;
        r_bias[i][k] += d_i[k];
      }
      cuda::store_row_vector(a.g_d_x + at, i, d_x, vectors, present && a.g_d_x);
      if constexpr (!std::is_same_v<T, U>) cuda::store_row_vector(a.g_d_added + at, i, d_x, vectors, present && a.g_d_added);
    }
  }
  if (!g_partial) return;
  const int64_t D = a.G * a.n;
  cuda::store_column_sums(r_weight, s_sum, g_partial + blockIdx.x * 2 * D, vectors);
  cuda::store_column_sums(r_bias, s_sum, g_partial + (blockIdx.x * 2 + 1) * D, vectors);
}

// Any width: a warp per group.
template <class T, class U>
__global__ void group_norm_forward_plain_kernel(const Forward<T, U> a) {
  using A = Acc<T>;
  const int64_t group = cuda::thread_index() / 32, lane = threadIdx.x % 32, at = group * a.n;
  if (group >= a.rows * a.G) return;
  if (a.g_added)
    for (int64_t j = lane; j < a.n; j += 32) a.g_sum[at + j] = T(A(a.g_x[at + j]) + A(a.g_added[at + j]));
  const T* s = (a.g_added ? a.g_sum : a.g_x) + at;  // each lane reads what it wrote
  const A *w = a.g_weight + group % a.G * a.n, *bias = a.g_bias + group % a.G * a.n;
  A sum = 0, squares = 0;
  for (int64_t j = lane; j < a.n; j += 32) sum += A(s[j]);
  const A mean = cuda::warp_sum(sum) / A(a.n);
  for (int64_t j = lane; j < a.n; j += 32) squares += (A(s[j]) - mean) * (A(s[j]) - mean);
  const A r = 1 / sqrt(cuda::warp_sum(squares) / A(a.n) + A(a.eps));
  for (int64_t j = lane; j < a.n; j += 32) a.g_y[at + j] = U((A(s[j]) - mean) * r * w[j] + bias[j]);
  if (lane > 0) return;
  a.g_mean[group] = mean;
  a.g_r[group] = r;
}

template <class T, class U>
__global__ void group_norm_backward_plain_kernel(const Backward<T, U> a) {
  using A = Acc<T>;
  const int64_t group = cuda::thread_index() / 32, lane = threadIdx.x % 32, at = group * a.n;
  if (group >= a.rows * a.G) return;
  const T* s = a.g_s + at;
  const U* d_y = a.g_d_y + at;
  const A *w = a.g_weight + group % a.G * a.n, mean = a.g_mean[group], r = a.g_r[group];
  A sum = 0, dot = 0;
  for (int64_t j = lane; j < a.n; j += 32) {
    sum += A(d_y[j]) * w[j];
    dot += A(d_y[j]) * w[j] * (A(s[j]) - mean);
  }
  const A mean_g = cuda::warp_sum(sum) / A(a.n), pull = r * r * cuda::warp_sum(dot) / A(a.n);
  for (int64_t j = lane; j < a.n; j += 32) {
    A d_x = r * (rounded_product(A(d_y[j]), w[j]) - mean_g - (A(s[j]) - mean) * pull);
    if (a.g_d_s) d_x += A(a.g_d_s[at + j]);
    if (a.g_d_x) a.g_d_x[at + j] = T(d_x);
    if (a.g_d_added) a.g_d_added[at + j] = U(d_x);
  }
}

template <class T, class U>
struct BothTerms {  // of [2,D]
  Backward<T, U> a;
  __device__ Acc<T> operator()(int64_t row, int64_t column) const {
    using A = Acc<T>;
    const int64_t D = a.G * a.n, j = column % D, at = row * D + j, group = row * a.G + j / a.n;
    const A d_y = A(a.g_d_y[at]);
    return column < D ? d_y * (A(a.g_s[at]) - a.g_mean[group]) * a.g_r[group] : d_y;
  }
};

// Some threads for each group, if pointers and width allow.
template <class T, class U>
cuda::RowPlan plan(int64_t n, int64_t G, std::initializer_list<const T*> stream, std::initializer_list<const U*> beside,
                   std::initializer_list<const Acc<T>*> wide_pointers) {
  constexpr int width = 16 / sizeof(U);
  const bool fits = cuda::vector_fits<T>(width, n, stream) && cuda::vector_fits<U>(width, n, beside) &&
                    cuda::vector_fits<Acc<T>>(width, n, wide_pointers);
  return fits ? cuda::plan_rows<U>(n, G, most) : cuda::RowPlan{};
}

void forward(const GroupNormForward& f) {
  visit_stream("group_norm", f.x.dtype(), f.y.dtype(), [&]<class T, class U>() {
    using A = Acc<T>;
    const int64_t rows = f.r.size(0), G = f.r.size(1);
    const Forward<T, U> a{.g_x = f.x.data<T>(),
                          .g_added = cuda::data_or_null<U>(f.added),
                          .g_weight = f.weight.data<A>(),
                          .g_bias = f.bias.data<A>(),
                          .g_sum = cuda::data_or_null<T>(f.sum),
                          .g_y = f.y.data<U>(),
                          .g_mean = f.mean.data<A>(),
                          .g_r = f.r.data<A>(),
                          .eps = f.eps,
                          .rows = rows,
                          .G = G,
                          .n = f.x.size(-1) / G};
    if (rows == 0) return;
    const cudaStream_t stream = cuda::stream_of(f.device());
    if (const cuda::RowPlan p = plan<T, U>(a.n, G, {a.g_x, a.g_sum}, {a.g_added, a.g_y}, {a.g_weight, a.g_bias}))
      cuda::visit_row_vectors<most>(p.n, [&]<int of_thread>() {
        group_norm_forward_kernel<T, U, of_thread><<<p.blocks(rows), p.block, 0, stream>>>(a, p.vectors);
      });
    else group_norm_forward_plain_kernel<<<cuda::blocks_for(rows * G * 32, threads), threads, 0, stream>>>(a);
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const GroupNormBackward& b) {
  visit_stream("group_norm", b.sum.dtype(), b.d_y.dtype(), [&]<class T, class U>() {
    using A = Acc<T>;
    const int64_t rows = b.r.size(0), D = b.sum.size(-1), G = b.r.size(1);
    const cudaStream_t stream = cuda::stream_of(b.device());
    const Backward<T, U> a{.g_s = b.sum.data<T>(),
                           .g_d_y = b.d_y.data<U>(),
                           .g_weight = b.weight.data<A>(),
                           .g_mean = b.mean.data<A>(),
                           .g_r = b.r.data<A>(),
                           .g_d_s = cuda::data_or_null<T>(b.d_sum),
                           .g_d_x = cuda::data_or_null<T>(b.d_x),
                           .g_d_added = cuda::data_or_null<U>(b.d_added),
                           .rows = rows,
                           .G = G,
                           .n = D / G};
    const cuda::ToTwo<A> to{cuda::data_or_null<A>(b.d_weight), cuda::data_or_null<A>(b.d_bias), D};
    const bool with_parameters = b.d_weight || b.d_bias;
    if (const cuda::RowPlan p = plan<T, U>(a.n, G, {a.g_s, a.g_d_s, a.g_d_x}, {a.g_d_y, a.g_d_added}, {a.g_weight})) {
      const int64_t blocks = cuda::partial_sums(p.blocks(rows), resident<T, U>(p.n));
      const Tensor partial = with_parameters ? Tensor(b.device(), {blocks, 2 * D}, dtype_of<A>()) : Tensor();
      cuda::visit_row_vectors<most>(p.n, [&]<int of_thread>() {
        group_norm_backward_kernel<T, U, of_thread>
            <<<unsigned(blocks), p.block, 0, stream>>>(a, cuda::data_or_null<A>(partial), p.vectors);
      });
      cuda::cuda_check(cudaGetLastError());
      if (with_parameters) cuda::add_partials<A>(partial, to);
      return;
    }
    if ((b.d_x || b.d_added) && rows > 0) {
      group_norm_backward_plain_kernel<<<cuda::blocks_for(rows * G * 32, threads), threads, 0, stream>>>(a);
      cuda::cuda_check(cudaGetLastError());
    }
    if (with_parameters) cuda::column_sums(b.device(), BothTerms<T, U>{a}, to, rows, 2 * D);
  });
}

const Implement f{group_norm_forward, DeviceKind::cuda, forward};
const Implement b{group_norm_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
