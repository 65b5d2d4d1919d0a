// eval: loss, bits per byte, perplexity by position; or MQAR accuracy; or published tasks.
#include <CLI/CLI.hpp>
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/eval_length.h"
#include "apps/eval_output.h"
#include "apps/eval_tasks.h"
#include "apps/evaluate.h"
#include "apps/json_text.h"
#include "apps/sources.h"
#include "apps/trained.h"
#include "tensor/error.h"

namespace taper {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string path, data, device = "auto", output;
  std::vector<int64_t> lengths, pairs;
  int64_t tokens = -1, batch = 0;
  TaskOptions tasks;
  EvalLengthOptions by_position;
};

Json text_json(const Evaluation& e, int64_t length) {
  Json buckets = Json::array();
  for (const PositionBucket& b : e.buckets)
    if (b.tokens)
      buckets.push_back({{"begin", b.begin}, {"end", std::min(b.end, length + 1)}, {"tokens", b.tokens}, {"perplexity", std::exp(b.nll / double(b.tokens))}});
  return {{"length", length},           {"tokens", e.tokens}, {"bytes", e.bytes}, {"loss", e.loss()}, {"perplexity", std::exp(e.loss())},
          {"bits_per_byte", e.bits_per_byte()}, {"by_position", buckets}};
}

void print_text(const Json& r) {
  fmt::print("length {}: loss {:.4f}, {:.4f} bits per byte, perplexity {:.3f} over {} tokens\n", r["length"].get<int64_t>(), r["loss"].get<double>(),
             r["bits_per_byte"].get<double>(), r["perplexity"].get<double>(), r["tokens"].get<int64_t>());
  for (const Json& b : r["by_position"])
    fmt::print("  positions {:>7} to {:<7} perplexity {:.3f}\n", b["begin"].get<int64_t>(), b["end"].get<int64_t>() - 1, b["perplexity"].get<double>());
}

int eval(const Options& o, const Common& common) {
  Device& device = open_device(o.device);
  Trained trained = load_trained(o.path, device);
  Config& c = trained.config;
  if (!o.data.empty()) c.data.validation = o.data;
  const bool mqar = c.data.task == "mqar";
  std::vector<int64_t> lengths = o.lengths, pairs = o.pairs;
  if (lengths.empty()) lengths = mqar ? c.mqar.eval_sequence : std::vector{c.data.sequence};
  if (mqar && pairs.empty()) pairs = o.lengths.empty() ? c.mqar.eval_pairs : std::vector<int64_t>{};
  for (size_t i = pairs.size(); mqar && i < lengths.size(); ++i) pairs.push_back(lengths[i] / 4);
  check(!mqar || pairs.size() == lengths.size(), Exit::usage, "eval: --pairs wants one number for each --length; got {} and {}", pairs.size(), lengths.size());

  const EvaluateOptions options{.bytes_of = mqar ? std::vector<int64_t>{} : bytes_of_tokens(*tokenizer_of(c, trained.checkpoint)), .accuracy = mqar};
  EvalOutput output(trained.checkpoint.path, o.path, o.output);
  Json results = Json::array();
  for (size_t i = 0; i < lengths.size(); ++i) {
    const int64_t L = lengths[i];
    const auto source = held_out_source(c, {.length = L, .batch = o.batch ? o.batch : batch_for_length(c, L),
                                            .tokens = o.tokens >= 0 ? o.tokens : c.eval.tokens, .pairs = mqar ? pairs[i] : 0}, device);
    const Evaluation e = evaluate(*trained.model, *source, options);
    if (mqar) {
      results.push_back({{"length", L}, {"pairs", pairs[i]}, {"examples", e.examples}, {"loss", e.loss()}, {"accuracy", e.accuracy}});
      if (!common.json) fmt::print("length {}, {} pairs: accuracy {:.4f}, loss {:.4f} over {} examples\n", L, pairs[i], e.accuracy, e.loss(), e.examples);
    } else {
      results.push_back(text_json(e, L));
      if (!common.json) print_text(results.back());
    }
  }
  Json all{{"checkpoint", trained.checkpoint.path.string()}, {"step", trained.checkpoint.step}, {"results", results}};
  if (common.json) fmt::print("{}\n", json_text(all));
  all["task"] = c.data.task, all["training_length"] = c.data.sequence, all["data"] = c.data.validation;
  const std::string name = "held_out_" + file_time(seconds_now()) + ".json";
  output.write(name, json_text(all) + "\n");
  if (!common.json && !o.output.empty()) fmt::print("{}\n", (output.directory() / name).string());
  output.say(name);
  return 0;
}

}  // namespace

void eval_command(CLI::App& program, Common& common) {
  auto o = std::make_shared<Options>();
  CLI::App& app = *program.add_subcommand("eval", "Evaluates a trained model on held-out data, or on published tasks");
  app.add_option("RUN", o->path, "A run directory, or one of its checkpoints")->required();
  app.add_option("--length", o->lengths, "Window lengths (the training length); of RULER's tasks: their texts' lengths, in tokens (1024 2048 4096)")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 31));
  auto* pairs = app.add_option("--pairs", o->pairs, "MQAR: pairs, one for each length (length / 4)")->check(CLI::Range(int64_t(1), int64_t(1) << 31));
  auto* tokens = app.add_option("--tokens", o->tokens, "Of the validation text; 0: all of it (eval.tokens)")->check(CLI::Range(int64_t(0), int64_t(1) << 60));
  app.add_option("--data", o->data, "Another directory of shards, whose validation split is used; of --tasks: the directory of their files");
  app.add_option("--batch", o->batch, "Windows at a time (as many tokens as a training batch); of --tasks: questions (16)")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 20));
  app.add_option("--output", o->output, "A directory: what is found is kept in OUTPUT/<model> (in the run's directory, in evaluations)");
  app.add_option("--device", o->device, "auto, cpu or cuda:N (auto)");
  // What belongs to one of the evaluations is refused without it, instead of passed over.
  const auto with = [&](const char* evaluation, const std::function<void()>& add) {
    const size_t before = app.get_options().size();
    add();
    CLI::Option* chosen = app.get_option(evaluation);
    const std::vector<CLI::Option*> all = app.get_options();
    for (size_t i = before; i < all.size(); ++i)
      if (all[i] != chosen) all[i]->needs(chosen);
  };
  with("--tasks", [&] { task_options(app, o->tasks); });
  with("--by-position", [&] { eval_length_options(app, o->by_position); });
  for (const char* other : {"--tasks", "--by-position"}) pairs->excludes(app.get_option(other));
  tokens->excludes(app.get_option("--tasks"));
  app.callback([=, &common] {
    common.chosen = [=, &common] {
      if (EvalLengthOptions& b = o->by_position; b.chosen) {
        check(o->tasks.tasks.empty(), Exit::usage, "eval: --by-position and --tasks are two evaluations; give one");
        b.path = o->path, b.data = o->data, b.device = o->device, b.lengths = o->lengths, b.tokens = o->tokens, b.batch = o->batch, b.output = o->output;
        return eval_length(b, common);
      }
      if (o->tasks.tasks.empty()) return eval(*o, common);
      o->tasks.path = o->path, o->tasks.data = o->data, o->tasks.device = o->device, o->tasks.batch = o->batch, o->tasks.lengths = o->lengths,
      o->tasks.output = o->output;
      return eval_tasks(o->tasks, common);
    };
  });
}

}  // namespace taper
