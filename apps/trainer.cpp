// Trainer: the step, the guard's replay, and what a checkpoint holds.
#include "apps/trainer.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "nn/json.h"
#include "nn/schedule.h"
#include "tensor/error.h"
#include "tensor/ops/accumulate.h"

namespace taper {
namespace {

AdamWConfig adamw_config(const Config& c) {
  return {.beta1 = c.optimizer.betas[0], .beta2 = c.optimizer.betas[1], .eps = c.optimizer.eps,
          .weight_decay = c.optimizer.weight_decay, .clip = c.train.clip, .max_bad_steps = c.guard.max_bad_steps};
}

bool finite(const Tensor& t) {
  if (t.dtype() == Dtype::i32 || t.dtype() == Dtype::i64) return true;
  for (double x : to_doubles(t))
    if (!std::isfinite(x)) return false;
  return true;
}

}  // namespace

Trainer::Trainer(const Config& c, Device& device, std::unique_ptr<BatchSource> batches)
    : config(c), device(device), model(c.model, uint64_t(c.run.seed), device), optimizer(adamw_config(c), model.parameters()),
      source(std::move(batches)), gradients_(model.parameters()) {
  check(c.train.precision == "f32" || device.kind() == DeviceKind::cuda, Exit::bad_config,
        "config: train.precision = \"{}\" wants a GPU; this run is on {}; use \"f32\"", c.train.precision, device.name());
  check(source->vocab() <= c.model.vocab, Exit::bad_config, "config: model.vocab must be at least the data's {}; got {}",
        source->vocab(), c.model.vocab);
  looked();
}

std::vector<Batch> Trainer::draw() {
  std::vector<Batch> batches;
  for (int64_t i = 0; i < config.train.accumulate; ++i) batches.push_back(source->next());
  return batches;
}

// What one token of this micro-batch counts in the step's loss.
double Trainer::weight_of(const std::vector<Batch>& batches, const Batch& batch) const {
  int64_t labelled = 0;
  for (const Batch& b : batches) labelled += b.labelled;
  if (config.train.loss_average == "micro") labelled = batch.labelled * int64_t(batches.size());
  return labelled ? 1 / double(labelled) : 0;
}

void Trainer::step() {
  const std::vector<Batch> batches = draw();
  const Tensor one = full(device, {}, model.dtype, 1);
  loss_ = {};
  for (const Batch& batch : batches) {
    Tape tape;
    const Var loss = scale(sum(model.nll(tape, batch.ids, batch.labels, batch.packing)), weight_of(batches, batch));
    backward(loss, one, {.into = gradients_.into()});
    if (loss_) kernels::accumulate({.sum = loss_, .d = loss.value});
    else loss_ = loss.value;
  }
  lr_ = learning_rate({.lr = config.optimizer.lr, .warmup = config.schedule.warmup, .final_lr = config.schedule.final_lr}, steps_,
                      config.train.steps);
  result_ = optimizer.step(gradients_, lr_, loss_);
  gradients_.clear();
  ++steps_;
}

StepNumbers Trainer::numbers() const { return {.step = steps_, .loss = item(loss_), .norm = item(result_.norm), .lr = lr_}; }

bool Trainer::diverged() const { return optimizer.bad_steps() >= config.guard.max_bad_steps; }

std::string Trainer::first_bad() {
  for (Parameter* p : model.parameters())
    if (!finite(p->value)) return p->name + " (parameter)";
  source->seek(look_);
  for (int64_t step = look_steps_ + 1; step <= steps_; ++step) {
    const std::vector<Batch> batches = draw();
    for (size_t micro = 0; micro < batches.size(); ++micro) {
      const Batch& batch = batches[micro];
      std::string bad;
      const auto where = [&](const char* walk) { return fmt::format("{} ({}, step {}, micro-batch {})", bad, walk, step, micro + 1); };
      Tape tape;
      tape.watch = [&](const std::string& value, const Tensor& t) {
        if (bad.empty() && !finite(t)) bad = value;
      };
      const Var loss = scale(sum(model.nll(tape, batch.ids, batch.labels, batch.packing)), weight_of(batches, batch));
      if (!bad.empty()) return where("forward");
      backward(loss, full(device, {}, model.dtype, 1),
               {.ledger = [&](const LedgerEntry& e) {
                  if (bad.empty() && e.non_finite) bad = e.edge;
                },
                .into = [&](const Node& leaf, const Tensor& d) {
                  if (bad.empty() && !finite(d)) bad = leaf.scope;
                }});
      if (!bad.empty()) return where("backward");
    }
  }
  return "none: a replay of the steps was finite";
}

void Trainer::save(const Path& checkpoints, int64_t metrics_bytes) {
  const Cursor cursor = source->cursor();
  const nlohmann::ordered_json state = {{"config", write_config(config)},
                                        {"data", source->identity()},
                                        {"epoch", cursor.epoch},
                                        {"index", cursor.index}};
  save_checkpoint(checkpoints,
                  {.step = steps_, .parameters = model.parameters(), .optimizer = optimizer, .state = state.dump(2) + "\n",
                   .values = {{"metrics_bytes", metrics_bytes}}},
                  int(config.checkpoint.keep));
}

void Trainer::resume(const Checkpoint& checkpoint) {
  const std::string who = (checkpoint.path / "state.json").string();
  check_json_object(checkpoint.state, who);
  const auto state = nlohmann::json::parse(checkpoint.state);
  const auto has = [&](const char* key, bool ok) { check(ok, Exit::bad_data, "{}: '{}' is missing or of the wrong type", who, key); };
  has("data", state.contains("data") && state["data"].is_string());
  for (const char* key : {"epoch", "index"}) has(key, state.contains(key) && state[key].is_number_unsigned());
  check(state["data"] == source->identity(), Exit::bad_data, "{}: the run was trained on '{}'; the data now are '{}'", who,
        state["data"].get<std::string>(), source->identity());
  load_checkpoint(checkpoint, model.parameters(), optimizer);
  source->seek({.epoch = state["epoch"], .index = state["index"]});
  steps_ = checkpoint.step;
  looked();
}

}  // namespace taper
