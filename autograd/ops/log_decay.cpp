// log_decay: the rule.
#include "tensor/ops/log_decay.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"log_decay", {"p", "dt", "s"}, {"log_a"}};

Var log_decay(const Var& p, const Var& dt, const Var& s) {
  check(p.value.rank() == 1, "log_decay: p must be [H]; got {}", p.shape().text());
  check(dt || s, "log_decay: dt or s must be given");
  const Dtype dtype = p.value.dtype();
  const int64_t H = p.size(0);
  check(!dt || ((dt.value.rank() == 3 || dt.value.rank() == 4) && dt.size(2) == H && dt.value.dtype() == dtype),
        "log_decay: dt must be {} [B,T,{}] or [B,T,{},K] to match p; got {} {}", name(dtype), H, H,
        dt ? name(dt.value.dtype()) : "", dt ? dt.shape().text() : "");
  check(dt || (s.value.rank() == 3 && s.size(2) == H && s.value.dtype() == dtype),
        "log_decay: s must be {} [B,T,{}] to match p; got {} {}", name(dtype), H, s ? name(s.value.dtype()) : "",
        s ? s.shape().text() : "");
  const Tensor& like = dt ? dt.value : s.value;
  const Shape heads = {like.size(0), like.size(1), H};
  check(!s || (s.shape() == heads && s.value.dtype() == dtype), "log_decay: s must be {} {} to match dt; got {} {}", name(dtype),
        heads.text(), s ? name(s.value.dtype()) : "", s ? s.shape().text() : "");
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
