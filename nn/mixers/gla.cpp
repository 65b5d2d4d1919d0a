// Gla: initialisers, the forward pass, and the decays that its biases alone give.
#include "nn/mixers/gla.h"

#include <cmath>

namespace taper {

static constexpr double gate_normalizer = 16;  // of the baseline: decays begin near 1

Gla::Gla(const ModelConfig& config, const Init& init) : config_(config), attention_(config, init, "g_norm_swish_gate.weight") {
  const int64_t D = config.d_model, keys = config.heads * config.head_dim;
  const Draw weight = fill_normal(0.02);
  if (config.post) {
    steps_.emplace(Steps{.proj = make_linear(init, "a_proj", keys, D, weight),
                         .bias = init.make("dt_bias", {keys}, fill_dt_bias()),
                         .decay = HeadDecay(config, init, "A_log_delta")});
  } else {
    const Init gate = init.in("gk_proj");
    gate_ = LowRank{.down = make_linear(gate, "0", config.gate_rank, D, weight),
                    .up = make_linear(gate, "1", keys, config.gate_rank, weight, fill_constant(0))};
  }
}

void Gla::each(const Visit& visit) {
  attention_.each(visit);
  if (gate_) gate_->each(visit);
  if (steps_) {
    steps_->proj.each(visit);
    visit(steps_->bias);
    steps_->decay.each(visit);
  }
}

Var Gla::forward(Tape& tape, const Var& x, Pass& pass, MixerState* state) const {
  const Scope scope(tape, "mixer");
  const int64_t B = x.size(0), T = x.size(1), H = config_.heads, K = config_.head_dim;
  const Attention::Inputs in = attention_.inputs(tape, x, pass.packing, state, {steps_ ? &steps_->proj : &gate_->down});
  Var log_a;  // [B,T,H,K]
  if (steps_) {
    const Var dt = softplus(add(widened(in.others[0]), leaf(tape, steps_->bias)));
    log_a = steps_->decay(tape, reshape(dt, {B, T, H, K}), B, T, pass.packing, pass.fused);
  } else {  // log sigmoid(z) = -softplus(-z)
    log_a = reshape(scale(softplus(negate(widened(gate_->up(tape, in.others[0])))), -1 / gate_normalizer), {B, T, H, K});
  }
  const GlaResult scan = gla_scan({.q = in.q, .k = in.k, .v = in.v, .log_a = log_a, .initial = state ? state->recurrent : Var{}},
                                  1 / std::sqrt(double(K)), pass.packing);
  if (state) *state = {.recurrent = scan.final, .history = in.tails};
  return attention_.output(tape, scan.y, in.gate, pass.stream);
}

std::vector<HeadSpectrum> Gla::spectrum() const {
  if (steps_) return steps_->decay.report(steps_->bias.value);
  const std::vector<double> bias = to_doubles(gate_->up.bias->value);
  std::vector<HeadSpectrum> heads(size_t(config_.heads), HeadSpectrum{});
  for (size_t i = 0; i < bias.size(); ++i)
    heads[i / size_t(config_.head_dim)].rate += std::log1p(std::exp(-bias[i])) / gate_normalizer / double(config_.head_dim);
  for (HeadSpectrum& h : heads) h.time_constant = 1 / h.rate;
  return heads;
}

// S = a S + k v^T and y = S^T q: five operations for each of a head's K V elements.
double Gla::recurrence_flops() const { return 5 * double(config_.head_dim) * double(attention_.values()) + attention_.flops(); }

}  // namespace taper
