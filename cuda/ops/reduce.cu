// reduce on CUDA: blocks sum stretches, one block sums the blocks, in f64; backward writes one number everywhere.
//   grid     forward numel/(4096 n) blocks of 256 threads, then one of 1024; backward numel/(512 n) blocks of 256
//   traffic  forward reads x once, backward writes d_x once: 16384 x 1536 in f32 101 MB, 34 us
//   limits   f32 f64 bf16, any size, none included; one element at a time where a tensor is not aligned to its vectors
//   ceiling  HBM
#include "tensor/ops/reduce.h"

#include "cuda/elementwise.cuh"
#include "cuda/sums.cuh"

namespace taper::kernels {
namespace {

template <class T>
struct Elements {
  const T* g_x;

  template <int n>
  __device__ double add(int64_t i) const {
    const auto r_x = cuda::load<n>(g_x + i);
    double sum = 0;
#pragma unroll
    for (int k = 0; k < n; ++k) sum += double(Acc<T>(r_x.at[k]));
    return sum;
  }
};

template <class T>
struct FillMap {
  const T* g_d_y;  // []
  T* g_d_x;
  double factor;

  template <int n>
  __device__ auto read(int64_t) const {
    return Acc<T>(factor * double(Acc<T>(*g_d_y)));
  }
  template <int n, class R>
  __device__ void write(int64_t i, const R& r_d) const {
    Acc<T> d_x[n];
#pragma unroll
    for (int k = 0; k < n; ++k) d_x[k] = r_d;
    cuda::store(g_d_x + i, d_x);
  }
};

void forward(const ReduceForward& a) {
  visit<float, double, bf16>("reduce", a.x.dtype(), [&]<class T>() {
    constexpr int n = cuda::vector_width<T>;
    const Elements<T> elements{a.x.data<T>()};
    cuda::sum_total<T, n>(a.device(), a.x.numel(), cuda::aligned(n, elements.g_x), elements, a.y.data<T>(), a.factor);
  });
}

void backward(const ReduceBackward& a) {
  visit<float, double, bf16>("reduce", a.d_x.dtype(), [&]<class T>() {
    constexpr int n = cuda::vector_width<T>;
    const FillMap<T> map{a.d_y.data<T>(), a.d_x.data<T>(), a.factor};
    cuda::run_map<n>(a.device(), a.d_x.numel(), cuda::aligned(n, map.g_d_x), map);
  });
}

const Implement f{reduce_forward, DeviceKind::cuda, forward};
const Implement b{reduce_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
