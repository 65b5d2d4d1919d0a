// sigmoid_decay on the CPU.
#include "tensor/ops/sigmoid_decay.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/sums.h"
#include "tensor/vector_math.h"

namespace taper::kernels {
namespace {

void forward(const SigmoidDecayForward& a) {
  visit<float, double>("sigmoid_decay", a.u.dtype(), [&]<class T>() {
    const int64_t B = a.u.size(0), steps = a.u.size(1), D = a.u.size(2);
    const std::vector<T> none(size_t(D), T(0));
    const T *w0 = a.w0 ? a.w0.data<T>() : none.data(), *alpha = a.alpha ? a.alpha.data<T>() : none.data();
    const PackingView packing(a.packing, steps);
    parallel_for(B * steps, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, D)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T *u = a.u.data<T>() + i * D, log_n = T(std::log(double(packing.position(i / steps, i % steps)) / a.reference));
        T* log_w = a.log_w.data<T>() + i * D;
        for (int64_t j = 0; j < D; ++j)
          log_w[j] = T(-sigmoid_decay_bound) * math::sigmoid(u[j] + w0[j] - alpha[j] * log_n);
      }
    });
  });
}

void backward(const SigmoidDecayBackward& a) {
  visit<float, double>("sigmoid_decay", a.log_w.dtype(), [&]<class T>() {
    const int64_t B = a.log_w.size(0), steps = a.log_w.size(1), D = a.log_w.size(2);
    const PackingView packing(a.packing, steps);
    // Columns: D of d_w0, then D of d_alpha.
    const std::vector<double> sums = sum_columns(B * steps, 2 * D, [&](int64_t begin, int64_t end, double* sum) {
      for (int64_t i = begin; i < end; ++i) {
        const T *log_w = a.log_w.data<T>() + i * D, *d = a.d_log_w.data<T>() + i * D;
        T* d_u = a.d_u.data<T>() + i * D;
        for (int64_t j = 0; j < D; ++j) d_u[j] = d[j] * log_w[j] * (1 - log_w[j] / T(-sigmoid_decay_bound));
        if (a.d_w0)
          for (int64_t j = 0; j < D; ++j) sum[j] += double(d_u[j]);
        if (!a.d_alpha) continue;
        const double log_n = std::log(double(packing.position(i / steps, i % steps)) / a.reference);
        for (int64_t j = 0; j < D; ++j) sum[D + j] -= log_n * double(d_u[j]);
      }
    });
    for (int64_t j = 0; j < D; ++j) {
      if (a.d_w0) a.d_w0.data<T>()[j] = T(sums[size_t(j)]);
      if (a.d_alpha) a.d_alpha.data<T>()[j] = T(sums[size_t(D + j)]);
    }
  });
}

const Implement f{sigmoid_decay_forward, DeviceKind::cpu, forward};
const Implement b{sigmoid_decay_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
