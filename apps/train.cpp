// train: training, on one screen.
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/evaluate.h"
#include "apps/plan.h"
#include "apps/records.h"
#include "apps/run.h"
#include "apps/signals.h"
#include "apps/sources.h"
#include "apps/trainer.h"
#include "tensor/device.h"
#include "tensor/error.h"
#include "tensor/parallel.h"

namespace taper {
namespace {

struct Options {
  ConfigSource config;
  bool resume = false, dry_run = false;
};

std::string bytes_text(int64_t bytes) { return fmt::format("{:.1f} MB", double(bytes) / 1e6); }

int dry_run(const Config& config, const Common& common) {
  const Plan p = plan_run(config);
  if (common.json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"parameters", p.parameters}, {"trainable", p.trainable}, {"flops_per_token", p.flops_per_token},
                                              {"weights_bytes", p.weights}, {"moments_bytes", p.moments}, {"step_peak_bytes", p.step_peak},
                                              {"eval_peak_bytes", p.eval_peak}, {"host_bytes", p.host}, {"resident_bytes", p.resident()},
                                              {"config", write_config(config)}}.dump());
    return 0;
  }
  fmt::print("{}\n{}\nparameters {} ({} trainable)\nflops per token {:.4g} (training; 2 per multiply-add, the recurrence counted token by token)\n",
             write_config(config), p.table, p.parameters, p.trainable, p.flops_per_token);
  fmt::print("memory: weights {}, moments {}, gradients and activations {}, process and data {}\nresident {} predicted\n", bytes_text(p.weights),
             bytes_text(p.moments), bytes_text(p.step_peak - p.weights - p.moments), bytes_text(p.host), bytes_text(p.resident()));
  return 0;
}

void check_held_out(const Config& c, Device& device) {
  if (c.data.task == "text") held_out_source(c, {.length = c.data.sequence}, device);
  for (size_t i = 0; c.data.task == "mqar" && i < c.mqar.eval_pairs.size(); ++i)
    held_out_source(c, {.length = c.mqar.eval_sequence[i], .pairs = c.mqar.eval_pairs[i]}, device);
}

// The held-out data: into the records and onto the screen. Returns MQAR's mean accuracy, of text 0.
double evaluate_now(Trainer& trainer, Records& records, Progress& progress, const EvaluateOptions& options) {
  const Config& c = trainer.config;
  trainer.rest();  // so that an evaluation needs no memory beside that of a recorded step
  double accuracy = 0;
  if (c.data.task == "mqar") {
    std::vector<MqarEvaluation> all;
    for (size_t i = 0; i < c.mqar.eval_pairs.size(); ++i) {
      const int64_t T = c.mqar.eval_sequence[i], K = c.mqar.eval_pairs[i];
      const auto source = held_out_source(c, {.length = T, .batch = batch_for_length(c, T), .pairs = K}, trainer.device);
      all.push_back({.length = T, .pairs = K, .result = evaluate(trainer.model, *source, options)});
      const Evaluation& e = all.back().result;
      accuracy += e.accuracy / double(c.mqar.eval_pairs.size());
      progress.note(fmt::format("eval at step {}: length {}, {} pairs: loss {:.4f}, accuracy {:.4f}", trainer.steps(), T, K, e.loss(), e.accuracy));
    }
    records.evaluation(trainer.steps(), all);
    return accuracy;
  }
  const auto source = held_out_source(c, {.length = c.data.sequence, .batch = c.train.batch, .tokens = c.eval.tokens}, trainer.device);
  const Evaluation e = evaluate(trainer.model, *source, options);
  records.evaluation(trainer.steps(), e, c.data.sequence);
  progress.note(fmt::format("eval at step {}: loss {:.4f}, {:.4f} bits per byte over {} tokens", trainer.steps(), e.loss(), e.bits_per_byte(), e.tokens));
  return accuracy;
}

// Of a build for GPUs that runs on the CPU: what keeps it from one, in brackets. Who has a GPU should not find out by waiting.
std::string why_no_gpu(const Device& chosen) {
  if (chosen.kind() != DeviceKind::cpu) return "";
  for (const BackendFacts& b : backends()) {
    for (const DeviceFacts& d : b.devices)
      if (!d.fault.empty()) return fmt::format(" ({}: {})", d.name, d.fault);
    return fmt::format(" ({})", b.driver);
  }
  return "";
}

