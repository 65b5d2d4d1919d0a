// Attention: parameters and their order, projections in and out.
#include "nn/mixers/attention.h"

namespace taper {

Attention::Attention(const ModelConfig& config, const Init& init, const char* norm_name) : config_(config) {
  const int64_t D = config.d_model, keys = config.heads * config.head_dim;
  const Draw weight = fill_normal(0.02), taps = config.wiring == "mqar" ? fill_uniform(-0.5, 0.5) : weight;
  for (int i = 0; i < 3; ++i) {
    const std::string name(1, "qkv"[i]);
    const int64_t width = i == 2 ? values() : keys;
    streams_[i].proj = make_linear(init, name + "_proj", width, D, weight);
    if (config.conv_width)
      streams_[i].conv = ShortConv{.weight = init.make(name + "_conv1d.weight", {width, 1, config.conv_width}, taps), .bias = {}};
  }
  if (config.output_gate) gate_ = make_linear(init, "g_proj", values(), D, weight);
  norm_ = init.make(norm_name, {config.head_dim * config.expand_v}, fill_constant(1));
  out_ = make_linear(init, "o_proj", D, values(), weight);
}

Attention::Inputs Attention::inputs(Tape& tape, const Var& x, const Packing& packing, const MixerState* state,
                                    const std::vector<const Linear*>& others) const {
  const int64_t B = x.size(0), T = x.size(1), H = config_.heads;
  std::vector<const Linear*> layers = {&streams_[0].proj, &streams_[1].proj, &streams_[2].proj};
  if (gate_) layers.push_back(&*gate_);
  layers.insert(layers.end(), others.begin(), others.end());
  const std::vector<Var> made = project(tape, x, layers);
  Inputs in;
  if (gate_) in.gate = reshape(made[3], {B, T, H, -1});
  in.others.assign(made.end() - int64_t(others.size()), made.end());
  Var* const streams[] = {&in.q, &in.k, &in.v};
  for (int i = 0; i < 3; ++i) {
    Var y = made[size_t(i)];
    if (streams_[i].conv) {
      const ConvResult conv = (*streams_[i].conv)(tape, y, state && !state->history.empty() ? state->history[size_t(i)] : Var{}, packing);
      y = conv.y;
      in.tails.push_back(conv.tail);
    }
    *streams[i] = reshape(y, {B, T, H, -1});
  }
  return in;
}

Var Attention::output(Tape& tape, const Var& y, const Var& gate, const Var& stream) const {
  const int64_t B = y.size(0), T = y.size(1);
  const Var weight = leaf(tape, norm_);
  const Var normed = gate ? gated_rms_norm(y, gate, weight, config_.norm_eps, GateOrder::norm_then_gate) : rms_norm(y, weight, config_.norm_eps);
  return out_(tape, reshape(normed, {B, T, values()}), stream);
}

void Attention::each(const Visit& visit) {
  for (Stream& s : streams_) {
    s.proj.each(visit);
    if (s.conv) s.conv->each(visit);
  }
  if (gate_) gate_->each(visit);
  visit(norm_);
  out_.each(visit);
}

double Attention::flops() const {
  return 2 * double(config_.conv_width) * double(2 * config_.heads * config_.head_dim + values());
}

}  // namespace taper
