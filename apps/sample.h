// Sampling: the next token from a row of logits.
#pragma once
#include <cstdint>
#include <span>

namespace taper {

struct Sampling {
  double temperature = 1;  // 0: the likeliest token
  int64_t top_k = 0;       // only the k likeliest; 0: all
  double top_p = 1;        // only the likeliest that together reach p; 1: all
  int64_t seed = 0;
};

// A pure function of the logits, the settings and the position (the index of the new token).
// Ties go to the lower id. Raises where no logit is finite.
int32_t sample(std::span<const double> logits, const Sampling& sampling, int64_t position);

}  // namespace taper
