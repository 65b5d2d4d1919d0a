// unary: the rule, one for every function of scalar_math.h.
#include "tensor/ops/unary.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {
namespace {

template <class F>
const Op op{F::name, {"x"}, {"y"}};

template <class F>
Var apply(const Var& x, F f = {}) {
  const Tensor& v = x.value;
  check(bool(v), "{}: x must be present; it is absent", F::name);
  check(v.dtype() == Dtype::f32 || v.dtype() == Dtype::f64 || v.dtype() == Dtype::bf16,
        "{}: x must be f32, f64 or bf16; got {} {}", F::name, name(v.dtype()), v.shape().text());
  const Tensor y = empty_like(v);
  kernels::unary_forward<F>({.f = f, .x = v, .y = y});

  return record(op<F>, {x}, y, [f, v, y](Flow& flow) {
    const Tensor d_x = empty_like(v);
    kernels::unary_backward<F>({.f = f, .x = v, .y = y, .d_y = flow.from("y"), .d_x = d_x});
    flow.to("x", d_x);
  });
}

}  // namespace

Var silu(const Var& x) { return apply<scalar::Silu>(x); }
Var sigmoid(const Var& x) { return apply<scalar::Sigmoid>(x); }
Var tanh(const Var& x) { return apply<scalar::Tanh>(x); }
Var relu(const Var& x) { return apply<scalar::Relu>(x); }
Var relu_squared(const Var& x) { return apply<scalar::ReluSquared>(x); }
Var exp(const Var& x) { return apply<scalar::Exp>(x); }
Var log(const Var& x) { return apply<scalar::Log>(x); }
Var softplus(const Var& x) { return apply<scalar::Softplus>(x); }
Var negate(const Var& x) { return apply<scalar::Negate>(x); }
Var square(const Var& x) { return apply<scalar::Square>(x); }
Var scale(const Var& x, double factor) { return apply<scalar::Scale>(x, {.factor = factor}); }

}  // namespace taper
