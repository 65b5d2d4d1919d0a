// rms_norm: the rule. Saved: the sum, the weight and one number a row.
#include "tensor/ops/rms_norm.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"rms_norm", {"x", "added", "weight"}, {"y", "sum"}};

NormResult add_rms_norm(const Var& x, const Var& added, const Var& weight, double eps) {
  const Tensor &v = x.value, &w = weight.value;
  check(x && v.rank() >= 1 && v.size(-1) > 0, "rms_norm: x must be [...,D]; got {}", x ? v.shape().text() : "nothing");
  check(!added || (added.shape() == v.shape() && (added.value.dtype() == v.dtype() || wide(added.value.dtype()) == v.dtype())),
        "rms_norm: added must have the shape and dtype of x {} {}, or be bf16 beside f32; got {} {}", name(v.dtype()), v.shape().text(),
        name(added.value.dtype()), added.shape().text());
  check(weight && w.shape() == Shape{v.size(-1)} && w.dtype() == wide(v.dtype()),
        "rms_norm: weight must be {} [{}] to match x {}; got {} {}", name(wide(v.dtype())), v.size(-1), v.shape().text(),
        name(w.dtype()), weight ? w.shape().text() : "nothing");
  check(eps > 0, "rms_norm: eps must be > 0; got {}", eps);
  const Tensor y = empty_like(added ? added.value : v), sum = added ? empty_like(v) : v;
  const Tensor r(v.device(), {v.numel() / v.size(-1)}, wide(v.dtype()));
  kernels::rms_norm_forward({.x = v, .added = added.value, .weight = w, .sum = added ? sum : Tensor(), .y = y, .r = r, .eps = eps});

  const std::vector<Var> outs = record(op, {x, added, weight}, {y, sum}, [sum, w, r, beside = y.dtype()](Flow& flow) {
    const bool one = beside == sum.dtype();  // d_added is d_x
    const Tensor d_y = flow.has("y") ? flow.from("y") : zeros(sum.device(), sum.shape(), beside);  // zeros: nobody looked at y
    const Tensor d_x = flow.wants("x") || (one && flow.wants("added")) ? empty_like(sum) : Tensor();
    const Tensor d_added = !one && flow.wants("added") ? Tensor(sum.device(), sum.shape(), beside) : Tensor();
    const Tensor d_w = flow.wants("weight") ? empty_like(w) : Tensor();
    kernels::rms_norm_backward({.sum = sum, .weight = w, .r = r, .d_y = d_y, .d_sum = flow.has("sum") ? flow.from("sum") : Tensor(),
                                .d_x = d_x, .d_added = d_added, .d_weight = d_w});
    if (flow.wants("x")) flow.to("x", d_x);
    if (flow.wants("added")) flow.to("added", one ? d_x : d_added);
    if (d_w) flow.to("weight", d_w);
  });
  const auto again = [sum, w, r, eps, beside = y.dtype()] {  // from what the rule keeps
    const Tensor y(sum.device(), sum.shape(), beside);
    kernels::rms_norm_forward({.x = sum, .weight = w, .y = y, .r = r, .eps = eps});
    return y;
  };
  return {recomputed(outs[0], again), outs[1]};
}

Var rms_norm(const Var& x, const Var& weight, double eps) { return add_rms_norm(x, {}, weight, eps).y; }

}  // namespace taper
