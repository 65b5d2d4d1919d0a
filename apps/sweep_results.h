// Sweep results: what the runs of a sweep have reached, from their directories, and the table of it.
//
// A run's score is the mean accuracy over the tests of MQAR, or of text the loss, negated. Its best evaluation is the one with the
// highest score, as the published MQAR results choose the epoch; the last one stands beside it. Axes called `seed` are averaged
// over, not chosen from; of the other axes' values the best score is taken for each model.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/sweep_config.h"

namespace taper {

struct SweepEval {
  int64_t step = 0;
  std::vector<std::string> tests;  // "512/128": length / pairs; "loss"
  std::vector<double> values;      // accuracy; nats a token
  double score = 0;
};

struct SweepOutcome {
  enum class State { waiting, begun, done, diverged } state = State::waiting;
  int64_t step = 0, parameters = 0;  // of the last metrics; 0: not known
  double seconds = 0;                // of training, in the process that ended it
  std::vector<SweepEval> evals;
  const SweepEval* best() const;     // null: none
};

// What stands in dir/NAME and dir/NAME.json. Errors (78): the run ended with another configuration; (65): damaged lines.
SweepOutcome read_outcome(const Sweep& sweep, const SweepRun& run);

// Writes dir/NAME.json: this run has ended for good.
void record_end(const Sweep& sweep, const SweepRun& run, bool diverged, int64_t parameters, double seconds);

std::string sweep_json(const Sweep& sweep, const std::vector<SweepOutcome>& outcomes);
std::string sweep_table(const Sweep& sweep, const std::vector<SweepOutcome>& outcomes);  // Markdown

}  // namespace taper
