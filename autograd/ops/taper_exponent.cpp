// taper_exponent: the rule.
#include "tensor/ops/taper_exponent.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"taper_exponent", {"delta"}, {"alpha"}};

Var taper_exponent(const Var& delta, double train_length) {
  check(delta.value.rank() == 1, "taper_exponent: delta must be [N-1]; got {}", delta.shape().text());
  check(train_length > 1, "taper_exponent: the training length must be > 1; got {}", train_length);
  const Tensor gaps = delta.value;
  const Tensor alpha(gaps.device(), {gaps.size(0) + 1}, gaps.dtype());
  kernels::taper_exponent_forward({.delta = gaps, .alpha = alpha, .train_length = train_length});

  return record(op, {delta}, alpha, [gaps, train_length](Flow& flow) {
    const Tensor d_delta = empty_like(gaps);
    kernels::taper_exponent_backward(
        {.delta = gaps, .d_alpha = flow.from("alpha"), .d_delta = d_delta, .train_length = train_length});
    flow.to("delta", d_delta);
  });
}

}  // namespace taper
