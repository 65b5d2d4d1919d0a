// cast: the rule. The gradient is cast back, or passed on where it has x's dtype already.
#include "tensor/ops/cast.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"cast", {"x"}, {"y"}};

static bool is_float(Dtype t) { return t == Dtype::f32 || t == Dtype::f64 || t == Dtype::bf16; }

Var cast(const Var& x, Dtype dtype) {
  check(bool(x), "cast: x must be present; it is absent");
  const Tensor& v = x.value;
  check(is_float(v.dtype()) && is_float(dtype), "cast: both dtypes must be f32, f64 or bf16; got {} to {}",
        name(v.dtype()), name(dtype));
  const Tensor y(v.device(), v.shape(), dtype);
  kernels::cast({.x = v, .y = y});

  return record(op, {x}, y, [dtype = v.dtype()](Flow& flow) {
    const Tensor& d_y = flow.from("y");
    if (d_y.dtype() == dtype) return flow.to("x", d_y);
    const Tensor d_x(d_y.device(), d_y.shape(), dtype);
    kernels::cast({.x = d_y, .y = d_x});
    flow.to("x", d_x);
  });
}

}  // namespace taper
