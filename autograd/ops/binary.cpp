// binary: the rule, one for every function of two arguments in scalar_math.h. A sum passes d_y on: no kernel, nothing saved.
#include "tensor/ops/binary.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {
namespace {

bool trails(const Shape& b, const Shape& a) {  // b is a's shape, its last dimensions, or []
  if (b.rank() > a.rank()) return false;
  for (int i = 1; i <= b.rank(); ++i)
    if (b[-i] != a[-i]) return false;
  return true;
}

template <class F>
const Op op{F::name, {"a", "b"}, {"y"}};

template <class F>
Var apply(const Var& a, const Var& b) {
  check(a && b, "{}: a and b must be present; {} is absent", F::name, a ? "b" : "a");
  const Tensor &va = a.value, &vb = b.value;
  check(trails(vb.shape(), va.shape()), "{}: b must have a's shape {}, its last dimensions, or be a scalar []; got {}",
        F::name, va.shape().text(), vb.shape().text());
  check(va.dtype() == vb.dtype() || wide(va.dtype()) == vb.dtype(),
        "{}: a and b must have one dtype; got {} and {}; cast one of them", F::name, name(va.dtype()), name(vb.dtype()));
  const Tensor y = empty_like(va);
  kernels::binary_forward<F>({.a = va, .b = vb, .y = y});

  constexpr bool adds = std::is_same_v<F, scalar::Add>, passes = adds || std::is_same_v<F, scalar::Subtract>;
  if (adds && va.shape() == vb.shape() && va.dtype() == vb.dtype())
    return record(op<F>, {a, b}, y, [](Flow& flow) {
      flow.to("a", flow.from("y"));
      flow.to("b", flow.from("y"));
    });
  return record(op<F>, {a, b}, y, [va, vb](Flow& flow) {
    const Tensor& d_y = flow.from("y");
    if (passes && flow.wants("a")) flow.to("a", d_y);
    const Tensor d_a = !passes && flow.wants("a") ? empty_like(va) : Tensor();
    const Tensor d_b = flow.wants("b") ? empty_like(vb) : Tensor();
    if (d_a || d_b) kernels::binary_backward<F>({.a = va, .b = vb, .d_y = d_y, .d_a = d_a, .d_b = d_b});
    if (d_a) flow.to("a", d_a);
    if (d_b) flow.to("b", d_b);
  });
}

}  // namespace

Var add(const Var& a, const Var& b) { return apply<scalar::Add>(a, b); }
Var subtract(const Var& a, const Var& b) { return apply<scalar::Subtract>(a, b); }
Var multiply(const Var& a, const Var& b) { return apply<scalar::Multiply>(a, b); }
Var divide(const Var& a, const Var& b) { return apply<scalar::Divide>(a, b); }
Var swiglu(const Var& a, const Var& b) { return apply<scalar::SwiGlu>(a, b); }

}  // namespace taper
