// Records: what training writes down as it goes, into the run's logs and, with log.tensorboard, into an event file.
// apps/run.h says what the lines hold.
#pragma once
#include <optional>
#include <utility>
#include <vector>

#include "apps/evaluate.h"
#include "apps/progress.h"
#include "apps/run.h"
#include "apps/tensorboard.h"

namespace taper {

struct MqarEvaluation {
  int64_t length = 0, pairs = 0;
  Evaluation result;
};

class Records {
 public:
  // done: the steps before this process.
  Records(Run& run, bool tensorboard, int64_t tokens_per_step, int64_t done);

  void step(const StepNumbers& now, const Progress& progress, uint64_t resident_bytes);
  void evaluation(int64_t step, const Evaluation& e, int64_t length);  // of text in windows of `length`
  void evaluation(int64_t step, const std::vector<MqarEvaluation>& all);
  void spectra(int64_t step, const LanguageModel& model);  // waits for the device

 private:
  void event(int64_t step, const Scalars& scalars);
  Run& run_;
  std::optional<EventFile> events_;
  int64_t tokens_per_step_;
};

}  // namespace taper
