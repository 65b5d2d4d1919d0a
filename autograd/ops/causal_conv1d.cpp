// causal_conv1d: the rule. Saved: the inputs alone.
#include "tensor/ops/causal_conv1d.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"causal_conv1d", {"x", "weight", "bias", "history"}, {"y", "tail"}};

ConvResult causal_conv1d(const Var& x, const Var& weight, const Var& bias, const Var& history, const Packing& packing,
                         bool with_silu) {
  const Tensor &v = x.value, &w = weight.value;
  check(x && v.rank() == 3 && v.size(1) >= 1, "causal_conv1d: x must be [B,T,D] with T >= 1; got {}",
        x ? v.shape().text() : "nothing");
  const int64_t B = v.size(0), T = v.size(1), D = v.size(2);
  check(weight && w.rank() == 3 && w.size(0) == D && w.size(1) == 1 && w.size(2) >= 1,
        "causal_conv1d: weight must be [{},1,W] to match x {}; got {}", D, v.shape().text(),
        weight ? w.shape().text() : "nothing");
  const int64_t W = w.size(2);
  check(!bias || bias.shape() == Shape{D}, "causal_conv1d: bias must be [{}] to match x {}; got {}", D,
        v.shape().text(), bias.shape().text());
  check(!history || history.shape() == Shape{B, W - 1, D}, "causal_conv1d: history must be [{},{},{}]; got {}", B,
        W - 1, D, history.shape().text());
  for (const Var* other : {&weight, &bias, &history})
    check(!*other || other->value.dtype() == (other == &history ? v.dtype() : wide(v.dtype())),
          "causal_conv1d: all inputs must have the dtype of x, {}{}; got {}", name(v.dtype()),
          v.dtype() == Dtype::bf16 ? ", but weight and bias f32" : "", name(other->value.dtype()));
  check_packing("causal_conv1d", packing, B, T);
  const Tensor tail(v.device(), {B, W - 1, D}, v.dtype());
  const auto forward = [v, w, b = bias.value, h = history.value, tail, packing, with_silu] {
    const Tensor y = empty_like(v);
    kernels::causal_conv1d_forward({.x = v, .weight = w, .bias = b, .history = h, .y = y, .tail = tail, .packing = packing,
                                    .with_silu = with_silu});
    return y;
  };
  const Tensor y = forward();

  const std::vector<Var> outs = record(
      op, {x, weight, bias, history}, {y, tail},
      [v, w, b = bias.value, h = history.value, packing, with_silu](Flow& flow) {
        const Tensor d_x = flow.wants("x") ? empty_like(v) : Tensor();
        const Tensor d_w = flow.wants("weight") ? empty_like(w) : Tensor();
        const Tensor d_b = flow.wants("bias") ? empty_like(b) : Tensor();
        const Tensor d_h = flow.wants("history") ? empty_like(h) : Tensor();
        kernels::causal_conv1d_backward({.x = v, .weight = w, .bias = b, .history = h,
                                         .d_y = flow.has("y") ? flow.from("y") : Tensor(),
                                         .d_tail = flow.has("tail") ? flow.from("tail") : Tensor(),
                                         .d_x = d_x, .d_weight = d_w, .d_bias = d_b, .d_history = d_h,
                                         .packing = packing, .with_silu = with_silu});
        if (d_x) flow.to("x", d_x);
        if (d_w) flow.to("weight", d_w);
        if (d_b) flow.to("bias", d_b);
        if (d_h) flow.to("history", d_h);
      });
  return {recomputed(outs[0], forward), outs[1]};
}

}  // namespace taper
