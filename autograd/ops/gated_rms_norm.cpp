// gated_rms_norm: the rule. Saved: the inputs and one number a row.
#include "tensor/ops/gated_rms_norm.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"gated_rms_norm", {"x", "gate", "weight"}, {"y"}};

Var gated_rms_norm(const Var& x, const Var& gate, const Var& weight, double eps, GateOrder order) {
  const Tensor &v = x.value, &z = gate.value, &w = weight.value;
  check(x && v.rank() >= 1 && v.size(-1) > 0, "gated_rms_norm: x must be [...,D]; got {}",
        x ? v.shape().text() : "nothing");
  check(gate && z.shape() == v.shape() && z.dtype() == v.dtype(), "gated_rms_norm: gate must be {} {} as x; got {} {}",
        name(v.dtype()), v.shape().text(), name(z.dtype()), gate ? z.shape().text() : "nothing");
  check(weight && w.shape() == Shape{v.size(-1)} && w.dtype() == wide(v.dtype()),
        "gated_rms_norm: weight must be {} [{}] to match x {}; got {} {}", name(wide(v.dtype())), v.size(-1),
        v.shape().text(), name(w.dtype()), weight ? w.shape().text() : "nothing");
  check(eps > 0, "gated_rms_norm: eps must be > 0; got {}", eps);
  const bool gate_first = order == GateOrder::gate_then_norm;
  const Tensor y = empty_like(v);
  const Tensor r(v.device(), {v.numel() / v.size(-1)}, wide(v.dtype()));
  kernels::gated_rms_norm_forward(
      {.x = v, .gate = z, .weight = w, .y = y, .r = r, .eps = eps, .gate_first = gate_first});

  const Var out = record(op, {x, gate, weight}, y, [v, z, w, r, gate_first](Flow& flow) {
    const Tensor d_x = flow.wants("x") ? empty_like(v) : Tensor();
    const Tensor d_gate = flow.wants("gate") ? empty_like(z) : Tensor();
    const Tensor d_w = flow.wants("weight") ? empty_like(w) : Tensor();
    kernels::gated_rms_norm_backward({.x = v, .gate = z, .weight = w, .r = r, .d_y = flow.from("y"), .d_x = d_x,
                                      .d_gate = d_gate, .d_weight = d_w, .gate_first = gate_first});
    if (d_x) flow.to("x", d_x);
    if (d_gate) flow.to("gate", d_gate);
    if (d_w) flow.to("weight", d_w);
  });
  return recomputed(out, [v, z, w, r, eps, gate_first] {
    const Tensor y = empty_like(v);
    kernels::gated_rms_norm_forward({.x = v, .gate = z, .weight = w, .y = y, .r = r, .eps = eps, .gate_first = gate_first});
    return y;
  });
}

}  // namespace taper
