// Trainer: the model, its optimizer and its data, and one step of training.
//
// A step draws `accumulate` micro-batches, each with a tape of its own, and sums their gradients. Its
// loss is the sum over all labelled tokens divided by their number (loss_average = "micro": the mean
// of the micro-batches' means). Nothing waits for the device but numbers(), first_bad(), the
// checkpoints and, with train.bptt_segments, the cutting of a batch.
//
// What differs from step to step (batches, weights of their tokens, keys of dropout, learning rate) is written into tensors that
// stay; the rest is the same work each time. With train.graph it is recorded in the second step and launched from then on
// (tensor/graph.h): the same bits, one call of the host. A batch of another form is recorded anew.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "apps/config.h"
#include "apps/progress.h"
#include "data/loader.h"
#include "nn/checkpoint.h"
#include "nn/optimizer.h"
#include "nn/segments.h"
#include "tensor/graph.h"

namespace taper {

class Trainer {
 public:
  // config: resolved. Errors (78): a precision the device does not train in; a vocabulary smaller than the data's.
  Trainer(const Config& config, Device& device, std::unique_ptr<BatchSource> source);
  Trainer(const Trainer&) = delete;

  using Watch = std::function<void(const std::string& value, const Tensor&)>;  // sees each value by name, see Tape::watch; no recorded step has one
  void step(const Watch& watch = {});
  void rest() { work_.forget(); }  // gives back the memory of a recorded step; a later one records anew
  bool done() const { return stopped_ || steps_ >= config.train.steps; }
  void stop() { stopped_ = true; }  // early: done from here on, and so are its checkpoints
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

  void save(const Path& checkpoints, const std::map<std::string, int64_t>& values);  // values: for the manifest
  void resume(const Checkpoint& checkpoint);  // 65: damaged, or of other data

  const Config config;
  Device& device;
  LanguageModel model;
  AdamW optimizer;
  std::unique_ptr<BatchSource> source;

 private:
  // Draws the next step's micro-batches into inputs_, weights_ and keys_. step: how many came before.
  void draw(int64_t step);
  void update(const Watch& watch = {});  // the work of a step: what inputs_, weights_, keys_ and lr_ say
  // One micro-batch, forward and backward: its part of the step's loss [].
  Tensor walk(int64_t micro, const BackwardOptions& options, const Watch& watch = {}) const;

  std::vector<std::vector<Segment>> inputs_;  // of each micro-batch, in train.bptt_segments pieces
  Tensor weights_;                            // [accumulate] f64: what one token of each counts in the step's loss
  Tensor keys_;                               // [accumulate * bptt_segments, 2] i64, of dropout's draws; absent without dropout
  Tensor lr_;                                 // [] f64
  Repeated work_;
  Gradients gradients_;
  int64_t steps_ = 0, look_steps_ = 0;
  bool stopped_ = false;
  Cursor look_;
  double rate_ = 0;  // what lr_ holds
  Tensor loss_;      // [], of the last step
  StepResult result_;
};

}  // namespace taper
