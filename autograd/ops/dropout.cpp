// dropout: the rule. Saved: the key of the generator; the gradient goes through the same mask.
#include "tensor/ops/dropout.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"dropout", {"x"}, {"y"}};

Var dropout(const Var& x, double p, const Tensor& key) {
  check(bool(x), "dropout: x must be present; it is absent");
  check(p >= 0 && p < 1, "dropout: p must be in [0,1); got {}", p);
  check(key && key.dtype() == Dtype::i64 && key.shape() == Shape{2}, "dropout: key must be i64 [2]; got {} {}",
        key ? name(key.dtype()) : "nothing", key ? key.shape().text() : "");
  const Tensor& v = x.value;
  const Tensor y = empty_like(v);
  kernels::dropout({.x = v, .key = key, .y = y, .p = p});

  return record(op, {x}, y, [p, key](Flow& flow) {
    const Tensor &d_y = flow.from("y"), d_x = empty_like(d_y);
    kernels::dropout({.x = d_y, .key = key, .y = d_x, .p = p});
    flow.to("x", d_x);
  });
}

}  // namespace taper
