// Eval's tasks: each is read and checked before the first is evaluated; results are written after each.
#include "apps/eval_tasks.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "apps/model_predictor.h"
#include "apps/results.h"
#include "apps/ticker.h"
#include "apps/trained.h"
#include "apps/zero_shot_eval.h"
#include "tensor/error.h"

namespace taper {
namespace {

std::string known_tasks() {
  std::string all;
  for (const ZeroShotTask& t : zero_shot_tasks()) all += (all.empty() ? "" : ", ") + t.name;
  return all;
}

Coder coder_of(const Tokenizer& tokenizer, const std::string& bos) {
  const bool has = tokenizer.bos() >= 0;
  return {.encode = [&tokenizer](std::string_view text) {
            std::vector<int32_t> ids;
            tokenizer.encode(text, ids);
            return ids;
          },
          .prefix = has ? tokenizer.bos() : tokenizer.eod(),
          .begin = bos == "yes" || (bos == "auto" && has && tokenizer.bos() != tokenizer.eod())};
}

}  // namespace

void task_options(CLI::App& app, TaskOptions& o) {
  app.add_option("--tasks", o.tasks, "Published tasks, by name, instead of held-out text: " + known_tasks() + "; --data names the directory of their files")
      ->delimiter(',');
  app.add_option("--limit", o.limit, "Tasks: only the first so many documents of each; 0: all (0)")->check(CLI::Range(int64_t(0), int64_t(1) << 40));
  app.add_option("--output", o.output, "Tasks: a directory; results_<time>.json goes into OUTPUT/<model>, in the harness's form");
  app.add_flag("--samples", o.samples, "Tasks: every answer too, as samples_<task>_<time>.jsonl beside it")->needs("--output");
  app.add_option("--max-length", o.max_length, "Tasks: tokens that the model reads at once; 0: no limit (2048)")->check(CLI::Range(int64_t(0), int64_t(1) << 40));
  app.add_option("--softmax", o.softmax, "Tasks: fp32, or bf16-emulate: rounded as by a program whose logits are bf16 (fp32)")
      ->check(CLI::IsMember({"fp32", "bf16-emulate"}));
  app.add_option("--bootstrap", o.bootstrap, "Tasks: replicates for a perplexity's error; 0: the delta method (100000)")->check(CLI::Range(int64_t(0), int64_t(1) << 30));
  app.add_option("--bos", o.bos, "Tasks: the token that begins a text in front of each: auto (where the tokenizer has one of its own), yes, no")
      ->check(CLI::IsMember({"auto", "yes", "no"}));
}

int eval_tasks(const TaskOptions& o, const Common& common) {
  std::vector<const ZeroShotTask*> tasks;
  for (const std::string& name : o.tasks) {
    const ZeroShotTask* task = find_zero_shot_task(name);
    check(task != nullptr, Exit::usage, "eval: no task '{}'; there are {}", name, known_tasks());
    check(std::ranges::find(tasks, task) == tasks.end(), Exit::usage, "eval: task '{}' is named twice", name);
    tasks.push_back(task);
  }
  check(!o.data.empty(), Exit::usage, "eval: --tasks wants --data DIR, the directory that holds {}.jsonl", o.tasks[0]);
  std::vector<TaskDocuments> documents;  // all of them first: a fault in the last file must not cost the work on the others
  for (const ZeroShotTask* task : tasks) documents.push_back(read_task(*task, o.data, o.limit));

  Device& device = open_device(o.device);
  const Trained trained = load_trained(o.path, device);
  check(trained.config.data.task == "text", Exit::bad_config, "eval: tasks want a model of text; {} was trained on {}", o.path, trained.config.data.task);
  const auto tokenizer = tokenizer_of(trained.config, trained.checkpoint);
  const Coder coder = coder_of(*tokenizer, o.bos);
  ModelPredictor predictor(*trained.model);
  ZeroShotOptions options{.score = {.max_length = o.max_length, .batch = o.batch ? o.batch : 16,
                                    .softmax = o.softmax == "fp32" ? Softmax::fp32 : Softmax::bf16_emulate},
                          .bootstrap = o.bootstrap};
  Results results({.model = o.path, .checkpoint = trained.checkpoint.path.string(), .dtype = name(trained.model->dtype), .device = device.name(),
                   .softmax = o.softmax, .tokenizer = tokenizer->identity(), .step = trained.checkpoint.step, .parameters = trained.model->parameter_count(),
                   .batch = options.score.batch, .max_length = o.max_length, .limit = o.limit, .bootstrap = o.bootstrap}, o.output, o.samples);
  if (!common.json) fmt::print("{}", Results::head());
  for (size_t i = 0; i < tasks.size(); ++i) {
    {
      Ticker ticker(tasks[i]->name);
      options.score.progress = [&](int64_t done, int64_t all) { ticker(done, all); };
      results.add(evaluate_zero_shot(predictor, coder, *tasks[i], documents[i], options));
    }
    if (!common.json) fmt::print("{}", results.rows(i)), std::fflush(stdout);
  }
  if (common.json) fmt::print("{}\n", results.json());
  else if (!o.output.empty()) fmt::print("{}\n", results.file().string());
  return 0;
}

}  // namespace taper
