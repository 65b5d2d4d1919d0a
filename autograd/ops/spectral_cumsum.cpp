// spectral_cumsum: the rule.
#include "tensor/ops/spectral_cumsum.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"spectral_cumsum", {"theta", "delta"}, {"p"}};

Var spectral_cumsum(const Var& theta, const Var& delta) {
  check(theta.value.rank() == 0, "spectral_cumsum: theta must be []; got {}", theta.shape().text());
  check(delta.value.rank() == 1 && delta.value.dtype() == theta.value.dtype(), "spectral_cumsum: delta must be {} [N-1]; got {} {}",
        name(theta.value.dtype()), name(delta.value.dtype()), delta.shape().text());
  const Tensor gaps = delta.value;
  const Tensor p(gaps.device(), {gaps.size(0) + 1}, gaps.dtype());
  kernels::spectral_cumsum_forward({.theta = theta.value, .delta = gaps, .p = p});

  return record(op, {theta, delta}, p, [gaps](Flow& flow) {
    const Tensor d_theta(gaps.device(), {}, gaps.dtype()), d_delta = empty_like(gaps);
    kernels::spectral_cumsum_backward({.delta = gaps, .d_p = flow.from("p"), .d_theta = d_theta, .d_delta = d_delta});
    flow.to("theta", d_theta);
    flow.to("delta", d_delta);
  });
}

}  // namespace taper
