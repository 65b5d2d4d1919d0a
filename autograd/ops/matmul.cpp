// matmul: the rule. Both gradients are products too.
#include "tensor/ops/matmul.h"

#include <iterator>

#include "autograd/ops.h"
#include "tensor/error.h"
#include "tensor/ops/unary.h"

namespace taper {

static const Op op{"matmul", {"a", "b"}, {"c"}}, squared_op{"matmul_relu_squared", {"a", "b"}, {"c"}},
    add_op{"matmul_add", {"a", "b", "added"}, {"c"}};

static Var product(const Op& op, const Var& a, const Var& b, const Var& added, Transposes transposes) {
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
  check(&op != &add_op || (added && added.shape() == shape && added.value.dtype() == c.dtype()),
        "matmul_add: added must be {} {} to match the product; got {} {}", name(c.dtype()), shape.text(),
        added ? name(added.value.dtype()) : "nothing", added ? added.shape().text() : "");
  kernels::matmul({.a = va, .b = vb, .c = c, .transpose_a = ta, .transpose_b = tb,
                   .then = squared ? kernels::Epilogue{.kind = kernels::Epilogue::relu_squared} : kernels::add_to(added.value)});

  std::vector<Var> inputs = {a, b};
  if (added) inputs.push_back(added);
  return record(op, std::move(inputs), c, [a = Saved(a), shape_a = va.shape(), vb, square = squared ? c : Tensor(),
                                           adds = bool(added), ta, tb](Flow& flow) {
    Tensor d_c = flow.from("c");
    if (square) {
      const Tensor d = empty_like(square);
      kernels::unary_backward<scalar::ReluSquared>({.x = square, .y = square, .d_y = d_c, .d_x = d});  // its slope is y's
      d_c = d;
    }
    if (adds && flow.wants("added")) flow.to("added", d_c);
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

Var matmul(const Var& a, const Var& b, Transposes transposes) { return product(op, a, b, {}, transposes); }
Var matmul_relu_squared(const Var& a, const Var& b, Transposes transposes) { return product(squared_op, a, b, {}, transposes); }
Var matmul_add(const Var& a, const Var& b, const Var& added, Transposes transposes) { return product(add_op, a, b, added, transposes); }

static const Op gate_op{"matmul_silu_gate", {"x", "gate", "up"}, {"y"}};

Var matmul_silu_gate(const Var& x, const Var& gate, const Var& up) {
  const Tensor &v = x.value, &w_gate = gate.value, &w_up = up.value;
  check(x && v.rank() >= 1, "matmul_silu_gate: x must be [...,K]; got {}", x ? v.shape().text() : "nothing");
  for (const auto& [w, who] : {std::pair{&gate, "gate"}, {&up, "up"}})
    check(*w && w->value.rank() == 2 && w->size(1) == v.size(-1) && w->value.dtype() == v.dtype() && w->shape() == gate.shape(),
          "matmul_silu_gate: gate and up must be {} [N,{}] to match x {}; got {} of {} {}", name(v.dtype()), v.size(-1), v.shape().text(), who,
          *w ? name(w->value.dtype()) : "nothing", *w ? w->shape().text() : "");
  Shape shape;
  for (int i = 0; i + 1 < v.rank(); ++i) shape.push_back(v.size(i));
  shape.push_back(w_gate.size(0));
  const Tensor y(v.device(), shape, v.dtype());
  const bool kept = x.tracked() || gate.tracked() || up.tracked();
  const Tensor g = kept ? empty_like(y) : Tensor(), u = kept ? empty_like(y) : Tensor();
  kernels::matmul({.a = v, .b = w_gate, .c = y, .transpose_b = true,
                   .then = {.kind = kernels::Epilogue::silu_gate, .with = w_up, .gate = g, .up = u}});

  return record(gate_op, {x, gate, up}, y, [x = Saved(x), shape = v.shape(), w_gate, w_up, g, u](Flow& flow) {
    const Tensor d_g = empty_like(g), d_u = empty_like(u);
    kernels::binary_backward<scalar::SwiGlu>({.a = g, .b = u, .d_y = flow.from("y"), .d_a = d_g, .d_b = d_u});
    if (flow.wants("x")) {
      const Tensor d_x(g.device(), shape, g.dtype());
      kernels::matmul({.a = d_g, .b = w_gate, .c = d_x});
      kernels::matmul({.a = d_u, .b = w_up, .c = d_x, .then = kernels::add_to(d_x)});
      flow.to("x", d_x);
    }
    Tensor v;
    for (const auto& [edge, d] : {std::pair{"gate", &d_g}, {"up", &d_u}}) {
      if (!flow.wants(edge)) continue;
      if (!v) v = x.get();
      const Tensor d_w(g.device(), w_gate.shape(), wide(g.dtype()));
      kernels::matmul({.a = *d, .b = v, .c = d_w, .transpose_a = true});
      flow.to(edge, d_w);
    }
  });
}

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
        kernels::matmul({.a = d_y, .b = w[i], .c = d_x, .then = kernels::add_to(first ? Tensor() : d_x)});
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
