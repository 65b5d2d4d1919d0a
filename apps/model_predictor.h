// ModelPredictor: a language model that answers scoring's questions, and writes on greedily.
//
// Rows of a batch are padded behind their last token only. A state at t is a function of the tokens up to t, so padding
// there enters none that a score is read from. Long rows go through in pieces, the state handed on; memory is that of a
// piece, and the head runs at the positions that are asked for alone. Of neighbouring questions that begin alike, as one document's
// choices do, the beginning is read once, and each goes on from its state.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "apps/score.h"
#include "nn/model.h"

namespace taper {

class ModelPredictor final : public Predictor {
 public:
  explicit ModelPredictor(const LanguageModel& model) : model_(model) {}  // which must outlive this
  std::vector<std::vector<TokenScore>> ask(std::span<const Question> questions, Softmax softmax) override;
  int64_t tokens_read() const { return tokens_read_; }  // by the model so far, with padding

 private:
  const LanguageModel& model_;
  int64_t tokens_read_ = 0;
};

struct Continue {
  int64_t tokens = 128;  // at most
  int32_t stop = -1;     // ends a row, and is no part of it
  int64_t vocab = 0;     // ids below it can be chosen: the tokenizer's
};

// The likeliest continuation of each prompt (not empty), token by token; ties: the lowest id. Each prompt goes through the
// model alone, without padding; their states then advance together.
std::vector<std::vector<int32_t>> write_on(const LanguageModel& model, std::span<const std::vector<int32_t>> prompts, const Continue& how);

}  // namespace taper