int train(const Config& config, const Options& o, const Common& common) {
  const StopSignal stop;
  Device& device = open_device(config.run.device);
  Trainer trainer(config, device, training_source(config, device));
  if (config.eval.every > 0) check_held_out(config, device);  // now, not after hours
  const auto tokenizer = config.data.task == "text" ? open_tokenizer_of(config.data.train, config.data.tokenizer) : nullptr;
  const EvaluateOptions evaluation{.bytes_of = tokenizer ? bytes_of_tokens(*tokenizer) : std::vector<int64_t>{},
                                   .accuracy = config.data.task == "mqar"};
  Run run(config, o.resume);
  if (tokenizer) store_tokenizer(*tokenizer, run.dir());
  const auto last = latest_checkpoint(run.checkpoints());
  if (last) trainer.resume(*last);
  run.rewind(last ? last->values : std::map<std::string, int64_t>{});

  const int64_t steps = config.train.steps, per_step = trainer.tokens_per_step(), first = trainer.steps();
  fmt::print(stderr, "{} on {}{}, {} threads | {}{}, {} parameters | {} tokens per step | {}\n", run.dir().string(), device.name(),
             config.run.device == "auto" ? why_no_gpu(device) : "", thread_count(), config.model.arch, config.model.post ? " + PoST" : "",
             trainer.model.parameter_count(), per_step, first ? fmt::format("resumed after step {}", first) : fmt::format("{} steps", steps));
  Progress progress(first, steps, per_step, terminal_stderr(), color_stderr());
  Records records(run, config.log.tensorboard, per_step, first);
  if (!last) records.spectra(0, trainer.model);
  StepNumbers now;
  const auto due = [&](int64_t every) { return every > 0 && trainer.steps() % every == 0; };

  while (!trainer.done()) {
    progress.stepping();
    trainer.step();
    const int64_t step = trainer.steps();
    const bool final = trainer.done(), look = due(config.log.every) || step == 1 || final;
    if (look) now = trainer.numbers();  // the only wait
    progress.stepped(step);
    if (look) {
      records.step(now, progress, peak_resident_bytes());
      progress.logged(now);
      if (trainer.diverged()) {
        progress.finish();
        fail(Exit::diverged, "train: {} steps in a row were not finite (now at step {}); no weight has changed since; the first bad tensor: {}; "
             "lower optimizer.lr, or warm up longer", config.guard.max_bad_steps, step, trainer.first_bad());
      }
      trainer.looked();
    }
    if (due(config.eval.every) || (final && config.eval.every > 0)) {
      const double accuracy = evaluate_now(trainer, records, progress, evaluation), enough = config.mqar.stop_accuracy;
      if (!final && enough > 0 && accuracy > enough) {
        trainer.stop();
        progress.note(fmt::format("stopped at step {}: the mean accuracy {:.4f} is above mqar.stop_accuracy", step, accuracy));
      }
    }
    if (final || due(config.eval.every ? config.eval.every : config.checkpoint.every)) records.spectra(step, trainer.model);
    const int signal = stop.received();
    if (due(config.checkpoint.every) || trainer.done() || signal) trainer.save(run.checkpoints(), run.settle());
    if (signal && !trainer.done()) {
      progress.finish();
      fail(Exit::checkpointed, "train: stopped by signal {} after step {}; the checkpoint is in {}; --resume continues", signal, step,
           run.checkpoints().string());
    }
  }
  progress.finish();
  if (common.json)
    fmt::print("{}\n", nlohmann::ordered_json{{"run", run.dir().string()}, {"steps", trainer.steps()}, {"parameters", trainer.model.parameter_count()},
                                              {"tokens_per_second", progress.tokens_per_second()}, {"seconds", progress.seconds()},
                                              {"loss", now.step ? nlohmann::ordered_json(now.loss) : nullptr},
                                              {"resident_bytes", peak_resident_bytes()}}.dump());
  return 0;
}

int train(const Options& o, const Common& common) {
  const Config given = o.config.load();
  // A dry run may have no data yet: then it needs a vocabulary.
  const Config config = o.dry_run && given.model.vocab ? given : resolve_with_data(given);
  if (o.dry_run) return dry_run(config, common);
  try {
    return train(config, o, common);
  } catch (const OutOfMemory& e) {  // by now its memory is free again
    fail(e.code, "{}{}", e.facts, advice_to_fit(config, e.capacity));
  }
}

}  // namespace

void train_command(CLI::App& program, Common& common) {
  auto o = std::make_shared<Options>();
  CLI::App& app = *program.add_subcommand("train", "Trains a model; Ctrl-C saves, --resume goes on bit for bit");
  config_options(app, o->config);
  app.add_flag("--resume", o->resume, "Continue the run in run.dir from its newest checkpoint, or begin it");
  app.add_flag("--dry-run", o->dry_run, "Print configuration, parameters, memory and FLOPs; touch nothing");
  app.callback([=, &common] { common.chosen = [=, &common] { return train(*o, common); }; });
}

}  // namespace taper
