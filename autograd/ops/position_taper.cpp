// position_taper: the rule. What is checked, what is saved, which edge gets what.
#include "tensor/ops/position_taper.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"position_taper", {"alpha"}, {"s"}};

Var position_taper(const Var& alpha, int64_t B, int64_t T, const Packing& packing, double reference) {
  const Tensor& a = alpha.value;
  check(a.rank() == 1, "position_taper: alpha must be [H]; got {}", a.shape().text());
  check(reference > 0, "position_taper: the position reference must be > 0; got {}", reference);
  check_packing("position_taper", packing, B, T);
  Tensor s(a.device(), {B, T, a.size(0)}, a.dtype());
  kernels::position_taper_forward({.alpha = a, .s = s, .packing = packing, .reference = reference});

  return record(op, {alpha}, s, [s, a, packing, reference](Flow& flow) {
    Tensor d_alpha = empty_like(a);
    kernels::position_taper_backward(
        {.s = s, .d_s = flow.from("s"), .d_alpha = d_alpha, .packing = packing, .reference = reference});
    flow.to("alpha", d_alpha);
  });
}

}  // namespace taper
