// Sampling: the next token from a row of logits.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace taper {

struct Sampling {
  double temperature = 1;  // 0: the likeliest token
  int64_t top_k = 0;       // only the k likeliest; 0: all
  double top_p = 1;        // only the likeliest that together reach p; 1: all
  int64_t seed = 0;
};

// The likeliest id below vocab in each row of logits [n,V]; ties: the lowest. Found where the logits are: n ids come to the host.
std::vector<int32_t> likeliest(const Tensor& logits, int64_t vocab);

// A draw at a temperature above 0: a pure function of the logits, the settings and the position (the index of the new token).
// Ties go to the lower id. Raises where no logit is finite.
int32_t sample(std::span<const double> logits, const Sampling& sampling, int64_t position);

// The token that follows, of the ids below vocab, from its logits [1,V]: at temperature 0 the likeliest, else by sample.
int32_t next_token(const Tensor& logits, int64_t vocab, const Sampling& sampling, int64_t position);

}  // namespace taper
