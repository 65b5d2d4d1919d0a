// gated_rms_norm on the CPU. Both orders are y = v * r(v) * w * m, with (v, m) = (x silu(z), 1) or (x, silu(z)).
#include "tensor/ops/gated_rms_norm.h"

#include <cmath>

#include "tensor/ops/scalar_math.h"
#include "tensor/sums.h"

namespace taper::kernels {
namespace {

void forward(const GatedRmsNormForward& a) {
  visit<float, double, bf16>("gated_rms_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t D = a.x.size(-1), rows = a.r.numel();
    const bool gate_first = a.gate_first;
    const A* w = a.weight.data<A>();
    A* r = a.r.data<A>();
    parallel_for(rows, std::max<int64_t>(1, (1 << 14) / D), [&](int64_t begin, int64_t end) {
      std::vector<A> normed(static_cast<size_t>(D)), factor(static_cast<size_t>(D));
      A *v = normed.data(), *m = factor.data();
      for (int64_t i = begin; i < end; ++i) {
        const T *x = a.x.data<T>() + i * D, *z = a.gate.data<T>() + i * D;
        T* y = a.y.data<T>() + i * D;
        for (int64_t j = 0; j < D; ++j) m[j] = scalar::Silu().value(A(z[j]));
        for (int64_t j = 0; j < D; ++j) v[j] = gate_first ? A(x[j]) * m[j] : A(x[j]);
        const A squares = lane_sum<A>(D, [&](int64_t j) { return v[j] * v[j]; });
        r[i] = 1 / std::sqrt(squares / A(D) + A(a.eps));
        const A scale = r[i];
        for (int64_t j = 0; j < D; ++j) y[j] = T(v[j] * scale * w[j] * (gate_first ? A(1) : m[j]));
      }
    });
  });
}

void backward(const GatedRmsNormBackward& a) {
  visit<float, double, bf16>("gated_rms_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t D = a.x.size(-1), rows = a.r.numel();
    const bool gate_first = a.gate_first;
    const A* w = a.weight.data<A>();
    const std::vector<double> d_w = sum_columns(rows, D, [&](int64_t begin, int64_t end, double* sum) {
      std::vector<A> buffer(static_cast<size_t>(4 * D));
      A *v = buffer.data(), *silu = v + D, *slope = silu + D, *g = slope + D;  // g: gradient of v * r(v)
      for (int64_t i = begin; i < end; ++i) {
        const T *x = a.x.data<T>() + i * D, *z = a.gate.data<T>() + i * D, *d_y = a.d_y.data<T>() + i * D;
        const A r = a.r.data<A>()[i];
        // Short loops: past a handful of pointers the compiler gives up on telling them apart.
        for (int64_t j = 0; j < D; ++j) {
          const A s = math::sigmoid(A(z[j]));
          silu[j] = A(z[j]) * s;
          slope[j] = s * (1 + A(z[j]) * (1 - s));
        }
        for (int64_t j = 0; j < D; ++j) v[j] = gate_first ? A(x[j]) * silu[j] : A(x[j]);
        for (int64_t j = 0; j < D; ++j) g[j] = A(d_y[j]) * w[j] * (gate_first ? A(1) : silu[j]);
        const A pull = r * r * lane_sum<A>(D, [&](int64_t j) { return g[j] * v[j]; }) / A(D);
        if (a.d_x) {
          T* d_x = a.d_x.data<T>() + i * D;
          for (int64_t j = 0; j < D; ++j) {
            const A d_v = r * (g[j] - v[j] * pull);
            d_x[j] = T(gate_first ? d_v * silu[j] : d_v);
          }
        }
        if (a.d_gate) {
          T* d_gate = a.d_gate.data<T>() + i * D;
          for (int64_t j = 0; j < D; ++j) {
            const A d_silu = gate_first ? r * (g[j] - v[j] * pull) * A(x[j]) : A(d_y[j]) * w[j] * v[j] * r;
            d_gate[j] = T(d_silu * slope[j]);
          }
        }
        if (a.d_weight)
          for (int64_t j = 0; j < D; ++j)
            sum[j] += double(A(d_y[j]) * v[j] * r * (gate_first ? A(1) : silu[j]));
      }
    });
    if (!a.d_weight) return;
    for (int64_t j = 0; j < D; ++j) a.d_weight.data<A>()[j] = A(d_w[size_t(j)]);
  });
}

const Implement f{gated_rms_norm_forward, DeviceKind::cpu, forward};
const Implement b{gated_rms_norm_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
