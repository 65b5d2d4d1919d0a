// Mamba2: initialisers and the forward pass.
#include "nn/mixers/mamba2.h"

#include <cmath>

namespace taper {

Mamba2::Mamba2(const ModelConfig& config, const Init& init) : config_(config), decay_(config, init, "A_log_deltas") {
  const int64_t D = config.d_model, H = config.heads, inner = H * config.head_dim, channels = inner + 2 * config.d_state;
  const bool mqar = config.wiring == "mqar", frozen = config.post && config.post_options.spectrum;
  const double input = 1 / std::sqrt(double(D)), output = 1 / std::sqrt(double(inner)) / std::sqrt(double(config.layers));
  const Draw no_bias, zero = fill_constant(0);
  in_proj_ = make_linear(init, "in_proj", inner + channels + H, D, mqar ? fill_uniform(-input, input) : fill_normal(0.02), mqar ? zero : no_bias);
  conv_.weight = init.make("conv1d.weight", {channels, 1, config.conv_width}, mqar ? fill_uniform(-0.5, 0.5) : fill_normal(0.02));
  if (!mqar) conv_.bias = init.make("conv1d.bias", {channels}, zero);
  dt_bias_ = init.make("dt_bias", {H}, frozen ? fill_constant(inverse_softplus(0.05)) : fill_dt_bias());
  dt_bias_.trainable = !frozen;
  d_ = init.make("D", {H}, fill_constant(1));
  norm_ = init.make("norm.weight", {inner}, fill_constant(1));
  out_proj_ = make_linear(init, "out_proj", D, inner, fill_uniform(-output, output), mqar ? zero : no_bias);
}

void Mamba2::each(const Visit& visit) {
  in_proj_.each(visit);
  conv_.each(visit);
  visit(dt_bias_);
  decay_.each(visit);
  visit(d_);
  visit(norm_);
  out_proj_.each(visit);
}

Var Mamba2::forward(Tape& tape, const Var& input, Pass& pass, MixerState* state) const {
  const Scope scope(tape, "mixer");
  const int64_t B = input.size(0), T = input.size(1), H = config_.heads, P = config_.head_dim, N = config_.d_state;
  const int64_t inner = H * P;

  // One product and one convolution for each large part, by the rows of the weights: cutting their results would copy them.
  const std::vector<int64_t> rows = {inner, inner, 2 * N + H};
  std::vector<Var> parts = project(input, split_rows(leaf_as(tape, in_proj_.weight, input.value.dtype()), rows));
  if (in_proj_.bias) {
    const std::vector<Var> bias = split_rows(leaf(tape, *in_proj_.bias), rows);
    for (size_t i = 0; i < parts.size(); ++i) parts[i] = add(parts[i], bias[i]);
  }
  const Var& gate = parts[0];
  const std::vector<Var> small = split(parts[2], {2 * N, H});  // b and c; dt
  const std::vector<int64_t> channels = {inner, 2 * N};
  const std::vector<Var> taps = split_rows(leaf(tape, conv_.weight), channels);
  const std::vector<Var> bias = conv_.bias ? split_rows(leaf(tape, *conv_.bias), channels) : std::vector<Var>(2);
  const std::vector<Var> before = state && !state->history.empty() ? state->history : std::vector<Var>(2);
  const ConvResult x = causal_conv1d(parts[1], taps[0], bias[0], before[0], pass.packing, true);
  const ConvResult bc = causal_conv1d(small[0], taps[1], bias[1], before[1], pass.packing, true);
  const auto b_and_c = split(bc.y, {N, N});
  const Var dt = softplus(add(widened(small[1]), leaf(tape, dt_bias_)));  // [B,T,H]
  const Var log_a = decay_(tape, dt, B, T, pass.packing, pass.fused);                 // [B,T,H]

  const SsdResult scan = ssd_scan({.x = reshape(x.y, {B, T, H, P}),
                                   .log_a = log_a,
                                   .b = reshape(b_and_c[0], {B, T, 1, N}),
                                   .c = reshape(b_and_c[1], {B, T, 1, N}),
                                   .dt = dt,
                                   .d = leaf(tape, d_),
                                   .initial = state ? state->recurrent : Var{}},
                                  pass.packing);
  if (state) *state = {.recurrent = scan.final, .history = {x.tail, bc.tail}};
  const Var y = gated_rms_norm(reshape(scan.y, {B, T, inner}), gate, leaf(tape, norm_), config_.norm_eps, GateOrder::gate_then_norm);
  return out_proj_(tape, y, pass.stream);
}

// S = a S + (dt b) x^T and y = S^T c are five operations for each of a head's N P elements.
double Mamba2::recurrence_flops() const {
  const double inner = double(config_.heads * config_.head_dim), N = double(config_.d_state);
  return 5 * inner * N + 2 * double(config_.conv_width) * (inner + 2 * N);
}

}  // namespace taper
