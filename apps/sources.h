// Sources: from a configuration to the batches it asks for.
#pragma once
#include <memory>

#include "apps/config.h"
#include "data/loader.h"

namespace taper {

// Fills in what was left to the data: model.vocab and data.tokenizer. Errors: no data named (78), a
// vocabulary smaller than the data's (78), shards missing (66), damaged or of another tokenizer (65).
Config resolve_with_data(Config config);

// Batches for a trainer on that device: they lie there, or, where the trainer cuts them (train.bptt_segments), on the CPU, since
// cutting what lies on a GPU would wait for the step before.
std::unique_ptr<BatchSource> training_source(const Config& config, Device& device);

// One pass over held-out data, in order. Text: the first `tokens` of the validation split (0: all), in
// windows of `length`. MQAR: eval_examples of that length with that many pairs.
struct HeldOut {
  int64_t length = 0, batch = 1;
  int64_t tokens = 0;  // text
  int64_t pairs = 0;   // MQAR
};
std::unique_ptr<BatchSource> held_out_source(const Config& config, const HeldOut& what, Device& device);

// Rows for a batch of longer or shorter windows that takes no more memory than a training batch.
int64_t batch_for_length(const Config& config, int64_t length);

}  // namespace taper
