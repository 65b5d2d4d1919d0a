// ssd_scan: the rule.
#include "tensor/ops/ssd_scan.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"ssd_scan", {"x", "log_a", "b", "c", "dt", "d", "initial"}, {"y", "final"}};

static void check_input(const char* edge, const Var& v, const Shape& want, Dtype dtype) {
  check(!v || (v.shape() == want && v.value.dtype() == dtype), "ssd_scan: {} must be {} {} to match x; got {} {}", edge,
        name(dtype), want.text(), v ? name(v.value.dtype()) : "", v ? v.shape().text() : "");
}

SsdResult ssd_scan(const SsdInputs& in, const Packing& packing, int64_t chunk) {
  const Tensor& x = in.x.value;
  check(x && x.rank() == 4, "ssd_scan: x must be [B,T,H,P]; got {}", x ? x.shape().text() : "nothing");
  const int64_t B = x.size(0), T = x.size(1), H = x.size(2), P = x.size(3);
  check(in.b && in.b.value.rank() == 4, "ssd_scan: b must be [B,T,G,N]; got {}", in.b ? in.b.shape().text() : "nothing");
  const int64_t G = in.b.size(2), N = in.b.size(3);
  check(T >= 1 && chunk >= 0, "ssd_scan: wants T >= 1 and chunk >= 0; got T {} and chunk {}", T, chunk);
  check(G >= 1 && H % G == 0, "ssd_scan: the {} groups of b must divide the {} heads of x", G, H);
  check(in.log_a && in.c, "ssd_scan: log_a and c must be given");
  const Dtype kept = wide(x.dtype());  // decays, steps and states stay wide
  check_input("log_a", in.log_a, {B, T, H}, kept);
  check_input("b", in.b, {B, T, G, N}, x.dtype());
  check_input("c", in.c, {B, T, G, N}, x.dtype());
  check_input("dt", in.dt, {B, T, H}, kept);
  check_input("d", in.d, {H}, kept);
  check_input("initial", in.initial, {B, H, N, P}, kept);
  check_packing("ssd_scan", packing, B, T);

  const kernels::SsdScanInputs inputs{.x = x, .log_a = in.log_a.value, .b = in.b.value, .c = in.c.value, .dt = in.dt.value,
                                      .d = in.d.value, .initial = in.initial.value, .packing = packing};
  Device& device = x.device();
  const Tensor y = empty_like(x), final(device, {B, H, N, P}, kept);
  const Tensor states = chunk ? Tensor(device, {B, (T + chunk - 1) / chunk, H, N, P}, x.dtype()) : Tensor{};
  kernels::ssd_scan_forward({.in = inputs, .y = y, .final = final, .states = states, .chunk = chunk});

  kernels::SsdScanInputs others = inputs;
  others.x = {};
  const auto out = record(op, {in.x, in.log_a, in.b, in.c, in.dt, in.d, in.initial}, {y, final}, [=, x = Saved(in.x)](Flow& flow) {
    kernels::SsdScanInputs inputs = others;
    inputs.x = x.get();
    auto like = [](const Tensor& t) { return t ? empty_like(t) : Tensor{}; };
    const kernels::SsdScanBackward d{.in = inputs,
                                     .states = states,
                                     .d_y = flow.has("y") ? flow.from("y") : Tensor{},
                                     .d_final = flow.has("final") ? flow.from("final") : Tensor{},
                                     .d_x = like(inputs.x),
                                     .d_log_a = like(inputs.log_a),
                                     .d_b = like(inputs.b),
                                     .d_c = like(inputs.c),
                                     .d_dt = like(inputs.dt),
                                     .d_d = like(inputs.d),
                                     .d_initial = like(inputs.initial),
                                     .chunk = chunk};
    kernels::ssd_scan_backward(d);
    flow.to("x", d.d_x);
    flow.to("log_a", d.d_log_a);
    flow.to("b", d.d_b);
    flow.to("c", d.d_c);
    if (d.d_dt) flow.to("dt", d.d_dt);
    if (d.d_d) flow.to("d", d.d_d);
    if (d.d_initial) flow.to("initial", d.d_initial);
  });
  return {out[0], out[1]};
}

}  // namespace taper
