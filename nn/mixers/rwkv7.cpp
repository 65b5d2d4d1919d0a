// Rwkv7: initialisers by depth and channel, the forward pass, and the decays that its biases alone give.
#include "nn/mixers/rwkv7.h"

#include <cmath>

namespace taper {
namespace {

constexpr double kappa_eps = 1e-24;  // under the root: a norm of 1e-12 at least

// Where layer l of L lies: from 0 to 1, and from 1 towards 0.
double depth(const ModelConfig& c, int64_t layer) { return c.layers > 1 ? double(layer) / double(c.layers - 1) : 0; }
double height(const ModelConfig& c, int64_t layer) { return 1 - double(layer) / double(c.layers); }

// Channel n of D, from -1/2 to 1/2; and its place in the head, from -1 to 1, squared with its sign.
double line(uint64_t n, int64_t D) { return D > 1 ? double(n) / double(D - 1) - 0.5 : 0; }
double zigzag(uint64_t n, int64_t K) {
  const double middle = double(K - 1) / 2, z = middle > 0 ? (double(n % uint64_t(K)) - middle) / middle : 0;
  return z * std::abs(z);
}

using Value = std::function<double(uint64_t n)>;
Draw fill_channels(Value value) {
  return fill_each([value](const Random&, uint64_t n) { return value(n); });
}
Draw fill_mix(int64_t D, double power) {  // 1 - (n/D)^power
  return fill_channels([=](uint64_t n) { return 1 - std::pow(double(n) / double(D), power); });
}

LowRank make_adapter(const Init& init, const char* name, int64_t D, int64_t rank, Var (*inner)(const Var&), const Draw& bias) {
  const Init lora = init.in(name).in("lora");
  LowRank a{.down = make_linear(lora, "0", rank, D, fill_constant(0)), .up = {}, .inner = inner};
  a.up.weight = lora.make_orthogonal("2.weight", D, rank, 0.1);
  if (bias) a.up.bias = lora.make("2.bias", {D}, bias);
  return a;
}

Linear orthogonal(const Init& init, const std::string& name, int64_t out, int64_t in, double gain) {
  return {.weight = init.make_orthogonal(name + ".weight", out, in, gain), .bias = {}};
}

}  // namespace

Rwkv7::Rwkv7(const ModelConfig& config, const Init& init, int64_t layer) : config_(config), layer_(layer) {
  const int64_t D = config.d_model, H = config.heads, K = config.head_dim;
  const double low = height(config, layer), deep = depth(config, layer);
  for (const auto& [p, name, power] : {std::tuple{&x_r_, "x_r", 0.2}, {&x_w_, "x_w", 0.9}, {&x_k_, "x_k", 0.7}, {&x_v_, "x_v", 0.7},
                                       {&x_a_, "x_a", 0.9}, {&x_g_, "x_g", 0.2}})
    *p = init.make(name, {1, 1, D}, fill_mix(D, power * low));
  k_k_ = init.make("k_k", {D}, fill_channels([=](uint64_t n) { return 0.71 - 0.1 * line(n, D); }));
  k_a_ = init.make("k_a", {D}, fill_constant(1.02));
  r_k_ = init.make("r_k", {H, K}, fill_constant(-0.04));
  r_proj_ = orthogonal(init, "r_proj", D, D, 1);
  k_proj_ = orthogonal(init, "k_proj", D, D, 0.1);
  v_proj_ = orthogonal(init, "v_proj", D, D, 1);
  o_proj_ = make_linear(init, "o_proj", D, D, fill_constant(0));

  const bool spectrum = config.post && config.post_options.spectrum;
  w_lora_ = make_adapter(init, "w_lora", D, config.decay_rank, taper::tanh, fill_channels([=](uint64_t n) {
    const double www = -6 + 6 * std::pow(line(n, D) + 0.5, 1 + std::pow(deep, 0.3));
    return 2.5 * zigzag(n, K) + (spectrum ? 0 : www + 0.5);
  }));
  a_lora_ = make_adapter(init, "a_lora", D, config.rate_rank, nullptr,
                         fill_channels([=](uint64_t n) { return -0.19 + 0.3 * zigzag(n, K) + 0.4 * line(n, D); }));
  if (layer > 0)
    v_lora_ = make_adapter(init, "v_lora", D, config.value_rank, nullptr, fill_channels([=](uint64_t n) { return 0.73 - 0.4 * line(n, D); }));
  g_lora_ = make_adapter(init, "g_lora", D, config.gate_rank, taper::sigmoid, {});
  g_norm_ = {.weight = init.make("g_norm.weight", {D}, fill_constant(std::pow(double(layer + 1) / double(config.layers), 0.7))),
             .bias = init.make("g_norm.bias", {D}, fill_constant(0)), .eps = double(K) * config.norm_eps};
  if (spectrum) {
    spectrum_.emplace(config, init, SpectrumNames{"w0_base", "w0_delta"}, D);
    spectrum_->theta.lr_scale = spectrum_->delta.lr_scale = 2;
  } else if (config.post && config.post_options.taper) {
    even_ = even_exponents(init.device(), D, init.dtype());
  }
}

void Rwkv7::each(const Visit& visit) {
  for (Parameter* p : {&x_r_, &x_w_, &x_k_, &x_v_, &x_a_, &x_g_, &k_k_, &k_a_, &r_k_}) visit(*p);
  for (Linear* l : {&r_proj_, &k_proj_, &v_proj_, &o_proj_}) l->each(visit);
  for (LowRank* a : {&w_lora_, &a_lora_, &g_lora_}) a->each(visit);
  if (v_lora_) v_lora_->each(visit);
  g_norm_.each(visit);
  if (spectrum_) spectrum_->each(visit);
}

Var Rwkv7::spectrum_rates(Tape& tape) const { return spectrum_ ? spectrum_->rates(tape) : Var{}; }

Var Rwkv7::exponents(const Var& p) const {
  if (!config_.post || !config_.post_options.taper) return {};
  if (p) return rate_exponent(negate(softplus(negate(p))), double(config_.train_length));
  return constant(even_);
}

Var Rwkv7::forward(Tape& tape, const Var& x, Pass& pass, MixerState* state) const {
  const Scope scope(tape, "mixer");
  const int64_t B = x.size(0), T = x.size(1), D = config_.d_model, H = config_.heads, K = config_.head_dim;
  const auto heads = [&](const Var& y) { return reshape(y, {B, T, H, K}); };

  const MixResult mixed = mix_tokens(tape, x, state && !state->history.empty() ? state->history[0] : Var{},
                                     {&x_r_, &x_w_, &x_k_, &x_v_, &x_a_, &x_g_}, pass.packing, pass.fused);
  const Var &x_r = mixed.y[0], &x_w = mixed.y[1], &x_k = mixed.y[2], &x_v = mixed.y[3], &x_a = mixed.y[4], &x_g = mixed.y[5];
  const Var r = heads(r_proj_(tape, x_r));
  const Var u = w_lora_(tape, x_w);
  const Var k_first = k_proj_(tape, x_k);
  Var v = v_proj_(tape, x_v);
  const Var a = sigmoid(a_lora_(tape, x_a));
  const Var g = g_lora_(tape, x_g);

  const Var p = spectrum_rates(tape);
  const Var alpha = exponents(p);
  const Var log_w = sigmoid_decay(u, p, alpha, pass.packing, config_.post_options.position_reference);

  if (!v_lora_) {
    pass.v_first = v;
  } else {
    const Var share = sigmoid((*v_lora_)(tape, x_v));
    v = add(v, multiply(subtract(pass.v_first, v), share));
  }
  v = heads(v);
  const Var kappa = l2_norm(heads(multiply(k_first, leaf(tape, k_k_))), kappa_eps);
  const Var one = constant(full(x.value.device(), {}, x.value.dtype(), 1));
  const Var k = heads(multiply(k_first, add(multiply(subtract(a, one), leaf(tape, k_a_)), one)));
  const Var removed = negate(kappa);
  const Var replaced = multiply(kappa, heads(a));

  const DplrResult scan = dplr_scan({.r = r, .log_w = heads(log_w), .k = k, .v = v, .a = removed, .b = replaced,
                                     .initial = state ? state->recurrent : Var{}}, pass.packing);
  if (state) *state = {.recurrent = scan.final, .history = {mixed.tail}};
  const Var weight = leaf(tape, g_norm_.weight), bias = leaf(tape, *g_norm_.bias);
  const Var normed = heads(group_norm(reshape(scan.y, {B, T, D}), weight, bias, H, g_norm_.eps));
  const Var y = bonus(normed, r, k, v, leaf(tape, r_k_));
  return o_proj_(tape, multiply(reshape(y, {B, T, D}), g), pass.stream);
}

std::vector<HeadSpectrum> Rwkv7::spectrum() const {
  Tape tape = Tape::constants();
  const Var p = spectrum_rates(tape), alpha = exponents(p);
  std::vector<double> logit = to_doubles(w_lora_.up.bias->value);
  const std::vector<double> base = p ? to_doubles(p.value) : std::vector<double>(logit.size(), 0.0);
  const std::vector<double> exponent = alpha ? to_doubles(alpha.value) : std::vector<double>(logit.size(), 0.0);
  std::vector<HeadSpectrum> channels;
  for (size_t c = 0; c < logit.size(); ++c) {
    const double rate = std::exp(-0.5) / (1 + std::exp(-(logit[c] + base[c])));
    channels.push_back({.rate = rate, .time_constant = 1 / rate, .alpha = exponent[c]});
  }
  return channels;
}

// m = S^T a, S = w S + b m^T + k v^T, y = S^T r: nine operations for each of a head's K V elements.
double Rwkv7::recurrence_flops() const { return 9 * double(config_.d_model) * double(config_.head_dim); }

ChannelMix make_channel_mix(const ModelConfig& c, const Init& init, int64_t layer) {
  const double low = height(c, layer);
  return {.x_k = init.make("x_k", {c.d_model}, fill_mix(c.d_model, low * low * low * low)),
          .key = orthogonal(init, "key", c.ffn_width, c.d_model, 1),
          .value = make_linear(init, "value", c.d_model, c.ffn_width, fill_constant(0))};
}

}  // namespace taper
