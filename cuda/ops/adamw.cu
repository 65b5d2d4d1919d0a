// adamw on CUDA: all parameters in a few launches of one kernel; what they share is computed once, by one thread.
//   grid     a block of 256 per 4096 elements of a tensor; some 60 tensors a launch
//   traffic  28 bytes a parameter of f32 (value, moments read and written, gradient read): 188.9 million 5.3 GB, 1.76 ms
//   limits   f32 f64, any shapes; one element at a time where a tensor is not aligned to its vectors
//   ceiling  HBM
#include "tensor/ops/adamw.h"

#include "cuda/elementwise.cuh"
#include "cuda/pieces.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256, vectors_each = 4;

// What does not depend on the parameter.
struct Shared {
  double scale, lr, rate, root;  // of the gradient; before each tensor's lr_scale; 1 / (1 - beta1^t); 1 / sqrt(1 - beta2^t)
  bool finite;
};

__global__ void adamw_shared_kernel(const double* g_rate, const double* g_scale, const int32_t* g_finite, const int64_t* g_steps, double beta1,
                                    double beta2, Shared* g_shared) {
  const double t = double(*g_steps);
  *g_shared = {*g_scale, *g_rate, 1 / (1 - pow(beta1, t)), 1 / sqrt(1 - pow(beta2, t)), *g_finite != 0};
}

template <class T>
struct Entry {
  T* g_value;
  const T* g_gradient;
  T *g_moment1, *g_moment2;
  int64_t numel;
  double lr_scale, weight_decay;
};

template <class T>
struct Rule {
  T scale, keep, b1, c1, b2, c2, rate, root, eps;

  template <int n>
  __device__ void update(const Entry<T>& e, int64_t i, const cuda::Vector<T, n>& value, const cuda::Vector<T, n>& gradient,
                         const cuda::Vector<T, n>& moment1, const cuda::Vector<T, n>& moment2) const {
    T x[n], m[n], v[n];
#pragma unroll
    for (int k = 0; k < n; ++k) {
      const T g = scale * gradient.at[k];
      m[k] = b1 * moment1.at[k] + c1 * g;
      v[k] = b2 * moment2.at[k] + c2 * (g * g);
      x[k] = keep * value.at[k] - rate * m[k] / (sqrt(v[k]) * root + eps);
    }
    cuda::store(e.g_moment1 + i, m);
    cuda::store(e.g_moment2 + i, v);
    cuda::store(e.g_value + i, x);
  }
  template <int n>
  __device__ void update(const Entry<T>& e, int64_t i) const {
    update<n>(e, i, cuda::load<n>(e.g_value + i), cuda::load<n>(e.g_gradient + i), cuda::load<n>(e.g_moment1 + i),
              cuda::load<n>(e.g_moment2 + i));
  }
};

template <class T>
constexpr int64_t piece = int64_t(threads) * vectors_each * cuda::vector_width<T>;

template <class T>
__global__ __launch_bounds__(threads) void adamw_kernel(const __grid_constant__ cuda::Pieces<Entry<T>> table, const Shared* g_shared,
                                                        double beta1, double beta2, double eps) {
  const Shared shared = *g_shared;
  if (!shared.finite) return;
  const int t = table.tensor_of(int(blockIdx.x));
  const Entry<T> e = table.entry[t];
  const double lr = shared.lr * e.lr_scale;
  const Rule<T> rule{T(shared.scale), T(1 - lr * e.weight_decay), T(beta1),       T(1 - beta1), T(beta2), T(1 - beta2),
                     T(lr * shared.rate), T(shared.root),         T(eps)};
  constexpr int n = cuda::vector_width<T>, both = 2;  // vectors of a thread in flight
  const uintptr_t all = reinterpret_cast<uintptr_t>(e.g_value) | reinterpret_cast<uintptr_t>(e.g_gradient) |
                        reinterpret_cast<uintptr_t>(e.g_moment1) | reinterpret_cast<uintptr_t>(e.g_moment2);
  const int64_t begin = int64_t(int(blockIdx.x) - table.first[t]) * piece<T>;
  if (all % 16 != 0 || begin + piece<T> > e.numel) {  // the last piece, and the unaligned
    const int64_t end = min(e.numel, begin + piece<T>), whole = all % 16 == 0 ? begin + (end - begin) / n * n : begin;
    for (int64_t i = begin + int64_t(threadIdx.x) * n; i < whole; i += threads * n) rule.template update<n>(e, i);
    for (int64_t i = whole + threadIdx.x; i < end; i += threads) rule.template update<1>(e, i);
    return;
  }
#pragma unroll
  for (int v = 0; v < vectors_each; v += both) {
    cuda::Vector<T, n> r_value[both], r_gradient[both], r_moment1[both], r_moment2[both];
    const int64_t i = begin + (int64_t(v) * threads + threadIdx.x) * n;
#pragma unroll
    for (int u = 0; u < both; ++u) {
      r_value[u] = cuda::load<n>(e.g_value + i + u * threads * n);
      r_gradient[u] = cuda::load<n>(e.g_gradient + i + u * threads * n);
      r_moment1[u] = cuda::load<n>(e.g_moment1 + i + u * threads * n);
      r_moment2[u] = cuda::load<n>(e.g_moment2 + i + u * threads * n);
    }
#pragma unroll
    for (int u = 0; u < both; ++u)
      rule.template update<n>(e, i + u * threads * n, r_value[u], r_gradient[u], r_moment1[u], r_moment2[u]);
  }
}

void update(const AdamWUpdate& a) {
  check_adamw(a);
  const cudaStream_t stream = cuda::stream_of(a.device());
  const Tensor shared(a.device(), {int64_t(sizeof(Shared) / sizeof(double))}, Dtype::f64);
  auto* g_shared = static_cast<Shared*>(shared.data<void>());
  adamw_shared_kernel<<<1, 1, 0, stream>>>(a.rate.data<double>(), a.scale.data<double>(), a.finite.data<int32_t>(), a.steps.data<int64_t>(), a.beta1,
                                           a.beta2, g_shared);
  cuda::cuda_check(cudaGetLastError());
  const auto launch = [&]<class T>() {
    std::vector<Entry<T>> entries;
    for (const AdamWTensor& t : a.tensors)
      if (t.value.dtype() == dtype_of<T>())
        entries.push_back({t.value.data<T>(), t.gradient.data<T>(), t.moment1.data<T>(), t.moment2.data<T>(), t.value.numel(), t.lr_scale,
                           t.weight_decay});
    cuda::for_pieces(entries, piece<T>, [&](const cuda::Pieces<Entry<T>>& table, int64_t) {
      adamw_kernel<T><<<unsigned(table.blocks), threads, 0, stream>>>(table, g_shared, a.beta1, a.beta2, a.eps);
      cuda::cuda_check(cudaGetLastError());
    });
  };
  launch.template operator()<float>();
  launch.template operator()<double>();
}

const Implement u{adamw, DeviceKind::cuda, update};

}  // namespace
}  // namespace taper::kernels
