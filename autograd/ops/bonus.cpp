// bonus: the rule. Saved: r, k, v and the weight; the bracket c is computed again.
#include "tensor/ops/bonus.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"bonus", {"y", "r", "k", "v", "weight"}, {"out"}};

Var bonus(const Var& y, const Var& r, const Var& k, const Var& v, const Var& weight) {
  check(y && y.shape().rank() == 4, "bonus: y must be [B,T,H,V]; got {}", y ? y.shape().text() : "nothing");
  check(r && r.shape().rank() == 4, "bonus: r must be [B,T,H,K]; got {}", r ? r.shape().text() : "nothing");
  const int64_t B = y.size(0), T = y.size(1), H = y.size(2), V = y.size(3), K = r.size(3);
  auto check_input = [&](const char* what, const Var& x, const Shape& shape, Dtype dtype) {
    check(x && x.shape() == shape && x.value.dtype() == dtype, "bonus: {} must be {} {} to match y {}; got {} {}", what,
          name(dtype), shape.text(), y.shape().text(), name(x.value.dtype()), x ? x.shape().text() : "nothing");
  };
  check_input("r", r, {B, T, H, K}, y.value.dtype());
  check_input("k", k, {B, T, H, K}, y.value.dtype());
  check_input("v", v, {B, T, H, V}, y.value.dtype());
  check_input("weight", weight, {H, K}, wide(y.value.dtype()));
  const Tensor out = empty_like(y.value);
  const Tensor vr = r.value, vk = k.value, vv = v.value, w = weight.value;
  kernels::bonus_forward({.y = y.value, .r = vr, .k = vk, .v = vv, .weight = w, .out = out});

  return record(op, {y, r, k, v, weight}, out, [vr, vk, vv, w](Flow& flow) {
    const Tensor d_r = flow.wants("r") ? empty_like(vr) : Tensor(), d_k = flow.wants("k") ? empty_like(vk) : Tensor();
    const Tensor d_v = flow.wants("v") ? empty_like(vv) : Tensor(), d_w = flow.wants("weight") ? empty_like(w) : Tensor();
    if (d_r || d_k || d_v || d_w)
      kernels::bonus_backward({.r = vr, .k = vk, .v = vv, .weight = w, .d_out = flow.from("out"),
                               .d_r = d_r, .d_k = d_k, .d_v = d_v, .d_weight = d_w});
    if (flow.wants("y")) flow.to("y", flow.from("out"));
    if (d_r) flow.to("r", d_r);
    if (d_k) flow.to("k", d_k);
    if (d_v) flow.to("v", d_v);
    if (d_w) flow.to("weight", d_w);
  });
}

}  // namespace taper
