// Decoder: one token after the other, for B rows, with a state that stays where it is.
#pragma once
#include <span>
#include <vector>

#include "nn/model.h"
#include "tensor/graph.h"

namespace taper {

class Decoder {
 public:
  // Goes on from `state`, which a pass over what came before has filled; the model must outlive the decoder. graph: the step is
  // recorded at the second token and launched from then on (tensor/graph.h); the same bits either way.
  Decoder(const LanguageModel& model, const ModelState& state, bool graph);
  Decoder(const Decoder&) = delete;

  // ids: the next token of each row -> logits [B,V] of the one that follows; the next step writes the same tensor.
  const Tensor& step(std::span<const int32_t> ids);

 private:
  void advance();
  const LanguageModel& model_;
  ModelState state_;
  Tensor ids_, logits_;  // [B,1] i32, [B,V]
  Repeated work_;
};

}  // namespace taper
