// delta_scan: the rule. Saved beside the inputs: the state before each chunk and the errors e.
#include "tensor/ops/delta_scan.h"

#include <cmath>

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"delta_scan", {"q", "k", "v", "log_a", "beta", "initial"}, {"y", "final"}};

static void check_input(const char* edge, const Var& v, const Shape& want, Dtype dtype) {
  check(!v || (v.shape() == want && v.value.dtype() == dtype),
        "delta_scan: {} must be {} {} to match q and v; got {} {}", edge, name(dtype), want.text(),
        v ? name(v.value.dtype()) : "", v ? v.shape().text() : "");
}

DeltaResult delta_scan(const DeltaInputs& in, const Packing& packing, int64_t chunk) {
  const Tensor &q = in.q.value, &v = in.v.value;
  check(q && q.rank() == 4, "delta_scan: q must be [B,T,H,K]; got {}", q ? q.shape().text() : "nothing");
  check(v && v.rank() == 4, "delta_scan: v must be [B,T,H,V]; got {}", v ? v.shape().text() : "nothing");
  const int64_t B = q.size(0), T = q.size(1), H = q.size(2), K = q.size(3), V = v.size(3);
  check(T >= 1 && chunk >= 0, "delta_scan: wants T >= 1 and chunk >= 0; got T {} and chunk {}", T, chunk);
  check(std::isfinite(in.scale), "delta_scan: scale must be a finite number; got {}", in.scale);
  check(in.k && in.log_a && in.beta, "delta_scan: k, log_a and beta must be given");
  const Dtype state = wide(q.dtype());  // of decays and states
  check_input("k", in.k, {B, T, H, K}, q.dtype());
  check_input("v", in.v, {B, T, H, V}, q.dtype());
  check_input("log_a", in.log_a, {B, T, H}, state);
  check_input("beta", in.beta, {B, T, H}, state);
  check_input("initial", in.initial, {B, H, K, V}, state);
  check_packing("delta_scan", packing, B, T);

  const kernels::DeltaScanInputs inputs{.q = q, .k = in.k.value, .v = v, .log_a = in.log_a.value, .beta = in.beta.value,
                                        .initial = in.initial.value, .scale = in.scale, .packing = packing};
  Device& device = q.device();
  const Tensor y = empty_like(v), final(device, {B, H, K, V}, state);
  const Tensor states = chunk ? Tensor(device, {B, (T + chunk - 1) / chunk, H, K, V}, q.dtype()) : Tensor{};
  const Tensor errors = chunk ? empty_like(v) : Tensor{};
  kernels::delta_scan_forward(
      {.in = inputs, .y = y, .final = final, .states = states, .errors = errors, .chunk = chunk});

  kernels::DeltaScanInputs others = inputs;
  others.q = others.k = others.v = {};
  const auto out = record(op, {in.q, in.k, in.v, in.log_a, in.beta, in.initial}, {y, final},
                          [=, q = Saved(in.q), k = Saved(in.k), v = Saved(in.v)](Flow& flow) {
    kernels::DeltaScanInputs inputs = others;
    inputs.q = q.get(), inputs.k = k.get(), inputs.v = v.get();
    const kernels::DeltaScanBackward d{.in = inputs,
                                       .states = states,
                                       .errors = errors,
                                       .d_y = flow.has("y") ? flow.from("y") : Tensor{},
                                       .d_final = flow.has("final") ? flow.from("final") : Tensor{},
                                       .d_q = empty_like(inputs.q),
                                       .d_k = empty_like(inputs.k),
                                       .d_v = empty_like(inputs.v),
                                       .d_log_a = empty_like(inputs.log_a),
                                       .d_beta = empty_like(inputs.beta),
                                       .d_initial = inputs.initial ? empty_like(inputs.initial) : Tensor{},
                                       .chunk = chunk};
    kernels::delta_scan_backward(d);
    flow.to("q", d.d_q);
    flow.to("k", d.d_k);
    flow.to("v", d.d_v);
    flow.to("log_a", d.d_log_a);
    flow.to("beta", d.d_beta);
    if (d.d_initial) flow.to("initial", d.d_initial);
  });
  return {out[0], out[1]};
}

}  // namespace taper
