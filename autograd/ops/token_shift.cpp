// token_shift: the rule. Nothing is saved but x, for its shape.
#include "tensor/ops/token_shift.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"token_shift", {"x", "last"}, {"y", "tail"}};

ShiftResult token_shift(const Var& x, const Var& last, const Packing& packing) {
  const Tensor& v = x.value;
  check(x && v.rank() == 3 && v.size(1) >= 1, "token_shift: x must be [B,T,D] with T >= 1; got {}",
        x ? v.shape().text() : "nothing");
  const int64_t B = v.size(0), D = v.size(2);
  check(!last || (last.shape() == Shape{B, D} && last.value.dtype() == v.dtype()),
        "token_shift: last must be {} [{},{}] to match x; got {} {}", name(v.dtype()), B, D,
        last ? name(last.value.dtype()) : "", last ? last.shape().text() : "");
  check_packing("token_shift", packing, B, v.size(1));
  const Tensor y = empty_like(v), tail(v.device(), {B, D}, v.dtype());
  kernels::token_shift_forward({.x = v, .last = last.value, .y = y, .tail = tail, .packing = packing});
  const std::vector<Var> outs = record(op, {x, last}, {y, tail}, [v, packing](Flow& flow) {
    const Tensor d_x = flow.wants("x") ? empty_like(v) : Tensor();
    const Tensor d_last = flow.wants("last") ? Tensor(v.device(), {v.size(0), v.size(2)}, v.dtype()) : Tensor();
    kernels::token_shift_backward({.x = v,
                                   .d_y = flow.has("y") ? flow.from("y") : Tensor(),
                                   .d_tail = flow.has("tail") ? flow.from("tail") : Tensor(),
                                   .d_x = d_x, .d_last = d_last, .packing = packing});
    if (d_x) flow.to("x", d_x);
    if (d_last) flow.to("last", d_last);
  });
  return {outs[0], outs[1]};
}

}  // namespace taper
