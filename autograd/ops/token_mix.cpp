// token_mix: the rule. Saved: the inputs alone.
#include "tensor/ops/token_mix.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

using kernels::MixTensors;
using kernels::token_mix_most;

static constexpr const char* weight_edges[] = {"weight0", "weight1", "weight2", "weight3", "weight4", "weight5"};
static constexpr const char* output_edges[] = {"y0", "y1", "y2", "y3", "y4", "y5"};
static const Op op{"token_mix",
                   {"x", "last", "weight0", "weight1", "weight2", "weight3", "weight4", "weight5"},
                   {"y0", "y1", "y2", "y3", "y4", "y5", "tail"}};

MixResult token_mix(const Var& x, const Var& last, const std::vector<Var>& weights, const Packing& packing) {
  const Tensor& v = x.value;
  check(x && v.rank() == 3 && v.size(1) >= 1, "token_mix: x must be [B,T,D] with T >= 1; got {}", x ? v.shape().text() : "nothing");
  const int64_t B = v.size(0), D = v.size(2);
  check(!last || (last.shape() == Shape{B, D} && last.value.dtype() == v.dtype()),
        "token_mix: last must be {} [{},{}] to match x; got {} {}", name(v.dtype()), B, D, last ? name(last.value.dtype()) : "",
        last ? last.shape().text() : "");
  check(!weights.empty() && weights.size() <= size_t(token_mix_most), "token_mix: wants 1 to {} weights; got {}", token_mix_most, weights.size());
  for (const Var& w : weights)
    check(w && w.shape() == Shape{D} && w.value.dtype() == wide(v.dtype()), "token_mix: each weight must be {} [{}] to match x; got {} {}",
          name(wide(v.dtype())), D, w ? name(w.value.dtype()) : "", w ? w.shape().text() : "nothing");
  check_packing("token_mix", packing, B, v.size(1));

  const int n = int(weights.size());
  MixTensors weight, y;
  std::vector<Var> inputs = {x, last};
  std::vector<Tensor> outputs;
  for (int m = 0; m < token_mix_most; ++m) {
    if (m < n) weight[size_t(m)] = weights[size_t(m)].value, y[size_t(m)] = empty_like(v);
    inputs.push_back(m < n ? weights[size_t(m)] : Var{});
    outputs.push_back(y[size_t(m)]);
  }
  const Tensor tail(v.device(), {B, D}, v.dtype());
  outputs.push_back(tail);
  kernels::token_mix_forward({.x = v, .last = last.value, .weight = weight, .y = y, .tail = tail, .packing = packing});

  const std::vector<Var> outs = record(op, inputs, outputs, [x = Saved(x), l = last.value, weight, packing, n](Flow& flow) {
    const Tensor v = x.get();
    kernels::TokenMixBackward d{.x = v, .last = l, .weight = weight, .packing = packing};
    for (int m = 0; m < n; ++m) {
      if (flow.has(output_edges[m])) d.d_y[size_t(m)] = flow.from(output_edges[m]);
      if (flow.wants(weight_edges[m])) d.d_weight[size_t(m)] = empty_like(weight[size_t(m)]);
    }
    if (flow.has("tail")) d.d_tail = flow.from("tail");
    if (flow.wants("x")) d.d_x = empty_like(v);
    if (flow.wants("last")) d.d_last = empty_like(l);
    kernels::token_mix_backward(d);
    if (d.d_x) flow.to("x", d.d_x);
    if (d.d_last) flow.to("last", d.d_last);
    for (int m = 0; m < n; ++m)
      if (d.d_weight[size_t(m)]) flow.to(weight_edges[m], d.d_weight[size_t(m)]);
  });
  return {std::vector<Var>(outs.begin(), outs.begin() + n), outs.back()};
}

}  // namespace taper
