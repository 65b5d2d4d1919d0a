// Trained: a model as training left it, with all that is needed to use it.
#pragma once
#include <memory>

#include "apps/config.h"
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
Config config_of(const Checkpoint& checkpoint);  // a checkpoint's state holds its run's configuration

}  // namespace taper
