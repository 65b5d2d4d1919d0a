// Mamba2: initialisers, the forward pass, and the learned time constants.
#include "nn/mixers/mamba2.h"

#include <cmath>

#include "nn/mixers/decay.h"

namespace taper {

static constexpr double post_dt = 0.05;  // +PoST freezes dt's bias here, so that the spectrum alone sets the rates

Mamba2::Mamba2(const ModelConfig& config, const Init& init) : config_(config) {
  const int64_t D = config.d_model, H = config.heads, inner = H * config.head_dim, N = config.d_state;
  const int64_t channels = inner + 2 * N;
  const bool post_spectrum = config.post && config.post_options.spectrum;
  in_proj_ = init.make("in_proj.weight", {inner + channels + H, D}, fill_normal(0.02));
  conv_weight_ = init.make("conv1d.weight", {channels, 1, config.conv_width}, fill_normal(0.02));
  conv_bias_ = init.make("conv1d.bias", {channels}, fill_constant(0));
  dt_bias_ = init.make("dt_bias", {H}, post_spectrum ? fill_constant(inverse_softplus(post_dt)) : fill_dt_bias());
  dt_bias_.trainable = !post_spectrum;
  if (post_spectrum) {
    const double slowest = -std::log(post_dt * double(config.train_length)), fastest = -std::log(post_dt);
    spectrum_.emplace(init, SpectrumNames{"A_log_base", "A_log_deltas"}, H, slowest, fastest);
  } else {
    a_log_ = init.make("A_log", {H}, fill_a_log());
  }
  d_ = init.make("D", {H}, fill_constant(1));
  norm_ = init.make("norm.weight", {inner}, fill_constant(1));
  const double bound = 1 / std::sqrt(double(inner)) / std::sqrt(double(config.layers));
  out_proj_ = init.make("out_proj.weight", {D, inner}, fill_uniform(-bound, bound));
}

void Mamba2::each(const std::function<void(Parameter&)>& visit) {
  visit(in_proj_);
  visit(conv_weight_);
  visit(conv_bias_);
  visit(dt_bias_);
  if (a_log_) visit(*a_log_);
  if (spectrum_) visit(spectrum_->theta), visit(spectrum_->delta);
  visit(d_);
  visit(norm_);
  visit(out_proj_);
}

Var Mamba2::exponents(Tape& tape) const {
  if (!config_.post || !config_.post_options.taper) return {};
  if (spectrum_) return spectrum_->exponents(tape, config_.train_length);
  return constant(even_exponents(d_.value.device(), config_.heads, d_.value.dtype()));
}

Var Mamba2::forward(Tape& tape, const Var& input, const Packing& packing, MixerState* state) const {
  const Scope scope(tape, "mixer");
  const int64_t B = input.size(0), T = input.size(1), H = config_.heads, P = config_.head_dim, N = config_.d_state;
  const int64_t inner = H * P;

  const auto parts = split(matmul(input, leaf(tape, in_proj_), {.b = true}), {inner, inner + 2 * N, H});
  const Var& gate = parts[0];
  const ConvResult conv = causal_conv1d(parts[1], leaf(tape, conv_weight_), leaf(tape, conv_bias_),
                                        state && !state->history.empty() ? state->history[0] : Var{}, packing, true);
  const auto xbc = split(conv.y, {inner, N, N});
  const Var dt = softplus(add(parts[2], leaf(tape, dt_bias_)));  // [B,T,H]

  const Var p = spectrum_ ? spectrum_->rates(tape) : leaf(tape, *a_log_);  // [H]
  const Var alpha = exponents(tape);                                      // [H] or absent
  const Var s = alpha ? position_taper(alpha, B, T, packing, config_.post_options.position_reference) : Var{};
  const Var log_a = log_decay(p, dt, s);  // [B,T,H]

  const SsdResult scan = ssd_scan({.x = reshape(xbc[0], {B, T, H, P}),
                                   .log_a = log_a,
                                   .b = reshape(xbc[1], {B, T, 1, N}),
                                   .c = reshape(xbc[2], {B, T, 1, N}),
                                   .dt = dt,
                                   .d = leaf(tape, d_),
                                   .initial = state ? state->recurrent : Var{}},
                                  packing);
  if (state) *state = {.recurrent = scan.final, .history = {conv.tail}};
  const Var y = gated_rms_norm(reshape(scan.y, {B, T, inner}), gate, leaf(tape, norm_), config_.norm_eps, GateOrder::gate_then_norm);
  return matmul(y, leaf(tape, out_proj_), {.b = true});
}

std::vector<HeadSpectrum> Mamba2::spectrum() const {
  Tape tape = Tape::constants();
  return head_spectrum(spectrum_ ? spectrum_->rates(tape) : constant(a_log_->value), dt_bias_.value, exponents(tape));
}

// S = a S + (dt b) x^T and y = S^T c are five operations for each of a head's N P elements.
double Mamba2::recurrence_flops() const {
  const double inner = double(config_.heads * config_.head_dim), N = double(config_.d_state);
  return 5 * inner * N + 2 * double(config_.conv_width) * (inner + 2 * N);
}

}  // namespace taper
