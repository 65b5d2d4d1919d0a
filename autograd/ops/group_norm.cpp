// group_norm: the rule. Saved: the sum, the weight and two numbers a group.
#include "tensor/ops/group_norm.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"group_norm", {"x", "added", "weight", "bias"}, {"y", "sum"}};

NormResult add_group_norm(const Var& x, const Var& added, const Var& weight, const Var& bias, int64_t groups, double eps) {
  const Tensor &v = x.value, &w = weight.value, &b = bias.value;
  check(x && v.rank() >= 1 && v.size(-1) > 0, "group_norm: x must be [...,D]; got {}", x ? v.shape().text() : "nothing");
  const int64_t D = v.size(-1);
  check(groups >= 1 && D % groups == 0, "group_norm: groups must divide D = {}; got {}", D, groups);
  check(!added || (added.shape() == v.shape() && (added.value.dtype() == v.dtype() || wide(added.value.dtype()) == v.dtype())),
        "group_norm: added must have the shape and dtype of x {} {}, or be bf16 beside f32; got {} {}", name(v.dtype()), v.shape().text(),
        name(added.value.dtype()), added.shape().text());
  const Dtype statistics = wide(v.dtype());
  auto check_factor = [&](const char* what, const Tensor& t) {
    check(t && t.shape() == Shape{D} && t.dtype() == statistics, "group_norm: {} must be {} [{}] to match x {}; got {} {}", what,
          name(statistics), D, v.shape().text(), name(t.dtype()), t ? t.shape().text() : "nothing");
  };
  check_factor("weight", w);
  check_factor("bias", b);
  check(eps > 0, "group_norm: eps must be > 0; got {}", eps);
  const Tensor y = empty_like(added ? added.value : v), sum = added ? empty_like(v) : v;
  const Tensor mean(v.device(), {v.numel() / D, groups}, statistics), r = empty_like(mean);
  kernels::group_norm_forward({.x = v, .added = added.value, .weight = w, .bias = b, .sum = added ? sum : Tensor(), .y = y,
                               .mean = mean, .r = r, .eps = eps});

  const std::vector<Var> outs = record(op, {x, added, weight, bias}, {y, sum}, [sum, w, mean, r, beside = y.dtype()](Flow& flow) {
    const bool one = beside == sum.dtype();  // d_added is d_x
    const Tensor d_y = flow.has("y") ? flow.from("y") : zeros(sum.device(), sum.shape(), beside);  // zeros: nobody looked at y
    const Tensor d_x = flow.wants("x") || (one && flow.wants("added")) ? empty_like(sum) : Tensor();
    const Tensor d_added = !one && flow.wants("added") ? Tensor(sum.device(), sum.shape(), beside) : Tensor();
    const Tensor d_w = flow.wants("weight") ? empty_like(w) : Tensor(), d_b = flow.wants("bias") ? empty_like(w) : Tensor();
    kernels::group_norm_backward({.sum = sum, .weight = w, .mean = mean, .r = r, .d_y = d_y,
                                  .d_sum = flow.has("sum") ? flow.from("sum") : Tensor(), .d_x = d_x, .d_added = d_added,
                                  .d_weight = d_w, .d_bias = d_b});
    if (flow.wants("x")) flow.to("x", d_x);
    if (flow.wants("added")) flow.to("added", one ? d_x : d_added);
    if (d_w) flow.to("weight", d_w);
    if (d_b) flow.to("bias", d_b);
  });
  const auto again = [sum, w, b, mean, r, eps, beside = y.dtype()] {  // from what the rule keeps, and the bias
    const Tensor y(sum.device(), sum.shape(), beside);
    kernels::group_norm_forward({.x = sum, .weight = w, .bias = b, .y = y, .mean = mean, .r = r, .eps = eps});
    return y;
  };
  return {recomputed(outs[0], again), outs[1]};
}

Var group_norm(const Var& x, const Var& weight, const Var& bias, int64_t groups, double eps) {
  return add_group_norm(x, {}, weight, bias, groups, eps).y;
}

}  // namespace taper
