// Checkpoints: directories that appear whole, say what they hold, and are believed only when it is so.
//
//   step-000200/model.safetensors      parameters by name (specification 7; a tied head is not stored)
//               optimizer.safetensors  moments and counters by name
//               state.json             the trainer's own object
//               manifest.json          step, values, each file's size and XXH3, and its own checksum
//
// Every byte of the four files is under a checksum. Errors: 65 and one line that names the file.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "nn/optimizer.h"
#include "nn/parameter.h"
#include "tensor/file.h"

namespace taper {

struct Checkpoint {  // one whose files were all verified
  Path path;
  int64_t step = 0;
  std::string weights;                    // model.safetensors' XXH3, which tells two models apart that stand in one place after another
  std::string state;                      // state.json, a JSON object
  std::map<std::string, int64_t> values;  // from the manifest: {"metrics_bytes": 123, "spectra_bytes": 45}
};

struct CheckpointContents {
  int64_t step = 0;
  const std::vector<Parameter*>& parameters;
  AdamW& optimizer;
  std::string state = "{}";
  std::map<std::string, int64_t> values = {};
};

// Writes directory/step-NNNNNN durably (one of the same step is replaced in one move), then deletes
// all but the newest `keep` (>= 1). A failure leaves the older checkpoints as they were.
void save_checkpoint(const Path& directory, const CheckpointContents& contents, int keep);

// The checkpoints of a directory, oldest first, not verified. None if there is no such directory.
std::vector<Path> list_checkpoints(const Path& directory);

// Verifies every byte. Also for a path that a user names; 66 where there is none.
Checkpoint open_checkpoint(const Path& path);

// The newest checkpoint, or nothing where there is none. A damaged one is not passed over: 65, and the
// message names the newest intact one and what to do.
std::optional<Checkpoint> latest_checkpoint(const Path& directory);

// Fills parameters and optimizer. Errors (65) name the tensor: missing, surplus, of another shape, or
// holding NaN or infinity.
void load_checkpoint(const Checkpoint& checkpoint, const std::vector<Parameter*>& parameters, AdamW& optimizer);

// A plain model.safetensors. Reading converts between float dtypes and takes a stored tied head
// (lm_head.weight or head.weight) that equals embedding.weight; other errors as load_checkpoint's.
void save_model(const Path& path, const std::vector<Parameter*>& parameters);
void load_model(const Path& path, const std::vector<Parameter*>& parameters);

}  // namespace taper
