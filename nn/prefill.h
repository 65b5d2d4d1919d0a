// Prefill: rows of different lengths through a model, padding left out.
#pragma once
#include <vector>

#include "nn/model.h"

namespace taper {

struct Span {  // the tokens of a row that are no padding
  int64_t begin = 0, end = 0;
};

// ids [B,T] i32, rows[b] in [0,T] -> logits [B,T,V], 0 at padding. The state goes on by each row's own tokens; what
// lies outside a span enters neither it nor the position, nor costs anything. As many passes as there are lengths.
Tensor prefill(const LanguageModel& model, const Tensor& ids, const std::vector<Span>& rows, ModelState& state);

}  // namespace taper
