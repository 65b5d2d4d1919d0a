// rotary: the rule. Nothing is saved; the gradient is turned back.
#include "tensor/ops/rotary.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"rotary", {"x"}, {"y"}};

Var rotary(const Var& x, const Packing& packing, double base) {
  const Tensor& v = x.value;
  check(x && v.rank() == 4 && v.size(3) % 2 == 0, "rotary: x must be [B,T,H,K] with K even; got {}", x ? v.shape().text() : "nothing");
  check(base > 1, "rotary: base must be above 1; got {}", base);
  check_packing("rotary", packing, v.size(0), v.size(1));
  const Tensor y = empty_like(v);
  kernels::rotary_turn({.x = v, .y = y, .packing = packing, .base = base});
  return record(op, {x}, y, [packing, base](Flow& flow) {
    const Tensor d_y = flow.from("y"), d_x = empty_like(d_y);
    kernels::rotary_turn({.x = d_y, .y = d_x, .packing = packing, .base = base, .back = true});
    flow.to("x", d_x);
  });
}

}  // namespace taper
