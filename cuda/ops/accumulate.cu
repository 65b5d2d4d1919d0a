// accumulate on CUDA: one map, in place.
//   grid     numel/(512 n) blocks of 256 threads, each with two vectors of 16 bytes (n elements)
//   traffic  sum and d read, sum written: 16384 x 768 in bf16 76 MB, 25 us; 98 million f32 (a table of 128256 x 768) 1.2 GB, 0.4 ms
//   limits   f32 f64 bf16, any size; one element at a time where a tensor is not aligned to its vectors
//   ceiling  HBM
#include "tensor/ops/accumulate.h"

#include "cuda/elementwise.cuh"

namespace taper::kernels {
namespace {

template <class T>
struct AccumulateMap {
  T* g_sum;
  const T* g_d;

  template <int n>
  struct Read {
    cuda::Vector<T, n> sum, d;
  };
  template <int n>
  __device__ auto read(int64_t i) const {
    return Read<n>{cuda::load<n>(g_sum + i), cuda::load<n>(g_d + i)};
  }
  template <int n, class R>
  __device__ void write(int64_t i, const R& r) const {
    Acc<T> sum[n];
#pragma unroll
    for (int k = 0; k < n; ++k) sum[k] = Acc<T>(r.sum.at[k]) + Acc<T>(r.d.at[k]);
    cuda::store(g_sum + i, sum);
  }
};

void forward(const Accumulate& a) {
  check_accumulate(a);
  visit<float, double, bf16>("accumulate", a.sum.dtype(), [&]<class T>() {
    constexpr int n = cuda::vector_width<T>;
    const AccumulateMap<T> map{a.sum.data<T>(), a.d.data<T>()};
    cuda::run_map<n>(a.device(), a.sum.numel(), cuda::aligned(n, map.g_sum) && cuda::aligned(n, map.g_d), map);
  });
}

const Implement f{accumulate, DeviceKind::cuda, forward};

}  // namespace
}  // namespace taper::kernels
