// matmul: the rule. Both gradients are products too.
#include "tensor/ops/matmul.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"matmul", {"a", "b"}, {"c"}};

Var matmul(const Var& a, const Var& b, Transposes transposes) {
  check(a && b, "matmul: a and b must be present; {} is absent", a ? "b" : "a");
  const Tensor &va = a.value, &vb = b.value;
  const auto [ta, tb] = transposes;
  check(ta ? va.rank() == 2 : va.rank() >= 1, "matmul: a must be {}; got {}", ta ? "[K,M]" : "[...,K]",
        va.shape().text());
  check(vb.rank() == 2, "matmul: b must be {}; got {}", tb ? "[N,K]" : "[K,N]", vb.shape().text());
  check(va.dtype() == vb.dtype(), "matmul: a and b must have one dtype; got {} and {}; cast one of them",
        name(va.dtype()), name(vb.dtype()));
  const int64_t K = ta ? va.size(0) : va.size(-1);
  check(K == vb.size(tb ? 1 : 0), "matmul: the inner sizes must agree; got a {}{} and b {}{}", va.shape().text(),
        ta ? " transposed" : "", vb.shape().text(), tb ? " transposed" : "");
  Shape shape;
  if (ta) shape.push_back(va.size(1));
  else
    for (int i = 0; i + 1 < va.rank(); ++i) shape.push_back(va.size(i));
  shape.push_back(vb.size(tb ? 0 : 1));
  const Tensor c(va.device(), shape, va.dtype());
  kernels::matmul({.a = va, .b = vb, .c = c, .transpose_a = ta, .transpose_b = tb});

  return record(op, {a, b}, c, [va, vb, ta, tb](Flow& flow) {
    const Tensor& d_c = flow.from("c");
    if (flow.wants("a")) {
      const Tensor d_a = empty_like(va);
      if (ta) kernels::matmul({.a = vb, .b = d_c, .c = d_a, .transpose_a = tb, .transpose_b = true});
      else kernels::matmul({.a = d_c, .b = vb, .c = d_a, .transpose_a = false, .transpose_b = !tb});
      flow.to("a", d_a);
    }
    if (flow.wants("b")) {
      const Tensor d_b(vb.device(), vb.shape(), wide(vb.dtype()));  // a weight's, as a rule: f32 as it was summed
      if (tb) kernels::matmul({.a = d_c, .b = va, .c = d_b, .transpose_a = true, .transpose_b = ta});
      else kernels::matmul({.a = va, .b = d_c, .c = d_b, .transpose_a = !ta, .transpose_b = false});
      flow.to("b", d_b);
    }
  });
}

}  // namespace taper
