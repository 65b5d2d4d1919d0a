// gla_scan: the rule.
#include "tensor/ops/gla_scan.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"gla_scan", {"q", "k", "v", "log_a", "initial"}, {"y", "final"}};

static void check_input(const char* edge, const Var& v, const Shape& want, Dtype dtype) {
  check(!v || (v.shape() == want && v.value.dtype() == dtype),
        "gla_scan: {} must be {} {} to match q and v; got {} {}", edge, name(dtype), want.text(),
        v ? name(v.value.dtype()) : "", v ? v.shape().text() : "");
}

GlaResult gla_scan(const GlaInputs& in, double scale, const Packing& packing, int64_t chunk) {
  const Tensor &q = in.q.value, &v = in.v.value;
  check(v && v.rank() == 4, "gla_scan: v must be [B,T,H,V]; got {}", v ? v.shape().text() : "nothing");
  check(q && q.rank() == 4, "gla_scan: q must be [B,T,H,K]; got {}", q ? q.shape().text() : "nothing");
  const int64_t B = v.size(0), T = v.size(1), H = v.size(2), V = v.size(3), K = q.size(3);
  check(T >= 1 && chunk >= 0, "gla_scan: wants T >= 1 and chunk >= 0; got T {} and chunk {}", T, chunk);
  check(in.k && in.log_a, "gla_scan: k and log_a must be given");
  check_input("q", in.q, {B, T, H, K}, v.dtype());
  check_input("k", in.k, {B, T, H, K}, v.dtype());
  const Dtype kept = wide(v.dtype());  // decays and states stay wide
  check_input("log_a", in.log_a, {B, T, H, K}, kept);
  check_input("initial", in.initial, {B, H, K, V}, kept);
  check_packing("gla_scan", packing, B, T);

  const kernels::GlaScanInputs inputs{.q = q, .k = in.k.value, .v = v, .log_a = in.log_a.value,
                                      .initial = in.initial.value, .scale = scale, .packing = packing};
  Device& device = v.device();
  const Tensor y = empty_like(v), final(device, {B, H, K, V}, kept);
  const Tensor states = chunk ? Tensor(device, {B, (T + chunk - 1) / chunk, H, K, V}, v.dtype()) : Tensor{};
  kernels::gla_scan_forward({.in = inputs, .y = y, .final = final, .states = states, .chunk = chunk});

  kernels::GlaScanInputs others = inputs;
  others.q = others.k = others.v = {};
  const auto out = record(op, {in.q, in.k, in.v, in.log_a, in.initial}, {y, final},
                          [=, q = Saved(in.q), k = Saved(in.k), v = Saved(in.v)](Flow& flow) {
    kernels::GlaScanInputs inputs = others;
    inputs.q = q.get(), inputs.k = k.get(), inputs.v = v.get();
    const kernels::GlaScanBackward d{.in = inputs,
                                     .states = states,
                                     .d_y = flow.has("y") ? flow.from("y") : Tensor{},
                                     .d_final = flow.has("final") ? flow.from("final") : Tensor{},
                                     .d_q = empty_like(inputs.q),
                                     .d_k = empty_like(inputs.k),
                                     .d_v = empty_like(inputs.v),
                                     .d_log_a = empty_like(inputs.log_a),
                                     .d_initial = inputs.initial ? empty_like(inputs.initial) : Tensor{},
                                     .chunk = chunk};
    kernels::gla_scan_backward(d);
    flow.to("q", d.d_q);
    flow.to("k", d.d_k);
    flow.to("v", d.d_v);
    flow.to("log_a", d.d_log_a);
    if (d.d_initial) flow.to("initial", d.d_initial);
  });
  return {out[0], out[1]};
}

}  // namespace taper
