// log_decay: the rule.
#include "tensor/ops/log_decay.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"log_decay", {"p", "dt", "s"}, {"log_a"}};

Var log_decay(const Var& p, const Var& dt, const Var& s) {
  check(p.value.rank() == 1, "log_decay: p must be [H]; got {}", p.shape().text());
  check(dt || s, "log_decay: dt or s must be given");
  const Tensor& like = dt ? dt.value : s.value;
  check(like.rank() == 3 && like.size(2) == p.size(0) && like.dtype() == p.value.dtype(),
        "log_decay: dt and s must be {} [B,T,{}] to match p; got {} {}", name(p.value.dtype()), p.size(0), name(like.dtype()),
        like.shape().text());
  check(!dt || !s || (dt.shape() == s.shape() && dt.value.dtype() == s.value.dtype()), "log_decay: s must be {} {} to match dt; got {} {}",
        name(like.dtype()), like.shape().text(), s ? name(s.value.dtype()) : "", s ? s.shape().text() : "");
  const Tensor log_a = empty_like(like), rates = p.value, steps = dt.value, taper = s.value;
  kernels::log_decay_forward({.p = rates, .dt = steps, .s = taper, .log_a = log_a});

  return record(op, {p, dt, s}, log_a, [=](Flow& flow) {
    const Tensor d_p = empty_like(rates), d_dt = steps ? empty_like(steps) : Tensor{}, d_s = taper ? empty_like(taper) : Tensor{};
    kernels::log_decay_backward({.p = rates, .dt = steps, .s = taper, .log_a = log_a, .d_log_a = flow.from("log_a"),
                                 .d_p = d_p, .d_dt = d_dt, .d_s = d_s});
    flow.to("p", d_p);
    if (d_dt) flow.to("dt", d_dt);
    if (d_s) flow.to("s", d_s);
  });
}

}  // namespace taper
