// Layers: what they compute, and the order of their parameters.
#include "nn/layers.h"

#include <cmath>

namespace taper {

Linear make_linear(const Init& init, const std::string& name, int64_t out, int64_t in, const Draw& weight, const Draw& bias) {
  Linear l{.weight = init.make(name + ".weight", {out, in}, weight), .bias = {}};
  if (bias) l.bias = init.make(name + ".bias", {out}, bias);
  return l;
}
Var widened(const Var& x) { return x.value.dtype() == Dtype::bf16 ? cast(x, Dtype::f32) : x; }

Var Linear::operator()(Tape& tape, const Var& x, const Var& added) const {
  const Var w = leaf_as(tape, weight, x.value.dtype());
  if (added && !bias) return matmul_add(x, w, added, {.b = true});
  const Var y = matmul(x, w, {.b = true}), made = bias ? add(y, leaf(tape, *bias)) : y;
  return added ? add(added, made) : made;
}
std::vector<Var> project(Tape& tape, const Var& x, const std::vector<const Linear*>& layers) {
  std::vector<Var> weights;
  for (const Linear* l : layers) weights.push_back(leaf_as(tape, l->weight, x.value.dtype()));
  std::vector<Var> y = taper::project(x, weights);
  for (size_t i = 0; i < layers.size(); ++i)
    if (layers[i]->bias) y[i] = add(y[i], leaf(tape, *layers[i]->bias));
  return y;
}
void Linear::each(const Visit& visit) {
  visit(weight);
  if (bias) visit(*bias);
}

Norm make_norm(const Init& init, const std::string& name, int64_t D, double eps, bool layer_norm) {
  Norm n{.weight = init.make(name + ".weight", {D}, fill_constant(1)), .bias = {}, .eps = eps};
  if (layer_norm) n.bias = init.make(name + ".bias", {D}, fill_constant(0));
  return n;
}
Var Norm::operator()(Tape& tape, const Var& x) const { return (*this)(tape, x, {}).y; }
NormResult Norm::operator()(Tape& tape, const Var& x, const Var& added) const {
  const Var w = leaf(tape, weight);
  return bias ? add_group_norm(x, added, w, leaf(tape, *bias), 1, eps) : add_rms_norm(x, added, w, eps);
}
void Norm::each(const Visit& visit) {
  visit(weight);
  if (bias) visit(*bias);
}

Var LowRank::operator()(Tape& tape, const Var& x) const {
  const Var low = down(tape, x);
  return up(tape, inner ? inner(low) : low);
}
void LowRank::each(const Visit& visit) {
  down.each(visit);
  up.each(visit);
}

ConvResult ShortConv::operator()(Tape& tape, const Var& x, const Var& history, const Packing& packing) const {
  const Var w = leaf(tape, weight), b = bias ? leaf(tape, *bias) : Var{};
  return causal_conv1d(x, w, b, history, packing, true);
}
void ShortConv::each(const Visit& visit) {
  visit(weight);
  if (bias) visit(*bias);
}

Var SwiGlu::operator()(Tape& tape, const Var& x, const Var& added, bool fused) const {
  const Scope scope(tape, "ffn");
  if (fused) return down(tape, matmul_silu_gate(x, leaf_as(tape, gate.weight, x.value.dtype()), leaf_as(tape, up.weight, x.value.dtype())), added);
  const std::vector<Var> y = project(tape, x, {&gate, &up});
  return down(tape, multiply(silu(y[0]), y[1]), added);
}
void SwiGlu::each(const Visit& visit) {
  for (Linear* l : {&gate, &up, &down}) l->each(visit);
}

MixResult mix_tokens(Tape& tape, const Var& x, const Var& last, const std::vector<const Parameter*>& weights, const Packing& packing,
                     bool fused) {
  std::vector<Var> by;
  for (const Parameter* p : weights) by.push_back(reshape(leaf(tape, *p), {x.size(-1)}));
  if (fused) return token_mix(x, last, by, packing);
  const ShiftResult shift = token_shift(x, last, packing);
  MixResult r{.y = {}, .tail = shift.tail};
  for (const Var& w : by) r.y.push_back(add(x, multiply(shift.y, w)));
  return r;
}

Var ChannelMix::operator()(Tape& tape, const Var& x, const Var& added, const Packing& packing, bool fused, Var* last) const {
  const Scope scope(tape, "ffn");
  const MixResult mixed = mix_tokens(tape, x, last ? *last : Var{}, {&x_k}, packing, fused);
  if (last) *last = mixed.tail;
  const Var& y = mixed.y[0];
  const Var square = fused ? matmul_relu_squared(y, leaf_as(tape, key.weight, y.value.dtype()), {.b = true}) : relu_squared(key(tape, y));
  return value(tape, square, added);
}
void ChannelMix::each(const Visit& visit) {
  visit(x_k);
  key.each(visit);
  value.each(visit);
}

}  // namespace taper
