// Trainer: the step, the guard's replay, and what a checkpoint holds.
#include "apps/trainer.h"

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "nn/schedule.h"
#include "tensor/error.h"
#include "tensor/json.h"
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
      source(std::move(batches)), lr_(device, {}, Dtype::f64), work_(device, [this] { update(); }, c.train.graph),
      gradients_(model.parameters()), loss_(device, {}, Dtype::f32) {
  model.fused = c.fusion == "full";
  check(c.train.precision == "f32" || device.kind() != DeviceKind::cpu, Exit::bad_config,
        "config: train.precision = \"{}\" wants a GPU; this run is on {}; use \"f32\"", c.train.precision, device.name());
  check(source->vocab() <= c.model.vocab, Exit::bad_config, "config: model.vocab must be at least the data's {}; got {}",
        source->vocab(), c.model.vocab);
  looked();
}

void Trainer::draw(int64_t step) {
  const int64_t micros = config.train.accumulate, pieces = config.train.bptt_segments;
  std::vector<std::vector<Segment>> next;
  std::vector<double> labelled;
  double all = 0;
  for (int64_t i = 0; i < micros; ++i) {
    const Batch b = source->next();
    if (pieces == 1) next.push_back({{.ids = b.ids, .labels = b.wanted(), .packing = b.packing, .keep = {}, .at = b.at}});
    else next.push_back(cut_into_segments(b.ids, b.labels, b.packing, pieces, device));
    labelled.push_back(double(b.labelled));
    all += double(b.labelled);
  }
  const auto tensors = [](Segment& s) { return std::array{&s.ids, &s.labels, &s.packing.start, &s.keep, &s.at}; };
  const auto each_pair = [&](auto&& visit) {
    for (size_t i = 0; i < inputs_.size(); ++i)
      for (size_t k = 0; k < inputs_[i].size(); ++k)
        for (size_t t = 0; t < 5; ++t) visit(*tensors(inputs_[i][k])[t], *tensors(next[i][k])[t]);
  };
  bool same = !inputs_.empty();
  each_pair([&](const Tensor& kept, const Tensor& b) { same = same && bool(kept) == bool(b) && (!b || kept.shape() == b.shape()); });
  if (!same) {
    work_.forget();
    inputs_ = next;
    each_pair([](Tensor& kept, const Tensor&) {
      if (kept) kept = empty_like(kept);
    });
  }
  each_pair([](const Tensor& kept, const Tensor& b) {
    if (b) copy_into(kept, b);
  });

  std::vector<double> weights;
  for (const double n : labelled) {
    const double of = config.train.loss_average == "micro" ? n * double(micros) : all;
    weights.push_back(of > 0 ? 1 / of : 0);
  }
  if (!weights_) weights_ = Tensor(device, {micros}, Dtype::f64);
  copy_into<double>(weights_, weights);
  if (config.model.dropout <= 0) return;
  std::vector<int64_t> keys;
  for (int64_t i = 0; i < micros; ++i) {
    const uint64_t draws = Random(uint64_t(config.run.seed), "dropout").bits(uint64_t(step * micros + i));
    for (int64_t k = 0; k < pieces; ++k) {
      const std::array<int64_t, 2> key = Random(draws, uint64_t(k)).key();
      keys.insert(keys.end(), key.begin(), key.end());
    }
  }
  if (!keys_) keys_ = Tensor(device, {micros * pieces, 2}, Dtype::i64);
  copy_into<int64_t>(keys_, keys);
}

Tensor Trainer::walk(int64_t micro, const BackwardOptions& options, const Watch& watch) const {
  const std::vector<Segment>& pieces = inputs_[size_t(micro)];
  const Tensor one = full(device, {}, model.dtype, 1), weight = weights_.rows(micro, micro + 1).reshape(Shape{});
  const auto part = [&](Tape& tape, size_t i, ModelState* state) {
    tape.watch = watch;
    tape.recompute = config.train.recompute;
    const int64_t key = micro * int64_t(pieces.size()) + int64_t(i);
    return model.loss(tape, pieces[i].ids, pieces[i].labels, pieces[i].packing,
                      {.factor = weight, .at = pieces[i].at, .state = state, .dropout = keys_ ? keys_.rows(key, key + 1).reshape(Shape{2}) : Tensor{}}).loss;
  };
  if (pieces.size() == 1) {
    Tape tape;
    const Var loss = part(tape, 0, nullptr);
    backward(loss, one, options);
    return loss.value;
  }
  ModelState state;
  Tape whole;
  Var losses;
  Tensor total;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (config.train.bptt_truncate) state.detach();
    if (pieces[i].keep) state.restart(pieces[i].keep);
    Tape own;
    const Var loss = part(config.train.bptt_truncate ? own : whole, i, &state);
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

void Trainer::update(const Watch& watch) {
  for (int64_t micro = 0; micro < config.train.accumulate; ++micro) {
    const Tensor loss = walk(micro, {.into = gradients_.into()}, watch);
    if (micro > 0) kernels::accumulate({.sum = loss_, .d = loss});
    else copy_into(loss_, loss);
  }
  result_ = optimizer.step(gradients_, lr_, loss_);
  gradients_.clear();
}

void Trainer::step(const Watch& watch) {
  draw(steps_);
  rate_ = learning_rate({.lr = config.optimizer.lr, .warmup = config.schedule.warmup, .final_lr = config.schedule.final_lr,
                         .stairs = config.schedule.stairs}, steps_, config.train.steps);
  copy_into<double>(lr_, std::array{rate_});
  if (watch) update(watch);
  else work_();
  ++steps_;
}

StepNumbers Trainer::numbers() const { return {.step = steps_, .loss = item(loss_), .norm = item(result_.norm), .lr = rate_}; }

bool Trainer::diverged() const { return optimizer.bad_steps() >= config.guard.max_bad_steps; }

std::string Trainer::first_bad() {
  for (Parameter* p : model.parameters())
    if (!finite(p->value)) return p->name + " (parameter)";
  source->seek(look_);
  for (int64_t step = look_steps_ + 1; step <= steps_; ++step) {
    draw(step - 1);
    for (int64_t micro = 0; micro < config.train.accumulate; ++micro) {
      std::string bad;
      const auto found = [&](const std::string& what, const char* way) {
        if (bad.empty()) bad = fmt::format("{} ({}, step {}, micro-batch {})", what, way, step, micro + 1);
      };
      walk(micro,
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

void Trainer::save(const Path& checkpoints, const std::map<std::string, int64_t>& values) {
  const Cursor cursor = source->cursor();
  const nlohmann::ordered_json state = {{"config", write_config(config)},
                                        {"data", source->identity()},
                                        {"epoch", cursor.epoch},
                                        {"index", cursor.index},
                                        {"stopped", stopped_}};
  save_checkpoint(checkpoints,
                  {.step = steps_, .parameters = model.parameters(), .optimizer = optimizer, .state = state.dump(2) + "\n",
                   .values = values},
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
  stopped_ = state.value("stopped", false);
  looked();
}

}  // namespace taper
