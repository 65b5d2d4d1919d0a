// keep_rows: the rule. Saved: keep; the gradient goes where the values went.
#include "tensor/ops/keep_rows.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"keep_rows", {"x"}, {"y"}};

Var keep_rows(const Var& x, const Tensor& keep) {
  check(x && x.value.rank() >= 1 && keep && keep.dtype() == Dtype::i32 && keep.shape() == Shape{x.size(0)},
        "keep_rows: x [B,...] and keep [B] i32 are wanted; got {} and {} {}", x ? x.shape().text() : "nothing",
        keep ? name(keep.dtype()) : "nothing", keep ? keep.shape().text() : "");
  const Tensor y = empty_like(x.value);
  kernels::keep_rows({.x = x.value, .keep = keep, .y = y});

  return record(op, {x}, y, [keep](Flow& flow) {
    const Tensor &d_y = flow.from("y"), d_x = empty_like(d_y);
    kernels::keep_rows({.x = d_y, .keep = keep, .y = d_x});
    flow.to("x", d_x);
  });
}

}  // namespace taper
