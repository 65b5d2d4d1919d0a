// Trainer: the model, its optimizer and its data, and one step of training.
//
// A step draws `accumulate` micro-batches, each with a tape of its own, and sums their gradients. Its
// loss is the sum over all labelled tokens divided by their number (loss_average = "micro": the mean
// of the micro-batches' means). Nothing waits for the device but numbers(), first_bad() and the
// checkpoints.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "apps/config.h"
#include "apps/progress.h"
#include "data/loader.h"
#include "nn/checkpoint.h"
#include "nn/optimizer.h"

namespace taper {

class Trainer {
 public:
  // config: resolved. Errors (78): a precision the device does not train in; a vocabulary smaller than the data's.
  Trainer(const Config& config, Device& device, std::unique_ptr<BatchSource> source);

  using Watch = std::function<void(const std::string& value, const Tensor&)>;  // sees each value by name, see Tape::watch
  void step(const Watch& watch = {});
  bool done() const { return steps_ >= config.train.steps; }
  int64_t steps() const { return steps_; }
  int64_t tokens_per_step() const { return config.train.accumulate * config.train.batch * config.data.sequence; }

  StepNumbers numbers() const;  // of the last step; waits

  // The guard. Diverged: max_bad_steps steps in a row were not finite, and no weight has changed since
  // the first of them. looked() marks the place from which first_bad() replays.
  bool diverged() const;  // waits
  void looked() { look_ = source->cursor(), look_steps_ = steps_; }
  // Replays the steps since looked(), checking every value and gradient, and names the first tensor
  // that is not finite: "layers.0.mixer/ssd_scan.y (forward, step 12, micro-batch 1)".
  std::string first_bad();

  void save(const Path& checkpoints, int64_t metrics_bytes);
  void resume(const Checkpoint& checkpoint);  // 65: damaged, or of other data

  const Config config;
  Device& device;
  LanguageModel model;
  AdamW optimizer;
  std::unique_ptr<BatchSource> source;

 private:
  std::vector<Batch> draw();
  double weight_of(const std::vector<Batch>& batches, const Batch& batch) const;
  // One micro-batch, forward and backward, in train.bptt_segments pieces: its part of the step's loss [].
  Tensor walk(const Batch& batch, double weight, int64_t step, int64_t micro, const BackwardOptions& options, const Watch& watch = {}) const;
  Gradients gradients_;
  int64_t steps_ = 0, look_steps_ = 0;
  Cursor look_;
  double lr_ = 0;
  Tensor loss_;  // [], of the last step
  StepResult result_;
};

}  // namespace taper
