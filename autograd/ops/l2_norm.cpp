// l2_norm: the rule. Saved: x and one number a row.
#include "tensor/ops/l2_norm.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"l2_norm", {"x"}, {"y"}};

Var l2_norm(const Var& x, double eps) {
  const Tensor& v = x.value;
  check(x && v.rank() >= 1 && v.size(-1) > 0, "l2_norm: x must be [...,D]; got {}", x ? v.shape().text() : "nothing");
  check(eps > 0, "l2_norm: eps must be > 0; got {}", eps);
  const Tensor y = empty_like(v);
  const Tensor r(v.device(), {v.numel() / v.size(-1)}, wide(v.dtype()));
  kernels::l2_norm_forward({.x = v, .y = y, .r = r, .eps = eps});

  const Saved saved(x);
  const Var out = record(op, {x}, y, [saved, r](Flow& flow) {
    const Tensor v = saved.get(), d_x = empty_like(v);
    kernels::l2_norm_backward({.x = v, .r = r, .d_y = flow.from("y"), .d_x = d_x});
    flow.to("x", d_x);
  });
  return recomputed(out, [saved, r, eps] {
    const Tensor v = saved.get(), y = empty_like(v);
    kernels::l2_norm_forward({.x = v, .y = y, .r = r, .eps = eps});
    return y;
  });
}

}  // namespace taper
