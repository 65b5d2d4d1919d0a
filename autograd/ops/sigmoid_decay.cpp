// sigmoid_decay: the rule.
#include "tensor/ops/sigmoid_decay.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"sigmoid_decay", {"u", "w0", "alpha"}, {"log_w"}};

Var sigmoid_decay(const Var& u, const Var& w0, const Var& alpha, const Packing& packing, double reference) {
  const Tensor& v = u.value;
  check(v.rank() == 3, "sigmoid_decay: u must be [B,T,D]; got {}", u.shape().text());
  auto check_row = [&](const char* what, const Tensor& row) {
    check(!row || (row.shape() == Shape{v.size(2)} && row.dtype() == wide(v.dtype())),
          "sigmoid_decay: {} must be {} [{}] to match u; got {} {}", what, name(wide(v.dtype())), v.size(2),
          row ? name(row.dtype()) : "", row ? row.shape().text() : "");
  };
  check_row("w0", w0.value);
  check_row("alpha", alpha.value);
  check(reference > 0, "sigmoid_decay: the position reference must be > 0; got {}", reference);
  check_packing("sigmoid_decay", packing, v.size(0), v.size(1));
  const Tensor log_w(v.device(), v.shape(), wide(v.dtype()));
  kernels::sigmoid_decay_forward(
      {.u = v, .w0 = w0.value, .alpha = alpha.value, .log_w = log_w, .packing = packing, .reference = reference});

  const bool with_w0 = bool(w0), with_alpha = bool(alpha);
  const Dtype dtype = v.dtype();
  return record(op, {u, w0, alpha}, log_w, [=](Flow& flow) {
    auto row = [&](bool present) { return present ? Tensor(log_w.device(), {log_w.size(2)}, log_w.dtype()) : Tensor{}; };
    const Tensor d_u(log_w.device(), log_w.shape(), dtype), d_w0 = row(with_w0), d_alpha = row(with_alpha);
    kernels::sigmoid_decay_backward({.log_w = log_w, .d_log_w = flow.from("log_w"), .d_u = d_u, .d_w0 = d_w0,
                                     .d_alpha = d_alpha, .packing = packing, .reference = reference});
    flow.to("u", d_u);
    if (d_w0) flow.to("w0", d_w0);
    if (d_alpha) flow.to("alpha", d_alpha);
  });
}

}  // namespace taper
