// matmul: the rule. Both gradients are products too.
#include "tensor/ops/matmul.h"

#include <iterator>

#include "autograd/ops.h"
#include "tensor/error.h"
#include "tensor/ops/unary.h"

namespace taper {

static const Op op{"matmul", {"a", "b"}, {"c"}}, squared_op{"matmul_relu_squared", {"a", "b"}, {"c"}};

static Var product(const Op& op, const Var& a, const Var& b, Transposes transposes) {
  const bool squared = &op == &squared_op;
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
  kernels::matmul({.a = va, .b = vb, .c = c, .transpose_a = ta, .transpose_b = tb, .relu_squared = squared});

  return record(op, {a, b}, c, [a = Saved(a), shape_a = va.shape(), vb, square = squared ? c : Tensor(), ta, tb](Flow& flow) {
    Tensor d_c = flow.from("c");
    if (square) {
      const Tensor d = empty_like(square);
      kernels::unary_backward<scalar::ReluSquared>({.x = square, .y = square, .d_y = d_c, .d_x = d});  // its slope is y's
      d_c = d;
    }
    if (flow.wants("a")) {
      const Tensor d_a(vb.device(), shape_a, vb.dtype());
      if (ta) kernels::matmul({.a = vb, .b = d_c, .c = d_a, .transpose_a = tb, .transpose_b = true});
      else kernels::matmul({.a = d_c, .b = vb, .c = d_a, .transpose_a = false, .transpose_b = !tb});
      flow.to("a", d_a);
    }
    if (flow.wants("b")) {
      const Tensor va = a.get();
      const Tensor d_b(vb.device(), vb.shape(), wide(vb.dtype()));  // a weight's, as a rule: f32 as it was summed
      if (tb) kernels::matmul({.a = d_c, .b = va, .c = d_b, .transpose_a = true, .transpose_b = ta});
      else kernels::matmul({.a = va, .b = d_c, .c = d_b, .transpose_a = !ta, .transpose_b = false});
      flow.to("b", d_b);
    }
  });
}

Var matmul(const Var& a, const Var& b, Transposes transposes) { return product(op, a, b, transposes); }
Var matmul_relu_squared(const Var& a, const Var& b, Transposes transposes) { return product(squared_op, a, b, transposes); }

static constexpr const char* weight_edges[] = {"weight0", "weight1", "weight2", "weight3", "weight4", "weight5"};
static constexpr const char* output_edges[] = {"y0", "y1", "y2", "y3", "y4", "y5"};
static const Op project_op{"project",
                           {"x", "weight0", "weight1", "weight2", "weight3", "weight4", "weight5"},
                           {"y0", "y1", "y2", "y3", "y4", "y5"}};

std::vector<Var> project(const Var& x, const std::vector<Var>& weights) {
  constexpr size_t most = std::size(weight_edges);
  const Tensor& v = x.value;
  check(x && v.rank() >= 1, "project: x must be [...,K]; got {}", x ? v.shape().text() : "nothing");
  check(1 <= weights.size() && weights.size() <= most, "project: wants 1 to {} weights; got {}", most, weights.size());
  std::vector<Var> inputs = {x};
  std::vector<Tensor> w, outputs(most);
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor& t = weights[i].value;
    check(weights[i] && t.rank() == 2 && t.size(1) == v.size(-1) && t.dtype() == v.dtype(),
          "project: each weight must be {} [N,{}] to match x {}; got {} {}", name(v.dtype()), v.size(-1), v.shape().text(), name(t.dtype()),
          weights[i] ? t.shape().text() : "nothing");
    Shape shape;
    for (int k = 0; k + 1 < v.rank(); ++k) shape.push_back(v.size(k));
    shape.push_back(t.size(0));
    outputs[i] = Tensor(v.device(), shape, v.dtype());
    kernels::matmul({.a = v, .b = t, .c = outputs[i], .transpose_b = true});
    w.push_back(t);
    inputs.push_back(weights[i]);
  }
  inputs.resize(most + 1);

  std::vector<Var> outs = record(project_op, inputs, outputs, [x = Saved(x), shape = v.shape(), w](Flow& flow) {
    Tensor v, d_x;
    for (size_t i = 0; i < w.size(); ++i) {
      if (!flow.has(output_edges[i])) {  // a product that no loss looked at
        if (flow.wants(weight_edges[i])) flow.to(weight_edges[i], zeros(w[i].device(), w[i].shape(), wide(w[i].dtype())));
        continue;
      }
      const Tensor& d_y = flow.from(output_edges[i]);
      if (flow.wants("x")) {
        const bool first = !d_x;
        if (first) d_x = Tensor(d_y.device(), shape, d_y.dtype());
        kernels::matmul({.a = d_y, .b = w[i], .c = d_x, .accumulate = !first});
      }
      if (!flow.wants(weight_edges[i])) continue;
      if (!v) v = x.get();
      const Tensor d_w(w[i].device(), w[i].shape(), wide(w[i].dtype()));
      kernels::matmul({.a = d_y, .b = v, .c = d_w, .transpose_a = true});
      flow.to(weight_edges[i], d_w);
    }
    if (d_x) flow.to("x", d_x);
  });
  outs.resize(weights.size());
  return outs;
}

}  // namespace taper
