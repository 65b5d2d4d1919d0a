// cross_entropy on the CPU.
#include "tensor/ops/cross_entropy.h"

#include <cmath>

#include "tensor/error.h"
#include "tensor/sums.h"
#include "tensor/vector_math.h"

namespace taper::kernels {
namespace {

template <class T>
T row_max(const T* x, int64_t n) {  // in lanes, as lane_sum; a NaN is caught by the sum that follows
  constexpr int64_t lanes = 16;
  T most[lanes];
  std::fill_n(most, lanes, x[0]);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int64_t l = 0; l < lanes; ++l) most[l] = x[i + l] > most[l] ? x[i + l] : most[l];
  for (; i < n; ++i) most[0] = std::max(most[0], x[i]);
  return *std::max_element(most, most + lanes);
}

int64_t rows_at_once(int64_t V) { return std::max<int64_t>(1, (1 << 14) / V); }

void forward(const CrossEntropyForward& a) {
  visit<float, double>("cross_entropy", a.logits.dtype(), [&]<class T>() {
    const int64_t V = a.logits.size(-1), rows = a.labels.numel();
    const int32_t* labels = a.labels.data<int32_t>();
    T *nll = a.nll.data<T>(), *lse = a.lse.data<T>();
    parallel_for(rows, rows_at_once(V), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        check(labels[i] == ignored_label || (0 <= labels[i] && labels[i] < V), Exit::bad_data,
              "cross_entropy: labels must lie in [0,{}) or be {}; position {} holds {}", V, ignored_label, i, labels[i]);
        const T* x = a.logits.data<T>() + i * V;
        const T most = row_max(x, V);
        lse[i] = most + std::log(lane_sum<T>(V, [&](int64_t v) { return math::exp(x[v] - most); }));
        nll[i] = labels[i] == ignored_label ? T(0) : lse[i] - x[labels[i]];
      }
    });
  });
}

void backward(const CrossEntropyBackward& a) {
  visit<float, double>("cross_entropy", a.logits.dtype(), [&]<class T>() {
    const int64_t V = a.logits.size(-1), rows = a.labels.numel();
    const int32_t* labels = a.labels.data<int32_t>();
    const T *lse = a.lse.data<T>(), *d_nll = a.d_nll.data<T>();
    parallel_for(rows, rows_at_once(V), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* x = a.logits.data<T>() + i * V;
        T* d = a.d_logits.data<T>() + i * V;
        if (labels[i] == ignored_label) {
          std::fill_n(d, V, T(0));
          continue;
        }
        const T l = lse[i], scale = d_nll[i], right = math::exp(x[labels[i]] - l);
        for (int64_t v = 0; v < V; ++v) d[v] = math::exp(x[v] - l) * scale;
        d[labels[i]] = (right - 1) * scale;
      }
    });
  });
}

const Implement f{cross_entropy_forward, DeviceKind::cpu, forward};
const Implement b{cross_entropy_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
