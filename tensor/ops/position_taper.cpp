// position_taper on the CPU: the definition, written to be read.
#include "tensor/ops/position_taper.h"

#include <cmath>

#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

void forward(const PositionTaperForward& a) {
  visit<float, double>("position_taper", a.s.dtype(), [&]<class T>() {
    const int64_t B = a.s.size(0), steps = a.s.size(1), H = a.s.size(2);
    const T* alpha = a.alpha.data<T>();
    T* s = a.s.data<T>();
    const PackingView packing(a.packing, steps);
    parallel_for(B * steps, 256, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T log_n = std::log(T(double(packing.position(i / steps, i % steps)) / a.reference));
        for (int64_t h = 0; h < H; ++h) s[i * H + h] = std::exp(-alpha[h] * log_n);
      }
    });
  });
}

void backward(const PositionTaperBackward& a) {
  visit<float, double>("position_taper", a.s.dtype(), [&]<class T>() {
    const int64_t B = a.s.size(0), steps = a.s.size(1), H = a.s.size(2);
    const T *s = a.s.data<T>(), *d_s = a.d_s.data<T>();
    T* d_alpha = a.d_alpha.data<T>();
    const PackingView packing(a.packing, steps);
    // The sum runs over B*T terms of mixed sign: f64, in one order.
    parallel_for(H, 1, [&](int64_t begin, int64_t end) {
      for (int64_t h = begin; h < end; ++h) {
        double sum = 0;
        for (int64_t i = 0; i < B * steps; ++i)
          sum -= std::log(double(packing.position(i / steps, i % steps)) / a.reference) * double(s[i * H + h]) *
                 double(d_s[i * H + h]);
        d_alpha[h] = T(sum);
      }
    });
  });
}

const Implement f{position_taper_forward, DeviceKind::cpu, forward};
const Implement b{position_taper_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
