// Length behaviour: how well a model predicts at positions far beyond its training length, and how much of what came before
// it uses.
//
//   positions  loss of the tokens at position 1, 2-3, 4-7, ... of windows that begin without a state
//   contexts   loss of the same few tokens, read behind exactly c tokens of what came before them, for every c
//   recalls    a passage of held-out text that stands a second time d tokens behind its first: the loss of its tokens but the
//              first, which nothing announces, and of the same tokens in the same place where another passage stood before
//   spectrum   each layer's time constants, exponents and gaps, and how far training has moved them
//
// Documents: "carry" is the stream as it is, one document after another, so that every position exists; "reset" begins a
// window at each document's start, and a token's context is its document's alone.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "apps/evaluate.h"
#include "apps/score.h"

namespace taper {

struct ContextLoss {
  int64_t context = 0;
  double loss = 0, error = 0;        // mean over the targets, and its standard error
  double gain = 0, gain_error = 0;   // loss - loss with the longest context, of the same targets
};

struct Recall {
  int64_t distance = 0;               // tokens between the two
  double loss = 0, unseen = 0;        // mean over passages: the second reading's, and where the first was another passage
  double gain = 0, gain_error = 0;    // unseen - loss, paired
  double right = 0, unseen_right = 0;  // share of the tokens that the model finds likeliest
};

struct LengthBehaviour {
  std::vector<PositionBucket> positions;
  std::vector<ContextLoss> contexts;  // by rising context
  int64_t targets = 0;
  int64_t effective_context = 0;      // the shortest whose loss is at most 0.01 above the longest's
  std::vector<Recall> recalls;        // by rising distance: passage, 2 passage, ... while two passages and it fit a window
  int64_t passages = 0;
};

struct HeldOutText {
  std::vector<int32_t> tokens;
  std::vector<int64_t> documents;  // where they begin; empty: one text (carry)
};

struct LengthOptions {
  int64_t length = 8192;            // of a window
  std::vector<int64_t> contexts = {};  // each at most `length`; empty: 16, 32, 64, ... and the length itself
  int64_t targets = 128, batch = 4;  // of each context; of each distance as many passages
  int64_t passage = 32;              // tokens; 0 or 1: no recall
  std::function<void(int64_t done, int64_t all)> progress = {};  // tokens
};

// Errors (65): too few tokens for a window, or for a target behind the longest context (which names what there is).
LengthBehaviour length_behaviour(Predictor& model, const HeldOutText& text, const LengthOptions& options);

struct LayerSpectrum {
  std::vector<double> rate, time_constant, alpha;
  double least_gap = 0, mean_gap = 0;  // of neighbours, sorted: ln of the time constants' ratio; 0 where there is one alone
  double drift = 0, largest_drift = 0;  // |ln of time constant / the initial one|: mean, and largest
};
std::vector<LayerSpectrum> layer_spectra(const LanguageModel& now, const LanguageModel& initial);

}  // namespace taper
