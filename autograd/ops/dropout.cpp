// dropout: the rule. Saved: the two numbers of the generator; the gradient goes through the same mask.
#include "tensor/ops/dropout.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"dropout", {"x"}, {"y"}};

Var dropout(const Var& x, double p, const Random& random) {
  check(bool(x), "dropout: x must be present; it is absent");
  check(p >= 0 && p < 1, "dropout: p must be in [0,1); got {}", p);
  const Tensor& v = x.value;
  const Tensor y = empty_like(v);
  kernels::dropout({.x = v, .y = y, .p = p, .random = random});

  return record(op, {x}, y, [p, random](Flow& flow) {
    const Tensor &d_y = flow.from("y"), d_x = empty_like(d_y);
    kernels::dropout({.x = d_y, .y = d_x, .p = p, .random = random});
    flow.to("x", d_x);
  });
}

}  // namespace taper
