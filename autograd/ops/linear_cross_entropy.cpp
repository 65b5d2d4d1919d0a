// linear_cross_entropy: the rule. Saved: both gradients, made in the forward pass where one of them is wanted.
#include "tensor/ops/linear_cross_entropy.h"

#include <utility>

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"linear_cross_entropy", {"x", "weight"}, {"loss", "nll"}};

LossResult linear_cross_entropy(const Var& x, const Var& weight, const Tensor& labels, const Tensor& factor) {
  const Tensor &v = x.value, &w = weight.value;
  check(x && v.rank() >= 1 && v.size(-1) > 0 && v.numel() > 0, "linear_cross_entropy: x must be [...,D], not empty; got {}",
        x ? v.shape().text() : "nothing");
  check(weight && w.rank() == 2 && w.size(1) == v.size(-1) && w.size(0) > 0 && w.dtype() == v.dtype(),
        "linear_cross_entropy: weight must be {} [V,{}] to match x {}; got {} {}", name(v.dtype()), v.size(-1), v.shape().text(),
        name(w.dtype()), weight ? w.shape().text() : "nothing");
  Shape rows;
  for (int i = 0; i + 1 < v.rank(); ++i) rows.push_back(v.size(i));
  check(labels && labels.dtype() == Dtype::i32 && labels.shape() == rows,
        "linear_cross_entropy: labels must be i32 {} to match x {}; got {} {}", rows.text(), v.shape().text(), name(labels.dtype()),
        labels ? labels.shape().text() : "nothing");
  check(!factor || (factor.dtype() == Dtype::f64 && factor.rank() == 0), "linear_cross_entropy: factor must be f64 []; got {} {}",
        factor ? name(factor.dtype()) : "nothing", factor ? factor.shape().text() : "");
  const bool tracked = x.tracked() || weight.tracked();
  const Tensor nll(v.device(), rows, wide(v.dtype())), loss(v.device(), {}, wide(v.dtype()));
  const Tensor d_x = tracked ? empty_like(v) : Tensor{}, d_w = tracked ? Tensor(w.device(), w.shape(), wide(w.dtype())) : Tensor{};
  const int64_t V = w.size(0);
  const Tensor block(v.device(), {kernels::linear_cross_entropy_rows(rows.numel(), V), kernels::linear_cross_entropy_columns(V, v.dtype())}, v.dtype());
  kernels::linear_cross_entropy({.x = v, .weight = w, .labels = labels, .block = block, .nll = nll, .loss = loss,
                                 .factor = factor, .d_x = d_x, .d_weight = d_w});

  const auto out = record(op, {x, weight}, {loss, nll}, [d_x = d_x, d_w = d_w](Flow& flow) mutable {
    check(!flow.has("nll"), "linear_cross_entropy: nll is for reports and carries no gradient; use loss, or cross_entropy");
    check(bool(d_x), "linear_cross_entropy: its gradients are scaled in place, so a tape is walked once; record it anew");
    kernels::linear_cross_entropy_scale({.d_loss = flow.from("loss"), .d_x = d_x, .d_weight = d_w});
    flow.to("x", std::exchange(d_x, {}));
    flow.to("weight", std::exchange(d_w, {}));
  });
  return {out[0], out[1].value};
}

}  // namespace taper
