// dplr_scan: the rule.
#include "tensor/ops/dplr_scan.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"dplr_scan", {"r", "log_w", "k", "v", "a", "b", "initial"}, {"y", "final"}};

static void check_input(const char* edge, const Var& v, const Shape& want, Dtype dtype) {
  check(!v || (v.shape() == want && v.value.dtype() == dtype), "dplr_scan: {} must be {} {} to match r; got {} {}", edge,
        name(dtype), want.text(), v ? name(v.value.dtype()) : "", v ? v.shape().text() : "");
}

DplrResult dplr_scan(const DplrInputs& in, const Packing& packing, int64_t chunk) {
  const Tensor& r = in.r.value;
  check(r && r.rank() == 4, "dplr_scan: r must be [B,T,H,K]; got {}", r ? r.shape().text() : "nothing");
  const int64_t B = r.size(0), T = r.size(1), H = r.size(2), K = r.size(3);
  check(in.v && in.v.value.rank() == 4, "dplr_scan: v must be [B,T,H,V]; got {}", in.v ? in.v.shape().text() : "nothing");
  const int64_t V = in.v.size(3);
  const Dtype wider = wide(r.dtype());
  const int64_t longest = kernels::dplr_scan_longest_chunk(r.dtype());
  if (chunk == dplr_chunk) chunk = longest;
  check(T >= 1 && chunk >= 0 && chunk <= longest, "dplr_scan: wants T >= 1 and chunk from 0 to {}; got T {} and chunk {}", longest, T,
        chunk);
  check(in.log_w && in.k && in.a && in.b, "dplr_scan: log_w, k, a and b must be given");
  check_input("log_w", in.log_w, {B, T, H, K}, wider);
  check_input("k", in.k, {B, T, H, K}, r.dtype());
  check_input("v", in.v, {B, T, H, V}, r.dtype());
  check_input("a", in.a, {B, T, H, K}, r.dtype());
  check_input("b", in.b, {B, T, H, K}, r.dtype());
  check_input("initial", in.initial, {B, H, K, V}, wider);
  check_packing("dplr_scan", packing, B, T);

  const kernels::DplrScanInputs inputs{.r = r, .log_w = in.log_w.value, .k = in.k.value, .v = in.v.value, .a = in.a.value,
                                       .b = in.b.value, .initial = in.initial.value, .packing = packing};
  Device& device = r.device();
  const Tensor y = empty_like(inputs.v), final(device, {B, H, K, V}, wider);
  const int64_t chunks = chunk ? (T + chunk - 1) / chunk : 0;
  const Tensor states = chunk ? Tensor(device, {B, chunks, H, K, V}, r.dtype()) : Tensor{};
  const Tensor m = chunk && r.dtype() == wider ? Tensor(device, {B, chunks, H, chunk, V}, wider) : Tensor{};
  kernels::dplr_scan_forward({.in = inputs, .y = y, .final = final, .states = states, .m = m, .chunk = chunk});

  const auto out = record(op, {in.r, in.log_w, in.k, in.v, in.a, in.b, in.initial}, {y, final}, [=](Flow& flow) {
    const kernels::DplrScanBackward d{.in = inputs,
                                      .states = states,
                                      .m = m,
                                      .d_y = flow.has("y") ? flow.from("y") : Tensor{},
                                      .d_final = flow.has("final") ? flow.from("final") : Tensor{},
                                      .d_r = empty_like(inputs.r),
                                      .d_log_w = empty_like(inputs.log_w),
                                      .d_k = empty_like(inputs.k),
                                      .d_v = empty_like(inputs.v),
                                      .d_a = empty_like(inputs.a),
                                      .d_b = empty_like(inputs.b),
                                      .d_initial = inputs.initial ? empty_like(inputs.initial) : Tensor{},
                                      .chunk = chunk};
    kernels::dplr_scan_backward(d);
    flow.to("r", d.d_r);
    flow.to("log_w", d.d_log_w);
    flow.to("k", d.d_k);
    flow.to("v", d.d_v);
    flow.to("a", d.d_a);
    flow.to("b", d.d_b);
    if (d.d_initial) flow.to("initial", d.d_initial);
  });
  return {out[0], out[1]};
}

}  // namespace taper
