// RetNet: the fixed decays and the forward pass.
#include "nn/mixers/retnet.h"

#include <cmath>

namespace taper {

// p of l = -exp(p): log(-log(1 - 2^(-5-h)))
static Tensor fixed_rates(const Init& init, int64_t H) {
  std::vector<double> p;
  for (int64_t h = 0; h < H; ++h) p.push_back(std::log(-std::log1p(-std::exp2(-5 - double(h)))));
  return from_doubles(init.device(), {H}, init.dtype(), p);
}

RetNet::RetNet(const ModelConfig& config, const Init& init)
    : config_(config), attention_(config, init, "g_norm_swish_gate.weight"),
      decay_(config, init, "A_log_delta", fixed_rates(init, config.heads)) {}

void RetNet::each(const Visit& visit) {
  attention_.each(visit);
  decay_.each(visit);
}

Var RetNet::forward(Tape& tape, const Var& x, Pass& pass, MixerState* state) const {
  const Scope scope(tape, "mixer");
  const Attention::Inputs in = attention_.inputs(tape, x, pass.packing, state);
  const Var q = rotary(scale(in.q, 1 / std::sqrt(double(config_.head_dim))), pass.packing);
  const Var k = rotary(in.k, pass.packing);
  const Var log_a = decay_(tape, {}, x.size(0), x.size(1), pass.packing, pass.fused);  // [B,T,H]
  const SsdResult scan = ssd_scan({.x = in.v, .log_a = log_a, .b = k, .c = q, .dt = {}, .d = {}, .initial = state ? state->recurrent : Var{}},
                                  pass.packing);
  if (state) *state = {.recurrent = scan.final, .history = in.tails};
  return attention_.output(tape, scan.y, in.gate, pass.stream);
}

double RetNet::recurrence_flops() const { return 5 * double(config_.head_dim) * double(attention_.values()) + attention_.flops(); }

}  // namespace taper
