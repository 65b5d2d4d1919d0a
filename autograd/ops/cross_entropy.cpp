// cross_entropy: the rule. Saved: the logits and one number a row.
#include "tensor/ops/cross_entropy.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"cross_entropy", {"logits"}, {"nll"}};

Var cross_entropy(const Var& logits, const Tensor& labels) {
  const Tensor& v = logits.value;
  check(logits && v.rank() >= 1 && v.size(-1) > 0, "cross_entropy: logits must be [...,V]; got {}",
        logits ? v.shape().text() : "nothing");
  const bool gpu = v.device().kind() != DeviceKind::cpu;
  check(v.dtype() == Dtype::f32 || v.dtype() == Dtype::f64 || (v.dtype() == Dtype::bf16 && gpu), "cross_entropy: logits must be f32 or f64; got {}",
        name(v.dtype()));
  Shape shape;
  for (int i = 0; i + 1 < v.rank(); ++i) shape.push_back(v.size(i));
  check(labels && labels.dtype() == Dtype::i32 && labels.shape() == shape,
        "cross_entropy: labels must be i32 {} to match logits {}; got {} {}", shape.text(), v.shape().text(),
        name(labels.dtype()), labels ? labels.shape().text() : "nothing");
  const Tensor nll(v.device(), shape, wide(v.dtype())), lse(v.device(), shape, wide(v.dtype()));
  kernels::cross_entropy_forward({.logits = v, .labels = labels, .nll = nll, .lse = lse});

  return record(op, {logits}, nll, [v, labels, lse](Flow& flow) {
    const Tensor d_logits = empty_like(v);
    kernels::cross_entropy_backward(
        {.logits = v, .labels = labels, .lse = lse, .d_nll = flow.from("nll"), .d_logits = d_logits});
    flow.to("logits", d_logits);
  });
}

}  // namespace taper
