// Interchange: the checkpoints of other programs, a directory with config.json and model.safetensors (or shards with
// model.safetensors.index.json), by our names; and the same written. Dialects and their keys: nn/foreign_config.h.
//
// Tensors pass as bytes and keep their dtypes. Names are mapped by one table for each architecture; every tensor of the
// model must be there in its shape and no other, except a stored tied head that equals the embedding.
#pragma once
#include <memory>

#include "nn/foreign_config.h"
#include "nn/safetensors.h"

namespace taper {

// The tensors of a directory. They must not outlive it.
class WeightFiles {
 public:
  // model.safetensors, or the shards that the index lists. Errors: 66 neither is there; 65 malformed, or index and
  // shards disagree.
  explicit WeightFiles(const Path& directory);
  explicit WeightFiles(std::unique_ptr<SafetensorsFile> file);
  const std::vector<RawTensor>& tensors() const { return tensors_; }  // by name
  const std::map<std::string, std::string>& metadata() const { return files_.front()->metadata(); }
  const Path& path() const { return path_; }

 private:
  Path path_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<RawTensor> tensors_;
};

struct ForeignCheckpoint {
  ForeignConfig config;
  std::string text;  // config.json as it stands
  WeightFiles files;
  std::vector<RawTensor> tensors;  // by our names, in the model's order
};

// Errors: 66, a file is missing; 65 and 78. Tensors that do not fit are named, the first of them and how many.
ForeignCheckpoint read_foreign(const Path& directory);

// The model's tensors as a checkpoint of our own holds them.
std::vector<RawTensor> model_tensors(const ModelConfig& model, const WeightFiles& files);

struct ForeignFiles {
  std::string config;              // config.json
  std::vector<RawTensor> tensors;  // under the dialect's names
};
// wish.origin is kept to the letter where it is of this dialect and still describes the model.
ForeignFiles in_dialect(const ModelConfig& model, const std::vector<RawTensor>& tensors, const ForeignWish& wish);

}  // namespace taper
