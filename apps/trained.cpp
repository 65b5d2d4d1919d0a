// Trained: from a directory to a model.
#include "apps/trained.h"

#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "tensor/json.h"

namespace taper {

Checkpoint find_checkpoint(const Path& path) {
  std::error_code error;
  check(std::filesystem::is_directory(path, error), Exit::no_input, "{}: no such run or checkpoint", path.string());
  if (std::filesystem::exists(path / "manifest.json", error)) return open_checkpoint(path);
  auto latest = latest_checkpoint(path / "checkpoints");
  check(latest.has_value(), Exit::no_input, "{}: holds no checkpoint; a run directory or a checkpoint is wanted", path.string());
  return *latest;
}

Config config_of(const Checkpoint& checkpoint) {
  const std::string who = (checkpoint.path / "state.json").string();
  check_json_object(checkpoint.state, who);
  const nlohmann::json state = nlohmann::json::parse(checkpoint.state);
  check(state.contains("config") && state["config"].is_string(), Exit::bad_data,
        "{}: 'config' must hold the run's configuration; it is missing", who);
  return parse_config(state["config"], who);
}

std::unique_ptr<Tokenizer> tokenizer_of(const Config& config, const Checkpoint& checkpoint) {
  check(!config.data.tokenizer.empty(), Exit::bad_config, "{}: which tokenizer its ids belong to is not known; convert it anew with --tokenizer",
        checkpoint.path.string());
  // A run's checkpoints lie in DIR/checkpoints; by its full name, one that was named from inside it has parents too.
  std::error_code error;
  const Path at = std::filesystem::absolute(checkpoint.path, error).lexically_normal(), run = at.parent_path().parent_path();
  for (const Path& place : {at, run, Path(config.data.train), Path(config.data.validation)})
    if (!place.empty() && has_tokenizer_of(place, config.data.tokenizer)) return open_tokenizer_of(place, config.data.tokenizer);
  return open_tokenizer_of(run, config.data.tokenizer);  // says what is missing
}

Trained load_trained(const Path& path, Device& device, Dtype dtype) {
  Trained t;
  t.checkpoint = find_checkpoint(path);
  t.config = config_of(t.checkpoint);
  t.model = std::make_unique<LanguageModel>(t.config.model, uint64_t(t.config.run.seed), device, dtype);
  load_model(t.checkpoint.path / "model.safetensors", t.model->parameters());
  return t;
}

}  // namespace taper
