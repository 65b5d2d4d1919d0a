// embedding on the CPU.
#include "tensor/ops/embedding.h"

#include <algorithm>
#include <vector>

#include "tensor/error.h"
#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

void forward(const EmbeddingForward& a) {
  const int64_t V = a.table.size(0), D = a.table.size(1), n = a.ids.numel();
  const int32_t* ids = a.ids.data<int32_t>();
  for (int64_t i = 0; i < n; ++i)
    check(0 <= ids[i] && ids[i] < V, Exit::bad_data, "embedding: token ids must lie in [0,{}); position {} holds {}", V,
          i, ids[i]);
  visit<float, double, bf16>("embedding", a.table.dtype(), [&]<class T>() {
    const T* table = a.table.data<T>();
    T* y = a.y.data<T>();
    parallel_for(n, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, D)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) std::copy_n(table + ids[i] * D, D, y + i * D);
    });
  });
}

void backward(const EmbeddingBackward& a) {
  const int64_t V = a.d_table.size(0), D = a.d_table.size(1), n = a.ids.numel();
  const int32_t* ids = a.ids.data<int32_t>();
  // The positions of each token, by rising position: order[first[v]..first[v+1]).
  std::vector<int64_t> first(size_t(V + 1)), order(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) ++first[size_t(ids[i]) + 1];
  for (int64_t v = 0; v < V; ++v) first[size_t(v) + 1] += first[size_t(v)];
  std::vector<int64_t> next(first.begin(), first.end());
  for (int64_t i = 0; i < n; ++i) order[size_t(next[size_t(ids[i])]++)] = i;

  visit<float, double, bf16>("embedding", a.d_table.dtype(), [&]<class T>() {
    const T* d_y = a.d_y.data<T>();
    T* d_table = a.d_table.data<T>();
    parallel_for(V, 16, [&](int64_t begin, int64_t end) {
      std::vector<Acc<T>> sum(static_cast<size_t>(D));
      for (int64_t v = begin; v < end; ++v) {
        std::ranges::fill(sum, Acc<T>(0));
        for (int64_t k = first[size_t(v)]; k < first[size_t(v) + 1]; ++k) {
          const T* row = d_y + order[size_t(k)] * D;
          for (int64_t j = 0; j < D; ++j) sum[size_t(j)] += Acc<T>(row[j]);
        }
        for (int64_t j = 0; j < D; ++j) d_table[v * D + j] = T(sum[size_t(j)]);
      }
    });
  });
}

const Implement f{embedding_forward, DeviceKind::cpu, forward};
const Implement b{embedding_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
