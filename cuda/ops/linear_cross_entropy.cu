// linear_cross_entropy on CUDA: three matmuls a block of rows, and between them one kernel that turns logits into gradients.
//   plan     logits of a block of rows by matmul; a thread block per row takes its log-sum-exp, then overwrites the row by
//            factor * (softmax - onehot); the two gradients by matmul, the weight's added up over the blocks of rows
//   grid     rows blocks of 1024 threads
//   padding  a row of logits takes whole 16 bytes: the tensor cores' products read and write nothing less. Where V does not (GPT-2's
//            50257), the products see a copy of the weight with rows of 0 at its end, and d_weight is copied out of one as long;
//            the logits behind V are -infinity, their gradients 0
//   traffic  a row is read and written once: what shared memory holds of it waits there, the rest (a fifth of 128256 bf16) is
//            read again, from L2. 16384 x 128256 in bf16: 8.4 GB, 2.8 ms beside 15 ms of products
//   limits   f32 f64 bf16, any V
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

template <class T>
constexpr int in_16_bytes = 16 / int(sizeof(T));

template <class T>
__global__ __launch_bounds__(threads) void linear_cross_entropy_row_kernel(T* g_logits,              // [rows,C], then gradients
                                                                           const int32_t* g_labels,  // [rows]
                                                                           Acc<T>* g_nll,            // [rows]
                                                                           int64_t V, int64_t C, const double* g_factor, bool with_gradient,
                                                                           int kept) {  // vectors of a row
  using A = Acc<T>;
  constexpr int n = in_16_bytes<T>;
  extern __shared__ __align__(16) unsigned char s_bytes[];
  auto* s_row = reinterpret_cast<cuda::Vector<T, n>*>(s_bytes);
  const int64_t row = blockIdx.x;
  auto* g_row = reinterpret_cast<cuda::Vector<T, n>*>(g_logits + row * C);
  const int64_t vectors = C / n;
  if (V < C) {
    if (threadIdx.x < C - V) g_logits[row * C + V + threadIdx.x] = T(-A(INFINITY));
    __syncthreads();
  }

  const A lse = cuda::log_sum_exp<threads>(g_row, vectors, [&](int64_t i, const cuda::Vector<T, n>& v) {
    if (i < kept) s_row[i] = v;  // for the same thread
  });
  const int32_t label = g_labels[row];
  const bool ignored = label == ignored_label, valid = 0 <= label && label < V;
  if (threadIdx.x == 0) g_nll[row] = ignored ? A(0) : valid ? lse - A(g_logits[row * C + label]) : A(NAN);
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
void gradients_of_rows(const Tensor& logits, int64_t V, const Tensor& labels, const Tensor& nll, const Tensor& factor, bool with_gradient) {
  const int64_t rows = logits.size(0), C = logits.size(1);
  const auto kernel = linear_cross_entropy_row_kernel<T>;
  const int64_t most_kept = cuda::most_shared_memory() - 2 * threads * int64_t(sizeof(Acc<T>));  // beside log_sum_exp's
  const int kept = with_gradient ? int(std::min(C * int64_t(sizeof(T)), most_kept) / 16) : 0, shared = kept * 16;
  cuda::allow_shared(kernel, shared);
  kernel<<<cuda::blocks_for(rows, 1), threads, shared, cuda::stream_of(logits.device())>>>(
      logits.data<T>(), labels.data<int32_t>(), nll.data<Acc<T>>(), V, C, cuda::data_or_null<double>(factor), with_gradient, kept);
  cuda::cuda_check(cudaGetLastError());
}

// weight [V,D] with rows of 0 behind it.
Tensor padded(const Tensor& weight, int64_t rows) {
  const int64_t V = weight.size(0);
  const Tensor out(weight.device(), {rows, weight.size(1)}, weight.dtype()), tail = out.rows(V, rows);
  copy_into(out.rows(0, V), weight);
  out.device().fill(tail.data<void>(), 0, tail.bytes());
  return out;
}

template <class T>
__global__ void linear_cross_entropy_loss_kernel(T* g_loss, const double* g_factor) {
  *g_loss = T(double(*g_loss) * *g_factor);
}

void forward(const LinearCrossEntropy& a) {
  const int64_t D = a.x.size(-1), V = a.weight.size(0), rows = a.labels.numel(), R = a.block.size(0), C = a.block.size(1);
  const Tensor x = a.x.reshape(Shape{rows, D}), labels = a.labels.reshape(Shape{rows}), nll = a.nll.reshape(Shape{rows});
  const Tensor d_x = a.d_x ? a.d_x.reshape(Shape{rows, D}) : Tensor{};
  const Tensor weight = V < C ? padded(a.weight, C) : a.weight;
  const Tensor d_weight = d_x && V < C ? Tensor(a.device(), {C, D}, a.d_weight.dtype()) : a.d_weight;
  for (int64_t begin = 0; begin < rows; begin += R) {
    const int64_t end = std::min(rows, begin + R);
    const Tensor logits = a.block.rows(0, end - begin), x_block = x.rows(begin, end);
    matmul({.a = x_block, .b = weight, .c = logits, .transpose_b = true});
    visit<float, double, bf16>("linear_cross_entropy", x.dtype(), [&]<class T>() {
      gradients_of_rows<T>(logits, V, labels.rows(begin, end), nll.rows(begin, end), a.factor, bool(d_x));
    });
    if (!d_x) continue;
    matmul({.a = logits, .b = weight, .c = d_x.rows(begin, end)});
    matmul({.a = logits, .b = x_block, .c = d_weight, .transpose_a = true, .then = add_to(begin > 0 ? d_weight : Tensor())});
  }
  if (d_x && V < C) copy_into(a.d_weight, d_weight.rows(0, V));
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
