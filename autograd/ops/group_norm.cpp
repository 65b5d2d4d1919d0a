// group_norm: the rule. Saved: x, the weight and two numbers a group.
#include "tensor/ops/group_norm.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"group_norm", {"x", "weight", "bias"}, {"y"}};

Var group_norm(const Var& x, const Var& weight, const Var& bias, int64_t groups, double eps) {
  const Tensor &v = x.value, &w = weight.value, &b = bias.value;
  check(x && v.rank() >= 1 && v.size(-1) > 0, "group_norm: x must be [...,D]; got {}", x ? v.shape().text() : "nothing");
  const int64_t D = v.size(-1);
  check(groups >= 1 && D % groups == 0, "group_norm: groups must divide D = {}; got {}", D, groups);
  const Dtype statistics = wide(v.dtype());
  auto check_factor = [&](const char* what, const Tensor& t) {
    check(t && t.shape() == Shape{D} && t.dtype() == statistics, "group_norm: {} must be {} [{}] to match x {}; got {} {}", what,
          name(statistics), D, v.shape().text(), name(t.dtype()), t ? t.shape().text() : "nothing");
  };
  check_factor("weight", w);
  check_factor("bias", b);
  check(eps > 0, "group_norm: eps must be > 0; got {}", eps);
  const Tensor y = empty_like(v);
  const Tensor mean(v.device(), {v.numel() / D, groups}, statistics), r = empty_like(mean);
  kernels::group_norm_forward({.x = v, .weight = w, .bias = b, .y = y, .mean = mean, .r = r, .eps = eps});

  return record(op, {x, weight, bias}, y, [v, w, mean, r](Flow& flow) {
    const Tensor d_x = flow.wants("x") ? empty_like(v) : Tensor();
    const Tensor d_w = flow.wants("weight") ? empty_like(w) : Tensor(), d_b = flow.wants("bias") ? empty_like(w) : Tensor();
    kernels::group_norm_backward({.x = v, .weight = w, .mean = mean, .r = r, .d_y = flow.from("y"),
                                  .d_x = d_x, .d_weight = d_w, .d_bias = d_b});
    if (d_x) flow.to("x", d_x);
    if (d_w) flow.to("weight", d_w);
    if (d_b) flow.to("bias", d_b);
  });
}

}  // namespace taper
