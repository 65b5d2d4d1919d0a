// Evaluation: how well a model predicts held-out data, in one pass and without a tape.
#pragma once
#include <cstdint>
#include <vector>

#include "apps/config.h"
#include "data/loader.h"
#include "data/tokenizer.h"
#include "nn/model.h"

namespace taper {

struct PositionBucket {  // window positions [begin, end), 1-based; ends are powers of two
  int64_t begin = 1, end = 2, tokens = 0;
  double nll = 0;
};

struct Evaluation {
  double nll = 0;      // summed over tokens, f64
  int64_t tokens = 0;  // labelled
  int64_t bytes = 0;   // of text that the labels stand for; 0 where there is no text
  std::vector<PositionBucket> buckets;
  double accuracy = 0;   // MQAR: mean over examples of each one's share of right labels
  int64_t examples = 0;  // those that have a label

  double loss() const { return nll / double(tokens); }
  double bits_per_byte() const;  // nll / ln 2 / bytes
};

struct EvaluateOptions {
  std::vector<int64_t> bytes_of;  // of each token id; empty: no text
  bool accuracy = false;          // argmax over the vocabulary at each labelled position; ties: the lower id
};

// What a model says of a batch, where it was made. With at, as in Batch, of those positions alone.
struct Judged {
  Shape tokens;                  // [B,T]
  Tensor at, labels, nll, best;  // best: the likeliest id, i32, where accuracy is asked for
};
Judged judge(const LanguageModel& model, const Batch& batch, bool accuracy);

Evaluation evaluate(const LanguageModel& model, BatchSource& source, const EvaluateOptions& options);

// The bytes of text that each token stands for: none for a special one.
std::vector<int64_t> bytes_of_tokens(const Tokenizer& tokenizer);

}  // namespace taper
