// reduce on the CPU.
#include "tensor/ops/reduce.h"

#include "tensor/sums.h"

namespace taper::kernels {
namespace {

constexpr int64_t grain = 1 << 14;

void forward(const ReduceForward& a) {
  visit<float, double, bf16>("reduce", a.x.dtype(), [&]<class T>() {
    const T* x = a.x.data<T>();
    const double sum = parallel_sum<double>(a.x.numel(), grain, [&](int64_t begin, int64_t end) {
      return lane_sum<double>(end - begin, [&](int64_t i) { return Acc<T>(x[begin + i]); });
    });
    *a.y.data<T>() = T(Acc<T>(a.factor * sum));
  });
}

void backward(const ReduceBackward& a) {
  visit<float, double, bf16>("reduce", a.d_x.dtype(), [&]<class T>() {
    const T d = T(Acc<T>(a.factor * Acc<T>(*a.d_y.data<T>())));
    T* d_x = a.d_x.data<T>();
    parallel_for(a.d_x.numel(), grain, [&](int64_t begin, int64_t end) { std::fill(d_x + begin, d_x + end, d); });
  });
}

const Implement f{reduce_forward, DeviceKind::cpu, forward};
const Implement b{reduce_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
