// log_decay: the rule.
#include "tensor/ops/log_decay.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"log_decay", {"p", "dt", "s", "alpha"}, {"log_a"}};

namespace {

// heads: [B,T,H], what dt begins with.
Var decay(const Var& p, const Var& dt, const Var& s, const Var& alpha, const Shape& heads, const Packing& packing, double reference) {
  const Tensor rates = p.value, steps = dt.value, taper = s.value, exponents = alpha.value;
  const Tensor log_a = steps ? empty_like(steps) : Tensor(rates.device(), heads, rates.dtype());
  kernels::log_decay_forward(
      {.p = rates, .dt = steps, .s = taper, .alpha = exponents, .log_a = log_a, .packing = packing, .reference = reference});

  return record(op, {p, dt, s, alpha}, log_a, [=](Flow& flow) {
    const auto like = [](const Tensor& x) { return x ? empty_like(x) : Tensor{}; };
    const Tensor d_p = empty_like(rates), d_dt = like(steps), d_s = like(taper), d_alpha = like(exponents);
    kernels::log_decay_backward({.p = rates, .dt = steps, .s = taper, .alpha = exponents, .log_a = log_a, .d_log_a = flow.from("log_a"),
                                 .d_p = d_p, .d_dt = d_dt, .d_s = d_s, .d_alpha = d_alpha, .packing = packing, .reference = reference});
    flow.to("p", d_p);
    if (d_dt) flow.to("dt", d_dt);
    if (d_s) flow.to("s", d_s);
    if (d_alpha) flow.to("alpha", d_alpha);
  });
}

void check_steps(const Var& p, const Var& dt) {
  check(p.value.rank() == 1, "log_decay: p must be [H]; got {}", p.shape().text());
  const int64_t H = p.size(0);
  check(!dt || ((dt.value.rank() == 3 || dt.value.rank() == 4) && dt.size(2) == H && dt.value.dtype() == p.value.dtype()),
        "log_decay: dt must be {} [B,T,{}] or [B,T,{},K] to match p; got {} {}", name(p.value.dtype()), H, H,
        dt ? name(dt.value.dtype()) : "", dt ? dt.shape().text() : "");
}

}  // namespace

Var log_decay(const Var& p, const Var& dt, const Var& s) {
  check_steps(p, dt);
  check(dt || s, "log_decay: dt or s must be given");
  const Dtype dtype = p.value.dtype();
  const int64_t H = p.size(0);
  check(dt || (s.value.rank() == 3 && s.size(2) == H && s.value.dtype() == dtype),
        "log_decay: s must be {} [B,T,{}] to match p; got {} {}", name(dtype), H, s ? name(s.value.dtype()) : "",
        s ? s.shape().text() : "");
  const Var& like = dt ? dt : s;
  const Shape heads = {like.size(0), like.size(1), H};
  check(!s || (s.shape() == heads && s.value.dtype() == dtype), "log_decay: s must be {} {} to match dt; got {} {}", name(dtype),
        heads.text(), s ? name(s.value.dtype()) : "", s ? s.shape().text() : "");
  return decay(p, dt, s, {}, heads, {}, 1);
}

Var tapered_log_decay(const Var& p, const Var& dt, const Var& alpha, int64_t B, int64_t T, const Packing& packing, double reference) {
  check_steps(p, dt);
  check(!dt || (dt.size(0) == B && dt.size(1) == T), "log_decay: dt must be [{},{},...]; got {}", B, T, dt ? dt.shape().text() : "");
  check(alpha.shape() == p.shape() && alpha.value.dtype() == p.value.dtype(), "log_decay: alpha must be {} {} to match p; got {} {}",
        name(p.value.dtype()), p.shape().text(), name(alpha.value.dtype()), alpha.shape().text());
  check(reference > 0, "log_decay: the position reference must be > 0; got {}", reference);
  check_packing("log_decay", packing, B, T);
  return decay(p, dt, {}, alpha, {B, T, p.size(0)}, packing, reference);
}

}  // namespace taper
