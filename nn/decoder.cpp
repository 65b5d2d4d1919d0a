// Decoder: the model's pass over one token, its state written back in place.
#include "nn/decoder.h"

#include "tensor/error.h"

namespace taper {

Decoder::Decoder(const LanguageModel& model, const ModelState& state, bool graph)
    : model_(model), state_(state), work_(model.device, [this] { advance(); }, graph) {
  check(state.position && !state.layers.empty(), "decoder: wants the state after at least one token; got one at the beginning");
  const int64_t B = state.position.size(0);
  state_.position = clone(state.position);
  state_.each([](Var& v) { v = constant(clone(v.value)); });
  ids_ = Tensor(model.device, {B, 1}, Dtype::i32);
  logits_ = Tensor(model.device, {B, model.embedding.value.size(0)}, model.activations);
}

void Decoder::advance() {
  Tape tape = Tape::constants();
  ModelState next = state_;
  const Tensor logits = model_.logits(tape, ids_, {}, &next).value;
  copy_into(logits_, logits.reshape(logits_.shape()));
  copy_into(state_.position, next.position);
  std::vector<Tensor> values;
  next.each([&](Var& v) { values.push_back(v.value); });
  size_t i = 0;
  state_.each([&](Var& v) { copy_into(v.value, values.at(i++)); });
}

const Tensor& Decoder::step(std::span<const int32_t> ids) {
  copy_into(ids_, ids);
  work_();
  return logits_;
}

}  // namespace taper
