// dropout on CUDA: one map; each element draws its own block of the generator, forward and backward.
//   grid     numel/(512 n) blocks of 256 threads, each with two vectors of 16 bytes (n elements)
//   traffic  x read once, y written once: 16384 x 768 in bf16 50 MB, 17 us
//   limits   f32 f64 bf16, any size; one element at a time where a tensor is not aligned to its vectors
//   ceiling  the generator: 20 wide multiplications and as many exclusive ors an element, about 35 us for those 12.6 million
#include "tensor/ops/dropout.h"

#include <algorithm>
#include <cmath>

#include "cuda/elementwise.cuh"

namespace taper::kernels {
namespace {

template <class T>
struct DropoutMap {
  const T* g_x;
  T* g_y;
  const int64_t* g_key;
  uint64_t first_kept;  // of the upper 52 bits of a draw
  Acc<T> scale;

  template <int n>
  __device__ auto read(int64_t i) const {
    return cuda::load<n>(g_x + i);
  }
  template <int n, class R>
  __device__ void write(int64_t i, const R& r_x) const {
    const Random random = Random::of_key(g_key);
    Acc<T> y[n];
#pragma unroll
    for (int k = 0; k < n; ++k)
      y[k] = random.bits(uint64_t(i + k)) >> 12 >= first_kept ? Acc<T>(r_x.at[k]) * scale : Acc<T>(0);
    cuda::store(g_y + i, y);
  }
};

void forward(const Dropout& a) {
  visit<float, double, bf16>("dropout", a.x.dtype(), [&]<class T>() {
    constexpr int n = cuda::vector_width<T>;
    // uniform() = (bits / 2^12 + 1/2) / 2^52, so uniform() >= p where the integer is at least p 2^52 - 1/2. All are exact.
    const uint64_t first_kept = uint64_t(std::max(0.0, std::ceil(a.p * 0x1p52 - 0.5)));
    const DropoutMap<T> map{a.x.data<T>(), a.y.data<T>(), a.key.data<int64_t>(), first_kept, Acc<T>(1 / (1 - a.p))};
    cuda::run_map<n>(a.device(), a.x.numel(), cuda::aligned(n, map.g_x) && cuda::aligned(n, map.g_y), map);
  });
}

const Implement f{dropout, DeviceKind::cuda, forward};

}  // namespace
}  // namespace taper::kernels
