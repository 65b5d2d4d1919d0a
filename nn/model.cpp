// LanguageModel: the wiring of specification 3 and 5.1.
#include "nn/model.h"

#include <utility>

#include "nn/mixers/gated_deltanet.h"
#include "nn/mixers/gla.h"
#include "nn/mixers/mamba2.h"
#include "nn/mixers/retnet.h"
#include "nn/mixers/rwkv7.h"
#include "tensor/error.h"
#include "tensor/ops/keep_rows.h"
#include "tensor/ops/last_position.h"

namespace taper {

std::unique_ptr<Mixer> make_mixer(const ModelConfig& c, const Init& init, int64_t layer) {
  if (c.arch == "mamba2") return std::make_unique<Mamba2>(c, init);
  if (c.arch == "rwkv7") return std::make_unique<Rwkv7>(c, init, layer);
  if (c.arch == "gdn") return std::make_unique<GatedDeltaNet>(c, init);
  if (c.arch == "retnet" && !(c.post && c.post_options.data_dependent)) return std::make_unique<RetNet>(c, init);
  return std::make_unique<Gla>(c, init);
}

void ModelState::each(const std::function<void(Var&)>& visit) {
  for (LayerState& layer : layers) {
    if (layer.mixer.recurrent) visit(layer.mixer.recurrent);
    for (Var& h : layer.mixer.history)
      if (h) visit(h);
    if (layer.channel_mix) visit(layer.channel_mix);
  }
}

void ModelState::detach() {
  each([](Var& v) { v = constant(v.value); });
}

void ModelState::restart(const Tensor& keep) {
  each([&](Var& v) { v = keep_rows(v, keep); });
  if (!position) return;
  const Tensor before = position;
  position = empty_like(before);
  kernels::keep_rows({.x = before, .keep = keep, .y = position});
}

LanguageModel::LanguageModel(const ModelConfig& given, uint64_t seed, Device& device, Dtype dtype)
    : LanguageModel(given, seed, device, dtype, dtype, dtype) {}
LanguageModel::LanguageModel(const ModelConfig& given, uint64_t seed, Device& device, Dtype dtype, Dtype activations)
    : LanguageModel(given, seed, device, dtype, activations, activations) {}

LanguageModel::LanguageModel(const ModelConfig& given, uint64_t seed, Device& device, Dtype dtype, Dtype activations, Dtype residual)
    : config(completed(given)), device(device), dtype(dtype), activations(activations), residual(residual) {
  check(activations == dtype || (activations == Dtype::bf16 && dtype == Dtype::f32),
        "model: activations must be {}, or bf16 beside f32 parameters; got {}", name(dtype), name(activations));
  check(residual == activations || residual == dtype, "model: the residual must be {} or {}; got {}", name(activations), name(dtype),
        name(residual));
  const Init init(seed, device, dtype);
  const int64_t D = config.d_model, rows = vocabulary_rows(config);
  const bool lm = config.wiring == "lm", mqar = config.wiring == "mqar", rwkv = config.arch == "rwkv7", mamba = config.arch == "mamba2";
  const bool layer_norm = rwkv || (mqar && !mamba);
  const Draw draw = rwkv && !mqar ? fill_uniform(-1e-4, 1e-4) : fill_normal(0.02);
  embedding = init.make("embedding.weight", {rows, D}, draw);
  if (rwkv && !mqar) pre_norm = make_norm(init, "pre_norm", D, config.norm_eps, true);
  for (int64_t i = 0; i < config.layers; ++i) {
    const Init layer = init.in("layers").in(std::to_string(i)), ffn = layer.in("ffn");
    Block& block = blocks.emplace_back();
    block.norm = make_norm(layer, "norm", D, config.norm_eps, layer_norm);
    block.mixer = make_mixer(config, layer.in("mixer"), i);
    const bool attention = config.arch == "gla" || config.arch == "retnet";
    if (lm && rwkv) block.channel_mix = make_channel_mix(config, ffn, i);
    if (lm && attention) {
      const Draw weight = fill_normal(0.02);
      block.swiglu = SwiGlu{.gate = make_linear(ffn, "gate_proj", config.ffn_width, D, weight),
                            .up = make_linear(ffn, "up_proj", config.ffn_width, D, weight),
                            .down = make_linear(ffn, "down_proj", D, config.ffn_width, weight)};
    }
    if (block.channel_mix || block.swiglu || (mqar && !rwkv && !mamba))
      block.ffn_norm = make_norm(layer, "ffn_norm", D, config.norm_eps, layer_norm);
  }
  norm_f = make_norm(init, "norm_f", D, config.norm_eps, rwkv || mqar);
  if (!config.tied_head) head = init.make("lm_head.weight", {rows, D}, draw);
}

Var LanguageModel::trunk(Tape& tape, const Tensor& ids, const Packing& given, ModelState* state, const Tensor& dropout) const {
  check(ids.rank() == 2 && ids.dtype() == Dtype::i32 && ids.numel() > 0, "model: ids must be i32 [B,T], not empty; got {} {}", name(ids.dtype()),
        ids.shape().text());
  const int64_t B = ids.size(0), T = ids.size(1);
  Packing packing = given;
  if (state) {
    state->layers.resize(blocks.size());
    if (!state->position) state->position = zeros(device, {B}, Dtype::i64);
    packing.t0 = state->position;
  }

  Var x = taper::embedding(leaf(tape, embedding), ids);  // [B,T,D]
  const auto as = [](const Var& v, Dtype t) { return v.value.dtype() == t ? v : cast(v, t); };
  x = as(x, residual);
  if (dropout && config.dropout > 0) x = taper::dropout(x, config.dropout, dropout);
  if (pre_norm) x = (*pre_norm)(tape, x);
  Pass pass{.packing = packing, .fused = fused};
  // Fused, a layer adds to x inside its last product; where x is wider than what layers make, the next norm adds, which
  // moves no more and leaves the layer's gradient narrow.
  const bool inside = fused && residual == activations;
  Var made;  // by the last layer, not yet added to x
  const auto take = [&](const Var& y, bool added) {
    if (added) x = y;
    else if (fused) made = y;
    else x = add(x, as(y, residual));
  };
  const auto normed = [&](const Norm& norm) {
    if (!fused) return as(norm(tape, x), activations);
    const NormResult r = norm(tape, x, std::exchange(made, {}));
    x = r.sum;
    return as(r.y, activations);
  };
  for (size_t i = 0; i < blocks.size(); ++i) {
    const Scope layers(tape, "layers"), layer(tape, std::to_string(i));
    const Block& block = blocks[i];
    LayerState* s = state ? &state->layers[i] : nullptr;
    const Var y = normed(block.norm);
    if (inside) pass.stream = x;
    take(block.mixer->forward(tape, y, pass, s ? &s->mixer : nullptr), inside);
    if (!block.ffn_norm) continue;
    const Var z = normed(*block.ffn_norm);
    if (inside) pass.stream = x;
    if (block.swiglu) take((*block.swiglu)(tape, z, pass.stream, fused), inside);
    else if (block.channel_mix) take((*block.channel_mix)(tape, z, pass.stream, packing, fused, s ? &s->channel_mix : nullptr), inside);
    else take(z, false);
  }
  x = normed(norm_f);
  if (state) {
    state->position = Tensor(device, {B}, Dtype::i64);
    kernels::last_position({.packing = packing, .T = T, .y = state->position});
  }
  return x;
}

Var LanguageModel::logits(Tape& tape, const Tensor& ids, const Packing& packing, ModelState* state, const Tensor& dropout) const {
  return head_logits(tape, trunk(tape, ids, packing, state, dropout));
}

Var LanguageModel::nll(Tape& tape, const Tensor& ids, const Tensor& labels, const Packing& packing, ModelState* state,
                       const Tensor& dropout) const {
  return cross_entropy(logits(tape, ids, packing, state, dropout), labels);
}

LossResult LanguageModel::loss(Tape& tape, const Tensor& ids, const Tensor& labels, const Packing& packing, const LossOptions& o) const {
  const Var x = rows_at(trunk(tape, ids, packing, o.state, o.dropout), o.at);
  if (fused) return linear_cross_entropy(x, head_weight(tape), labels, o.factor);
  const Var each = cross_entropy(head_logits(tape, x), labels), total = sum(each);
  return {o.factor ? multiply(total, cast(constant(o.factor), total.value.dtype())) : total, each.value};
}

void LanguageModel::each(const Visit& visit) {
  visit(embedding);
  if (pre_norm) pre_norm->each(visit);
  for (Block& block : blocks) {
    block.norm.each(visit);
    block.mixer->each(visit);
    if (block.ffn_norm) block.ffn_norm->each(visit);
    if (block.swiglu) block.swiglu->each(visit);
    if (block.channel_mix) block.channel_mix->each(visit);
  }
  norm_f.each(visit);
  if (head) visit(*head);
}

std::vector<Parameter*> LanguageModel::parameters() {
  std::vector<Parameter*> all;
  each([&](Parameter& p) { all.push_back(&p); });
  return all;
}

int64_t LanguageModel::parameter_count() {
  int64_t n = 0;
  each([&](Parameter& p) { n += p.value.numel(); });
  return n;
}

}  // namespace taper
