// Trainer: the step, the guard's replay, and what a checkpoint holds.
#include "apps/trainer.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "nn/json.h"
#include "nn/schedule.h"
#include "nn/segments.h"
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
    : config(c), device(device), model(c.model, uint64_t(c.run.seed), device, Dtype::f32, c.train.precision == "bf16" ? Dtype::bf16 : Dtype::f32,
            c.train.precision == "bf16" && c.train.residual == "bf16" ? Dtype::bf16 : Dtype::f32),
      optimizer(adamw_config(c), model.parameters()),
      source(std::move(batches)), gradients_(model.parameters()) {
  model.fused = c.fusion == "full";
  check(c.train.precision == "f32" || device.kind() != DeviceKind::cpu, Exit::bad_config,
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

Tensor Trainer::walk(const Batch& batch, double weight, int64_t step, int64_t micro, const BackwardOptions& options, const Watch& watch) const {
  const uint64_t draws = Random(uint64_t(config.run.seed), "dropout").bits(uint64_t(step * config.train.accumulate + micro));
  const Tensor one = full(device, {}, model.dtype, 1);
  const auto part = [&](Tape& tape, const Tensor& ids, const Tensor& labels, const Packing& packing, ModelState* state, uint64_t segment) {
    tape.watch = watch;
    tape.recompute = config.train.recompute;
    const Random dropout(draws, segment);
    return model.loss(tape, ids, labels, packing, {.factor = weight, .state = state, .dropout = &dropout}).loss;
  };
  if (config.train.bptt_segments == 1) {
    Tape tape;
    const Var loss = part(tape, batch.ids, batch.labels, batch.packing, nullptr, 0);
    backward(loss, one, options);
    return loss.value;
  }
  const std::vector<Segment> segments = cut_into_segments(batch.ids, batch.labels, batch.packing, config.train.bptt_segments);
  ModelState state;
  state.position.assign(size_t(batch.ids.size(0)), 0);
  Tape whole;
  Var losses;
  Tensor total;
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment& s = segments[i];
    if (config.train.bptt_truncate) state.detach();
    state.restart(s.fresh);
    Tape own;
    const Var loss = part(config.train.bptt_truncate ? own : whole, s.ids, s.labels, s.packing, &state, i);
    if (config.train.bptt_truncate) {
      backward(loss, one, options);
      if (total) kernels::accumulate({.sum = total, .d = loss.value});
      else total = loss.value;
    } else {
      losses = losses ? add(losses, loss) : loss;
    }
  }
  if (config.train.bptt_truncate) return total;
  backward(losses, one, options);
  return losses.value;
}

void Trainer::step(const Watch& watch) {
  const std::vector<Batch> batches = draw();
  loss_ = {};
  for (size_t micro = 0; micro < batches.size(); ++micro) {
    const Tensor loss = walk(batches[micro], weight_of(batches, batches[micro]), steps_, int64_t(micro), {.into = gradients_.into()}, watch);
    if (loss_) kernels::accumulate({.sum = loss_, .d = loss});
    else loss_ = loss;
  }
  lr_ = learning_rate({.lr = config.optimizer.lr, .warmup = config.schedule.warmup, .final_lr = config.schedule.final_lr,
                       .stairs = config.schedule.stairs}, steps_,
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
      const auto found = [&](const std::string& what, const char* way) {
        if (bad.empty()) bad = fmt::format("{} ({}, step {}, micro-batch {})", what, way, step, micro + 1);
      };
      walk(batch, weight_of(batches, batch), step - 1, int64_t(micro),
           {.ledger = [&](const LedgerEntry& e) {
              if (e.non_finite) found(e.edge, "backward");
            },
            .into = [&](const Node& leaf, const Tensor& d) {
              if (!finite(d)) found(leaf.scope, "backward");
            }},
           [&](const std::string& value, const Tensor& t) {
             if (bad.empty() && !finite(t)) found(value, "forward");
           });
      if (!bad.empty()) return bad;
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
