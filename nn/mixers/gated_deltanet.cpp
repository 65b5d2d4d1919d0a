// GatedDeltaNet: initialisers, the forward pass, and the learned time constants.
#include "nn/mixers/gated_deltanet.h"

#include <cmath>

#include "nn/mixers/decay.h"

namespace taper {
namespace {

constexpr double l2_eps = 1e-6;  // of the keys' and queries' norm; the reference's kernel fixes it
constexpr const char* stream_names[] = {"q", "k", "v"};

}  // namespace

GatedDeltaNet::GatedDeltaNet(const ModelConfig& config, const Init& init) : config_(config) {
  const int64_t D = config.d_model, H = config.heads, keys = H * config.head_dim, values = keys * config.expand_v;
  const Draw weight = fill_normal(0.02);
  for (int i = 0; i < 3; ++i) {
    const std::string name = stream_names[i];
    const int64_t width = i == 2 ? values : keys;
    streams_[i] = {init.make(name + "_proj.weight", {width, D}, weight), init.make(name + "_conv1d.weight", {width, 1, config.conv_width}, weight)};
  }
  a_proj_ = init.make("a_proj.weight", {H, D}, weight);
  b_proj_ = init.make("b_proj.weight", {H, D}, weight);
  g_proj_ = init.make("g_proj.weight", {values, D}, weight);
  o_proj_ = init.make("o_proj.weight", {D, values}, weight);
  o_norm_ = init.make("o_norm.weight", {config.head_dim * config.expand_v}, fill_constant(1));
  dt_bias_ = init.make("dt_bias", {H}, fill_dt_bias());
  if (config.post && config.post_options.spectrum)
    spectrum_.emplace(init, SpectrumNames{"A_log_base", "A_log_delta"}, H, 0, std::log(double(config.train_length)));
  else
    a_log_ = init.make("A_log", {H}, fill_a_log());
}

void GatedDeltaNet::each(const std::function<void(Parameter&)>& visit) {
  for (Stream& s : streams_) visit(s.proj), visit(s.conv);
  for (Parameter* p : {&a_proj_, &b_proj_, &g_proj_, &o_proj_, &o_norm_, &dt_bias_}) visit(*p);
  if (a_log_) visit(*a_log_);
  if (spectrum_) visit(spectrum_->theta), visit(spectrum_->delta);
}

Var GatedDeltaNet::exponents(Tape& tape) const {
  if (!config_.post || !config_.post_options.taper) return {};
  if (spectrum_) return spectrum_->exponents(tape, config_.train_length);
  return constant(even_exponents(dt_bias_.value.device(), config_.heads, dt_bias_.value.dtype()));
}

Var GatedDeltaNet::forward(Tape& tape, const Var& x, const Packing& packing, MixerState* state) const {
  const Scope scope(tape, "mixer");
  const int64_t B = x.size(0), T = x.size(1), H = config_.heads, K = config_.head_dim, V = K * config_.expand_v;

  Var streams[3];
  std::vector<Var> tails;
  for (int i = 0; i < 3; ++i) {
    const Var before = state && !state->history.empty() ? state->history[size_t(i)] : Var{};
    const Var projected = matmul(x, leaf(tape, streams_[i].proj), {.b = true});
    const ConvResult conv = causal_conv1d(projected, leaf(tape, streams_[i].conv), {}, before, packing, true);
    streams[i] = reshape(conv.y, {B, T, H, i == 2 ? V : K});
    tails.push_back(conv.tail);
  }
  const Var q = l2_norm(streams[0], l2_eps), k = l2_norm(streams[1], l2_eps), v = streams[2];

  const Var beta = sigmoid(matmul(x, leaf(tape, b_proj_), {.b = true}));                                  // [B,T,H]
  const Var dt = softplus(add(matmul(x, leaf(tape, a_proj_), {.b = true}), leaf(tape, dt_bias_)));        // [B,T,H]
  const Var p = spectrum_ ? spectrum_->rates(tape) : leaf(tape, *a_log_);                                 // [H]
  const Var alpha = exponents(tape);                                                                      // [H] or absent
  const Var s = alpha ? position_taper(alpha, B, T, packing, config_.post_options.position_reference) : Var{};
  const Var log_a = log_decay(p, dt, s);                                                                  // [B,T,H]

  const DeltaResult scan = delta_scan({.q = q, .k = k, .v = v, .log_a = log_a, .beta = beta,
                                       .initial = state ? state->recurrent : Var{}, .scale = 1 / std::sqrt(double(K))}, packing);
  if (state) *state = {.recurrent = scan.final, .history = tails};
  const Var gate = reshape(matmul(x, leaf(tape, g_proj_), {.b = true}), {B, T, H, V});
  const Var y = gated_rms_norm(scan.y, gate, leaf(tape, o_norm_), config_.norm_eps, GateOrder::norm_then_gate);
  return matmul(reshape(y, {B, T, H * V}), leaf(tape, o_proj_), {.b = true});
}

std::vector<HeadSpectrum> GatedDeltaNet::spectrum() const {
  Tape tape = Tape::constants();
  return head_spectrum(spectrum_ ? spectrum_->rates(tape) : constant(a_log_->value), dt_bias_.value, exponents(tape));
}

// S' = a S, e = v - S'^T k, S = S' + k (beta e)^T, y = S^T q: seven operations for each of a head's K V elements.
double GatedDeltaNet::recurrence_flops() const {
  const double keys = double(config_.heads * config_.head_dim), values = keys * double(config_.expand_v);
  return 7 * keys * values / double(config_.heads) + 2 * double(config_.conv_width) * (2 * keys + values);
}

}  // namespace taper
