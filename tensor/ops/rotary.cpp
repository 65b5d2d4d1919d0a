// rotary on the CPU: the angles of a token are made once and serve all its heads.
#include "tensor/ops/rotary.h"

#include <cmath>
#include <vector>

#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

void turn(const Rotary& a) {
  visit<float, double, bf16>("rotary", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t B = a.x.size(0), steps = a.x.size(1), H = a.x.size(2), K = a.x.size(3), half = K / 2;
    const PackingView packing(a.packing, steps);
    std::vector<double> rate(static_cast<size_t>(half));
    for (int64_t n = 0; n < half; ++n) rate[size_t(n)] = std::pow(a.base, -2.0 * double(n) / double(K));
    parallel_for(B * steps, 16, [&](int64_t begin, int64_t end) {
      std::vector<A> cosine(static_cast<size_t>(half)), sine(cosine);
      for (int64_t i = begin; i < end; ++i) {
        const double position = double(packing.position(i / steps, i % steps) - 1);
        for (int64_t n = 0; n < half; ++n) {
          const double angle = position * rate[size_t(n)];
          cosine[size_t(n)] = A(std::cos(angle));
          sine[size_t(n)] = A(a.back ? -std::sin(angle) : std::sin(angle));
        }
        for (int64_t h = 0; h < H; ++h) {
          const T* x = a.x.data<T>() + (i * H + h) * K;
          T* y = a.y.data<T>() + (i * H + h) * K;
          for (int64_t n = 0; n < half; ++n) {
            const A low = A(x[n]), high = A(x[half + n]), c = cosine[size_t(n)], s = sine[size_t(n)];
            y[n] = T(low * c - high * s);
            y[half + n] = T(low * s + high * c);
          }
        }
      }
    });
  });
}

const Implement t{rotary_turn, DeviceKind::cpu, turn};

}  // namespace
}  // namespace taper::kernels
