// GatedDeltaNet: initialisers and the forward pass.
#include "nn/mixers/gated_deltanet.h"

#include <cmath>

namespace taper {

static constexpr double l2_eps = 1e-6;  // of the keys' and queries' norm; the reference's kernel fixes it

GatedDeltaNet::GatedDeltaNet(const ModelConfig& config, const Init& init)
    : config_(config), attention_(config, init, "o_norm.weight"), decay_(config, init, "A_log_delta") {
  a_proj_ = make_linear(init, "a_proj", config.heads, config.d_model, fill_normal(0.02));
  b_proj_ = make_linear(init, "b_proj", config.heads, config.d_model, fill_normal(0.02));
  dt_bias_ = init.make("dt_bias", {config.heads}, fill_dt_bias());
}

void GatedDeltaNet::each(const Visit& visit) {
  attention_.each(visit);
  a_proj_.each(visit);
  b_proj_.each(visit);
  visit(dt_bias_);
  decay_.each(visit);
}

Var GatedDeltaNet::forward(Tape& tape, const Var& x, Pass& pass, MixerState* state) const {
  const Scope scope(tape, "mixer");
  const int64_t B = x.size(0), T = x.size(1);
  const Attention::Inputs in = attention_.inputs(tape, x, pass.packing, state, {&b_proj_, &a_proj_});
  const Var q = l2_norm(in.q, l2_eps), k = l2_norm(in.k, l2_eps);
  const Var beta = sigmoid(widened(in.others[0]));                             // [B,T,H]
  const Var dt = softplus(add(widened(in.others[1]), leaf(tape, dt_bias_)));  // [B,T,H]
  const Var log_a = decay_(tape, dt, B, T, pass.packing, pass.fused);                      // [B,T,H]

  const DeltaResult scan = delta_scan({.q = q, .k = k, .v = in.v, .log_a = log_a, .beta = beta,
                                       .initial = state ? state->recurrent : Var{}, .scale = 1 / std::sqrt(double(config_.head_dim))},
                                      pass.packing);
  if (state) *state = {.recurrent = scan.final, .history = in.tails};
  return attention_.output(tape, scan.y, in.gate, pass.stream);
}

// S' = a S, e = v - S'^T k, S = S' + k (beta e)^T, y = S^T q: seven operations for each of a head's K V elements.
double GatedDeltaNet::recurrence_flops() const { return 7 * double(config_.head_dim) * double(attention_.values()) + attention_.flops(); }

}  // namespace taper
