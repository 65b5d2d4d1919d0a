// linear_cross_entropy on the CPU: a block of rows after the other through matmul and cross_entropy.
#include "tensor/ops/linear_cross_entropy.h"

#include <algorithm>

#include "tensor/ops/cross_entropy.h"
#include "tensor/ops/matmul.h"
#include "tensor/ops/reduce.h"
#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

void forward(const LinearCrossEntropy& a) {
  const int64_t D = a.x.size(-1), V = a.weight.size(0), rows = a.labels.numel(), R = a.block.size(0);
  const Tensor x = a.x.reshape(Shape{rows, D}), labels = a.labels.reshape(Shape{rows}), nll = a.nll.reshape(Shape{rows});
  const Tensor room = a.block.reshape(Shape{a.block.numel()});
  const double factor = a.factor ? *a.factor.data<double>() : 1;
  const Tensor d_x = a.d_x ? a.d_x.reshape(Shape{rows, D}) : Tensor{};
  for (int64_t begin = 0; begin < rows; begin += R) {
    const int64_t end = std::min(rows, begin + R);
    const Tensor logits = room.rows(0, (end - begin) * V).reshape(Shape{end - begin, V}), lse(a.device(), {end - begin}, nll.dtype());
    const Tensor x_block = x.rows(begin, end), label_block = labels.rows(begin, end);
    matmul({.a = x_block, .b = a.weight, .c = logits, .transpose_b = true});
    cross_entropy_forward({.logits = logits, .labels = label_block, .nll = nll.rows(begin, end), .lse = lse});
    if (!d_x) continue;
    const Tensor d_nll = full(a.device(), {end - begin}, nll.dtype(), factor);
    cross_entropy_backward({.logits = logits, .labels = label_block, .lse = lse, .d_nll = d_nll, .d_logits = logits});
    matmul({.a = logits, .b = a.weight, .c = d_x.rows(begin, end)});
    matmul({.a = logits, .b = x_block, .c = a.d_weight, .transpose_a = true, .then = add_to(begin > 0 ? a.d_weight : Tensor())});
  }
  reduce_forward({.x = nll, .y = a.loss, .factor = factor});
}

void scale(const LinearCrossEntropyScale& a) {
  double by = 0;
  visit<float, double>("linear_cross_entropy", a.d_loss.dtype(), [&]<class T>() { by = double(*a.d_loss.data<T>()); });
  if (by == 1) return;
  for (const Tensor& t : {a.d_x, a.d_weight})
    visit<float, double>("linear_cross_entropy", t.dtype(), [&]<class T>() {
      T* d = t.data<T>();
      parallel_for(t.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) d[i] *= T(by);
      });
    });
}

const Implement f{linear_cross_entropy, DeviceKind::cpu, forward};
const Implement s{linear_cross_entropy_scale, DeviceKind::cpu, scale};

}  // namespace
}  // namespace taper::kernels
