// rms_norm: the rule. Saved: x, the weight and one number a row.
#include "tensor/ops/rms_norm.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"rms_norm", {"x", "weight"}, {"y"}};

Var rms_norm(const Var& x, const Var& weight, double eps) {
  const Tensor &v = x.value, &w = weight.value;
  check(x && v.rank() >= 1 && v.size(-1) > 0, "rms_norm: x must be [...,D]; got {}", x ? v.shape().text() : "nothing");
  check(weight && w.shape() == Shape{v.size(-1)} && w.dtype() == wide(v.dtype()),
        "rms_norm: weight must be {} [{}] to match x {}; got {} {}", name(wide(v.dtype())), v.size(-1), v.shape().text(),
        name(w.dtype()), weight ? w.shape().text() : "nothing");
  check(eps > 0, "rms_norm: eps must be > 0; got {}", eps);
  const Tensor y = empty_like(v);
  const Tensor r(v.device(), {v.numel() / v.size(-1)}, wide(v.dtype()));
  kernels::rms_norm_forward({.x = v, .weight = w, .y = y, .r = r, .eps = eps});

  return record(op, {x, weight}, y, [v, w, r](Flow& flow) {
    const Tensor d_x = flow.wants("x") ? empty_like(v) : Tensor();
    const Tensor d_w = flow.wants("weight") ? empty_like(w) : Tensor();
    kernels::rms_norm_backward(
        {.x = v, .weight = w, .r = r, .d_y = flow.from("y"), .d_x = d_x, .d_weight = d_w});
    if (d_x) flow.to("x", d_x);
    if (d_w) flow.to("weight", d_w);
  });
}

}  // namespace taper
