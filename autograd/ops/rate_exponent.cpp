// rate_exponent: the rule.
#include "tensor/ops/rate_exponent.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"rate_exponent", {"p"}, {"alpha"}};

Var rate_exponent(const Var& p, double train_length) {
  check(p.value.rank() == 1 && p.size(0) >= 1, "rate_exponent: p must be [N], N >= 1; got {}", p.shape().text());
  check(train_length > 1, "rate_exponent: the training length must be > 1; got {}", train_length);
  const Tensor rates = p.value, alpha = empty_like(rates);
  kernels::rate_exponent_forward({.p = rates, .alpha = alpha, .train_length = train_length});

  return record(op, {p}, alpha, [rates, train_length](Flow& flow) {
    const Tensor d_p = empty_like(rates);
    kernels::rate_exponent_backward({.p = rates, .d_alpha = flow.from("alpha"), .d_p = d_p, .train_length = train_length});
    flow.to("p", d_p);
  });
}

}  // namespace taper
