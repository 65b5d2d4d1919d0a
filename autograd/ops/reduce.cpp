// reduce: the rule of sum and mean.
#include "tensor/ops/reduce.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {
namespace {

const Op sum_op{"sum", {"x"}, {"y"}};
const Op mean_op{"mean", {"x"}, {"y"}};

Var reduce(const Op& op, const Var& x, double factor) {
  const Tensor& v = x.value;
  check(v.dtype() == Dtype::f32 || v.dtype() == Dtype::f64 || v.dtype() == Dtype::bf16,
        "{}: x must be f32, f64 or bf16; got {} {}", op.name, name(v.dtype()), v.shape().text());
  const Tensor y(v.device(), {}, v.dtype());
  kernels::reduce_forward({.x = v, .y = y, .factor = factor});

  return record(op, {x}, y, [shape = v.shape(), factor](Flow& flow) {
    const Tensor& d_y = flow.from("y");
    const Tensor d_x(d_y.device(), shape, d_y.dtype());
    kernels::reduce_backward({.d_y = d_y, .d_x = d_x, .factor = factor});
    flow.to("x", d_x);
  });
}

}  // namespace

Var sum(const Var& x) {
  check(bool(x), "sum: x must be present; it is absent");
  return reduce(sum_op, x, 1);
}

Var mean(const Var& x) {
  check(x && x.value.numel() > 0, "mean: x must have at least one element; got {}", x ? x.shape().text() : "nothing");
  return reduce(mean_op, x, 1 / double(x.value.numel()));
}

}  // namespace taper
