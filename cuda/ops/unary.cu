// unary on CUDA: one map for every function of scalar_math.h.
//   grid     numel/(512 n) blocks of 256 threads, each with two vectors of 16 bytes (n elements)
//   traffic  forward reads x, writes y; backward reads d_y and of x and y what the slope needs, writes d_x
//            16384 x 1536 in bf16: forward 101 MB, 34 us; backward of silu 151 MB, 50 us
//   limits   f32 f64 bf16, any size; one element at a time where a tensor is not aligned to its vectors
//   ceiling  HBM in bf16; f32's accurate silu, sigmoid and tanh come within reach of the arithmetic
#include "tensor/ops/unary.h"

#include <tuple>

#include "cuda/elementwise.cuh"
#include "cuda/sigmoid.cuh"

namespace taper::kernels {
namespace {

// What computes F in T: for bf16 the hardware's exponential, some ulp of f32 off, where the accurate one would cost more
// than the memory.
template <class F, class T>
struct Computed : F {};

template <>
struct Computed<scalar::Silu, bf16> {
  __device__ float value(float x) const { return x * cuda::sigmoid<bf16>(x); }
  __device__ float slope(float x, float) const {
    const float s = cuda::sigmoid<bf16>(x);
    return s * (1 + x * (1 - s));
  }
};
template <>
struct Computed<scalar::Sigmoid, bf16> {
  __device__ float value(float x) const { return cuda::sigmoid<bf16>(x); }
  __device__ float slope(float, float y) const { return y * (1 - y); }
};

template <class F, class T>
Computed<F, T> computed(const F& f) {
  if constexpr (std::is_base_of_v<F, Computed<F, T>>) return {f};
  else return {};
}

template <class T, class F>
struct ForwardMap {
  const T* g_x;
  T* g_y;
  F f;

  template <int n>
  __device__ auto read(int64_t i) const {
    return cuda::load<n>(g_x + i);
  }
  template <int n, class R>
  __device__ void write(int64_t i, const R& r_x) const {
    Acc<T> y[n];
#pragma unroll
    for (int k = 0; k < n; ++k) y[k] = f.value(Acc<T>(r_x.at[k]));
    cuda::store(g_y + i, y);
  }
};

template <class T, class F>
struct BackwardMap {
  const T *g_x, *g_y, *g_d_y;
  T* g_d_x;
  F f;

  template <int n>
  struct Read {
    cuda::Vector<T, n> x, y, d_y;
  };
  template <int n>
  __device__ auto read(int64_t i) const {
    return Read<n>{cuda::load<n>(g_x + i), cuda::load<n>(g_y + i), cuda::load<n>(g_d_y + i)};
  }
  template <int n, class R>
  __device__ void write(int64_t i, const R& r) const {
    Acc<T> d_x[n];
#pragma unroll
    for (int k = 0; k < n; ++k) d_x[k] = f.slope(Acc<T>(r.x.at[k]), Acc<T>(r.y.at[k])) * Acc<T>(r.d_y.at[k]);
    cuda::store(g_d_x + i, d_x);
  }
};

template <class F>
void forward(const UnaryForward<F>& a) {
  visit<float, double, bf16>(F::name, a.x.dtype(), [&]<class T>() {
    constexpr int n = cuda::vector_width<T>;
    const T* x = a.x.template data<T>();
    T* y = a.y.template data<T>();
    cuda::run_map<n>(a.device(), a.x.numel(), cuda::aligned(n, x) && cuda::aligned(n, y),
                     ForwardMap<T, Computed<F, T>>{x, y, computed<F, T>(a.f)});
  });
}

template <class F>
void backward(const UnaryBackward<F>& a) {
  visit<float, double, bf16>(F::name, a.x.dtype(), [&]<class T>() {
    constexpr int n = cuda::vector_width<T>;
    const T *x = a.x.template data<T>(), *y = a.y.template data<T>(), *d_y = a.d_y.template data<T>();
    T* d_x = a.d_x.template data<T>();
    const bool vectors = cuda::aligned(n, x) && cuda::aligned(n, y) && cuda::aligned(n, d_y) && cuda::aligned(n, d_x);
    cuda::run_map<n>(a.device(), a.x.numel(), vectors,
                     BackwardMap<T, Computed<F, T>>{x, y, d_y, d_x, computed<F, T>(a.f)});
  });
}

template <class... F>
struct Functions {
  std::tuple<Implement<UnaryForward<F>>...> forwards{{unary_forward<F>, DeviceKind::cuda, forward<F>}...};
  std::tuple<Implement<UnaryBackward<F>>...> backwards{{unary_backward<F>, DeviceKind::cuda, backward<F>}...};
};

using namespace scalar;
const Functions<Silu, Sigmoid, Tanh, Relu, ReluSquared, Exp, Log, Softplus, Negate, Square, Scale> functions;

}  // namespace
}  // namespace taper::kernels
