// Trained: a model as training left it, with all that is needed to use it.
#pragma once
#include <memory>

#include "apps/config.h"
#include "data/tokenizer.h"
#include "nn/checkpoint.h"

namespace taper {

struct Trained {
  Config config;  // of the run
  Checkpoint checkpoint;
  std::unique_ptr<LanguageModel> model;
};

// From a run directory (its newest checkpoint) or from a checkpoint's directory, which stands alone.
// Errors: neither is there (66); damaged (65).
Trained load_trained(const Path& path, Device& device, Dtype dtype = Dtype::f32);
Checkpoint find_checkpoint(const Path& path);
// The tokenizer of a trained model of text: from the checkpoint's directory, its run's, or that of its
// data, whichever has the file. Errors: none has it (66), another one (65).
std::unique_ptr<Tokenizer> tokenizer_of(const Config& config, const Checkpoint& checkpoint);

Config config_of(const Checkpoint& checkpoint);  // a checkpoint's state holds its run's configuration

}  // namespace taper
