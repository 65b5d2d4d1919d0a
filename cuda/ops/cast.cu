// cast on CUDA: one map for every pair of dtypes.
//   grid     numel/(512 n) blocks of 256 threads; n elements fill 16 bytes of the narrower dtype
//   traffic  x read once, y written once: f32 to bf16 of 16384 x 768 75 MB, 25 us; of 129 million weights 0.77 GB, 258 us
//   limits   f32 f64 bf16, any size; one element at a time where a tensor is not aligned to its vectors
//   ceiling  HBM
#include "tensor/ops/cast.h"

#include "cuda/elementwise.cuh"

namespace taper::kernels {
namespace {

template <class From, class To>
struct CastMap {
  const From* g_x;
  To* g_y;

  template <int n>
  __device__ auto read(int64_t i) const {
    return cuda::load<n>(g_x + i);
  }
  template <int n, class R>
  __device__ void write(int64_t i, const R& r_x) const {
    Acc<To> y[n];
#pragma unroll
    for (int k = 0; k < n; ++k) y[k] = Acc<To>(Acc<From>(r_x.at[k]));
    cuda::store(g_y + i, y);
  }
};

void forward(const Cast& a) {
  visit<float, double, bf16>("cast", a.x.dtype(), [&]<class From>() {
    visit<float, double, bf16>("cast", a.y.dtype(), [&]<class To>() {
      constexpr int n = cuda::vector_width<From, To>;
      const CastMap<From, To> map{a.x.data<From>(), a.y.data<To>()};
      cuda::run_map<n>(a.device(), a.x.numel(), cuda::aligned(n, map.g_x) && cuda::aligned(n, map.g_y), map);
    });
  });
}

const Implement f{cast, DeviceKind::cuda, forward};

}  // namespace
}  // namespace taper::kernels
