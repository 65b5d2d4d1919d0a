// linear_cross_entropy on CUDA: three matmuls a block of rows, and between them one kernel that turns logits into gradients.
//   plan     logits of a block of rows by matmul; a thread block per row takes its log-sum-exp, then overwrites the row by
//            factor * (softmax - onehot); the two gradients by matmul, the weight's added up over the blocks of rows
//   grid     rows blocks of 1024 threads
//   traffic  a row is read and written once: what shared memory holds of it waits there, the rest (a fifth of 128256 bf16) is
//            read again, from L2. 16384 x 128256 in bf16: 8.4 GB, 2.8 ms beside 15 ms of products
//   limits   f32 f64 bf16, any V; 16-byte accesses where a row's bytes allow
//   ceiling  HBM in bf16 (4.2e9 exponentials twice: 2.3 ms of special-function time)
#include "tensor/ops/linear_cross_entropy.h"

#include <algorithm>

#include "cuda/elementwise.cuh"
#include "cuda/log_sum.cuh"
#include "tensor/ops/cross_entropy.h"
#include "tensor/ops/matmul.h"
#include "tensor/ops/reduce.h"

namespace taper::kernels {
namespace {

constexpr int threads = 1024;

template <class T, int n>
__global__ __launch_bounds__(threads) void linear_cross_entropy_row_kernel(T* g_logits,              // [rows,V], then gradients
                                                                           const int32_t* g_labels,  // [rows]
                                                                           Acc<T>* g_nll,            // [rows]
                                                                           int64_t V, const double* g_factor, bool with_gradient,
                                                                           int kept) {  // vectors of a row
  using A = Acc<T>;
  extern __shared__ __align__(16) unsigned char s_bytes[];
  auto* s_row = reinterpret_cast<cuda::Vector<T, n>*>(s_bytes);
  const int64_t row = blockIdx.x;
  auto* g_row = reinterpret_cast<cuda::Vector<T, n>*>(g_logits + row * V);
  const int64_t vectors = V / n;

  const A lse = cuda::log_sum_exp<threads>(g_row, vectors, [&](int64_t i, const cuda::Vector<T, n>& v) {
    if (i < kept) s_row[i] = v;  // for the same thread
  });
  const int32_t label = g_labels[row];
  const bool ignored = label == ignored_label, valid = 0 <= label && label < V;
  if (threadIdx.x == 0) g_nll[row] = ignored ? A(0) : valid ? lse - A(g_logits[row * V + label]) : A(NAN);
  if (!with_gradient) return;
  __syncthreads();  // the label's logit has been read

  const A scale = ignored ? A(0) : valid ? A(g_factor ? *g_factor : 1) : A(NAN);
  for (int64_t i = threadIdx.x; i < vectors; i += threads) {
    cuda::Vector<T, n> v = i < kept ? s_row[i] : g_row[i];
#pragma unroll
    for (int k = 0; k < n; ++k) {
      const A p = cuda::exponential<T>(A(v.at[k]) - lse);
      v.at[k] = ignored ? T(A(0)) : T((i * n + k == label ? p - 1 : p) * scale);
    }
    g_row[i] = v;
  }
}

template <class T>
void gradients_of_rows(const Tensor& logits, const Tensor& labels, const Tensor& nll, const Tensor& factor, bool with_gradient) {
  const int64_t rows = logits.size(0), V = logits.size(1);
  constexpr int n = 16 / int(sizeof(T));
  const bool wide = cuda::vector_fits<T>(n, V, {logits.data<T>()});
  const auto kernel = wide ? linear_cross_entropy_row_kernel<T, n> : linear_cross_entropy_row_kernel<T, 1>;
  const int64_t vector = int64_t(sizeof(T)) * (wide ? n : 1);
  const int64_t most_kept = cuda::most_shared_memory() - 2 * threads * int64_t(sizeof(Acc<T>));  // beside log_sum_exp's
  const int kept = with_gradient ? int(std::min(V * int64_t(sizeof(T)), most_kept) / vector) : 0, shared = kept * int(vector);
  cuda::allow_shared(kernel, shared);
  kernel<<<cuda::blocks_for(rows, 1), threads, shared, cuda::stream_of(logits.device())>>>(
      logits.data<T>(), labels.data<int32_t>(), nll.data<Acc<T>>(), V, cuda::data_or_null<double>(factor), with_gradient, kept);
  cuda::cuda_check(cudaGetLastError());
}

template <class T>
__global__ void linear_cross_entropy_loss_kernel(T* g_loss, const double* g_factor) {
  *g_loss = T(double(*g_loss) * *g_factor);
}

void forward(const LinearCrossEntropy& a) {
  const int64_t D = a.x.size(-1), rows = a.labels.numel(), R = a.block.size(0);
  const Tensor x = a.x.reshape(Shape{rows, D}), labels = a.labels.reshape(Shape{rows}), nll = a.nll.reshape(Shape{rows});
  const Tensor d_x = a.d_x ? a.d_x.reshape(Shape{rows, D}) : Tensor{};
  for (int64_t begin = 0; begin < rows; begin += R) {
    const int64_t end = std::min(rows, begin + R);
    const Tensor logits = a.block.rows(0, end - begin), x_block = x.rows(begin, end);
    matmul({.a = x_block, .b = a.weight, .c = logits, .transpose_b = true});
    visit<float, double, bf16>("linear_cross_entropy", x.dtype(), [&]<class T>() {
      gradients_of_rows<T>(logits, labels.rows(begin, end), nll.rows(begin, end), a.factor, bool(d_x));
    });
    if (!d_x) continue;
    matmul({.a = logits, .b = a.weight, .c = d_x.rows(begin, end)});
    matmul({.a = logits, .b = x_block, .c = a.d_weight, .transpose_a = true, .then = add_to(begin > 0 ? a.d_weight : Tensor())});
  }
  reduce_forward({.x = nll, .y = a.loss});
  if (!a.factor) return;
  visit<float, double>("linear_cross_entropy", a.loss.dtype(), [&]<class T>() {
    linear_cross_entropy_loss_kernel<<<1, 1, 0, cuda::stream_of(a.device())>>>(a.loss.data<T>(), a.factor.data<double>());
    cuda::cuda_check(cudaGetLastError());
  });
}

template <class T>
__global__ void linear_cross_entropy_scale_kernel(T* g_d, const Acc<T>* g_by, int64_t numel) {
  const Acc<T> by = *g_by;
  if (by == 1) return;
  for (int64_t i = cuda::thread_index(); i < numel; i += int64_t(gridDim.x) * blockDim.x) g_d[i] = T(Acc<T>(g_d[i]) * by);
}

void scale(const LinearCrossEntropyScale& a) {
  for (const Tensor& t : {a.d_x, a.d_weight})
    visit<float, double, bf16>("linear_cross_entropy", t.dtype(), [&]<class T>() {
      const unsigned blocks = unsigned(std::min<int64_t>(4096, (t.numel() + 255) / 256));
      linear_cross_entropy_scale_kernel<T>
          <<<blocks, 256, 0, cuda::stream_of(a.device())>>>(t.data<T>(), a.d_loss.data<Acc<T>>(), t.numel());
      cuda::cuda_check(cudaGetLastError());
    });
}

const Implement f{linear_cross_entropy, DeviceKind::cuda, forward};
const Implement s{linear_cross_entropy_scale, DeviceKind::cuda, scale};

}  // namespace
}  // namespace taper::kernels
