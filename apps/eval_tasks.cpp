// Eval's tasks: each is read and checked before the first is evaluated; results are written after each.
#include "apps/eval_tasks.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <optional>

#include "apps/model_predictor.h"
#include "apps/results.h"
#include "apps/ruler_eval.h"
#include "apps/ticker.h"
#include "apps/trained.h"
#include "apps/zero_shot_eval.h"
#include "data/sha256.h"
#include "data/tasks/python_text.h"
#include "tensor/error.h"

namespace taper {
namespace {

std::string known_tasks() {
  std::string all;
  for (const ZeroShotTask& t : zero_shot_tasks()) all += (all.empty() ? "" : ", ") + t.name;
  for (const std::string& t : ruler_tasks()) all += ", " + t;
  return all + ", niah (all eight), ruler (all that need no file)";
}

// Names as they were given, groups opened, the harness's ruler_ in front of some taken off.
std::vector<std::string> named_tasks(const TaskOptions& o) {
  std::vector<std::string> all;
  for (const std::string& given : o.tasks) {
    std::string name = given.starts_with("ruler_") ? given.substr(6) : given;
    if (name == "niah" || name == "ruler") {
      for (const std::string& t : ruler_tasks()) {
        const bool niah = t.starts_with("niah"), file = t.starts_with("qa_");
        if (niah || (name == "ruler" && (!file || !(t == "qa_squad" ? o.squad : o.hotpot).empty()))) all.push_back(t);
      }
      continue;
    }
    check(find_zero_shot_task(name) || is_ruler_task(name), Exit::usage, "eval: no task '{}'; there are {}", given, known_tasks());
    all.push_back(name);
  }
  for (size_t i = 0; i < all.size(); ++i)
    check(std::ranges::count(all, all[i]) == 1, Exit::usage, "eval: task '{}' is named twice", all[i]);
  return all;
}

void replace_words(std::vector<std::string>& words, const std::string& file, std::string& digest) {
  const std::string text = read_file(file);
  digest = sha256(text);
  words.clear();
  for (const std::string_view w : python::words(text)) words.emplace_back(w);
  std::ranges::sort(words);
  words.erase(std::ranges::unique(words).begin(), words.end());
  check(!words.empty(), Exit::bad_data, "{}: must hold words; it holds none", file);
}

RulerMaterials materials_of(const TaskOptions& o, int64_t longest) {
  RulerMaterials m{.templates = o.templates.empty() ? Templates() : Templates(o.templates),
                   .haystack = o.haystack.empty() ? Haystack::synthetic(longest) : Haystack::of_files({o.haystack.begin(), o.haystack.end()}, longest),
                   .words = built_in_words(), .squad = {}, .hotpot = {}};
  if (m.haystack.repeated()) fmt::print(stderr, "eval: the haystack is shorter than {} words, and repeated\n", longest);
  if (!o.templates.empty()) m.given["templates"] = m.templates.digest();
  for (const std::string& file : o.haystack) m.given["haystack"] = sha256(m.given["haystack"] + sha256(read_file(file)));
  if (!o.adjectives.empty()) replace_words(m.words.adjectives, o.adjectives, m.given["words-adj"]);
  if (!o.nouns.empty()) replace_words(m.words.nouns, o.nouns, m.given["words-noun"]);
  if (!o.verbs.empty()) replace_words(m.words.verbs, o.verbs, m.given["words-verb"]);
  if (!o.squad.empty()) m.squad = read_squad(o.squad), m.given["squad"] = sha256(read_file(o.squad));
  if (!o.hotpot.empty()) m.hotpot = read_hotpot(o.hotpot), m.given["hotpot"] = sha256(read_file(o.hotpot));
  return m;
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
  app.add_option("--tasks", o.tasks, "Published tasks, by name, instead of held-out text: " + known_tasks() + ". --data names the directory of their files")
      ->delimiter(',');
  app.add_option("--limit", o.limit, "Tasks: only the first so many documents of each; 0: all (0), of RULER's 500 for each length")
      ->check(CLI::Range(int64_t(0), int64_t(1) << 40));
  app.add_flag("--samples", o.samples, "Tasks: keep every answer too, as samples_<task>_<time>.jsonl beside the results");
  app.add_flag("--resume", o.resume, "Tasks: go on with the newest kept results of this model, settings and data; what they hold is not evaluated again");
  app.add_option("--max-length", o.max_length, "Tasks: tokens that the model reads at once; 0: no limit (2048)")
      ->check(CLI::Range(int64_t(0), int64_t(1) << 40));
  app.add_option("--softmax", o.softmax, "Tasks: fp32, or bf16-emulate: rounded as by a program whose logits are bf16 (fp32)")
      ->check(CLI::IsMember({"fp32", "bf16-emulate"}));
  app.add_option("--bootstrap", o.bootstrap, "Tasks: replicates for a perplexity's error; 0: the delta method (100000)")
      ->check(CLI::Range(int64_t(0), int64_t(1) << 30));
  app.add_option("--bos", o.bos, "Tasks: the token that begins a text in front of each: auto (where the tokenizer has one of its own), yes, no")
      ->check(CLI::IsMember({"auto", "yes", "no"}));
  app.add_option("--haystack", o.haystack, "RULER: files of running text, instead of the built-in one");
  app.add_option("--templates", o.templates, "RULER: a directory with the published sentences; without it ours are used, and results are \"ruler-like\"");
  app.add_option("--words-adj", o.adjectives, "RULER: a file of adjectives, instead of the built-in ones");
  app.add_option("--words-noun", o.nouns, "RULER: the same of nouns");
  app.add_option("--words-verb", o.verbs, "RULER: the same of verbs");
  app.add_option("--squad", o.squad, "RULER: dev-v2.0.json of SQuAD, for qa_squad");
  app.add_option("--hotpot", o.hotpot, "RULER: HotpotQA's development set (distractor), for qa_hotpot");
  app.add_option("--seed", o.seed, "RULER: of the samples (0)")->check(CLI::Range(int64_t(0), int64_t(1) << 62));
  app.add_flag("--compat", o.compat, "RULER: count lengths as the published program does, oddities and all");
}

int eval_tasks(const TaskOptions& o, const Common& common) {
  const std::vector<std::string> tasks = named_tasks(o);
  // Everything is read and fitted first: a fault in the last task must not cost the work on the others.
  std::map<std::string, TaskDocuments> documents;
  bool ruler = false;
  for (const std::string& task : tasks) {
    ruler = ruler || is_ruler_task(task);
    if (is_ruler_task(task)) continue;
    check(!o.data.empty(), Exit::usage, "eval: --tasks {} wants --data DIR, the directory that holds {}.jsonl", task, task);
    documents[task] = read_task(*find_zero_shot_task(task), o.data, o.limit);
  }
  RulerEvaluation ruler_how{.lengths = o.lengths, .samples = o.limit ? o.limit : 500, .batch = o.batch ? o.batch : 8, .seed = uint64_t(o.seed),
      .compat = o.compat, .tokens = {}};
  if (ruler_how.lengths.empty()) ruler_how.lengths = {1024, 2048, 4096};
  for (const int64_t length : ruler_how.lengths)
    check(std::ranges::count(ruler_how.lengths, length) == 1, Exit::usage, "eval: --length {} is given twice", length);
  std::optional<RulerMaterials> materials;
  if (ruler) materials = materials_of(o, std::ranges::max(ruler_how.lengths));

  Device& device = open_device(o.device);
  const Trained trained = load_trained(o.path, device);
  check(trained.config.data.task == "text", Exit::bad_config, "eval: tasks want a model of text; {} was trained on {}", o.path, trained.config.data.task);
  const auto tokenizer = tokenizer_of(trained.config, trained.checkpoint);
  const Coder coder = coder_of(*tokenizer, o.bos);
  ruler_how.tokens = [&](std::string_view text) { return int64_t(coder.text(text).size()); };
  std::map<std::string, std::vector<std::unique_ptr<RulerTask>>> fitted;
  for (const std::string& task : tasks)
    if (is_ruler_task(task)) fitted[task] = fit_ruler(task, *materials, ruler_how);
  const Writer writer = [&](const std::vector<std::string>& prompts, int64_t tokens) {
    std::vector<std::vector<int32_t>> ids;
    for (const std::string& p : prompts) ids.push_back(coder.text(p));
    std::vector<std::string> written;
    const Continue how{.tokens = tokens, .stop = tokenizer->eod(), .vocab = tokenizer->vocab()};
    for (const auto& w : write_on(*trained.model, ids, how)) written.push_back(tokenizer->decode(w));
    return written;
  };

  const EvalOutput output(trained.checkpoint.path, o.path, o.output);
  check(output.kept() || !(o.samples || o.resume), Exit::usage, "eval: {} wants --output DIR: {} has no run whose directory could keep results",
        o.samples ? "--samples" : "--resume", o.path);
  ModelPredictor predictor(*trained.model);
  ZeroShotOptions options{.score = {.max_length = o.max_length, .batch = o.batch ? o.batch : 16,
                                    .softmax = o.softmax == "fp32" ? Softmax::fp32 : Softmax::bf16_emulate},
                          .bootstrap = o.bootstrap};
  Results results({.model = o.path,
                   .checkpoint = trained.checkpoint.path.string(),
                   .weights = trained.checkpoint.weights,
                   .dtype = name(trained.model->dtype),
                   .device = device.name(),
                   .softmax = o.softmax,
                   .tokenizer = tokenizer->identity(),
                   .bos = o.bos,
                   .data = o.data,
                   .step = trained.checkpoint.step,
                   .parameters = trained.model->parameter_count(),
                   .batch = o.batch,
                   .max_length = o.max_length,
                   .limit = o.limit,
                   .bootstrap = o.bootstrap},
                  output, o.samples, o.resume);
  if (!common.json) fmt::print("{}", Results::head()), std::fflush(stdout);
  for (const std::string& task : tasks) {
    const TaskResult* found = results.find(task);
    const std::optional<TaskResult> before = found ? std::optional(*found) : std::nullopt;  // the file's may change on the way
    if (before && (is_ruler_task(task) ? is_finished(*before, fitted[task], *materials, ruler_how) : is_finished(*before, documents[task]))) {
      fmt::print(stderr, "{}: in {} already\n", task, results.file().string());
    } else {
      Ticker ticker(task);
      const auto progress = [&](int64_t done, int64_t all) { ticker(done, all); };
      if (is_ruler_task(task)) {
        ruler_how.progress = progress;
        ruler_how.finished = [&](const TaskResult& so_far) { results.add(so_far); };
        const bool same = before && is_same(*before, fitted[task], *materials, ruler_how);
        evaluate_ruler(writer, task, fitted[task], *materials, ruler_how, same ? &*before : nullptr);
      } else {
        options.score.progress = progress;
        results.add(evaluate_zero_shot(predictor, coder, *find_zero_shot_task(task), documents[task], options));
      }
    }
    if (!common.json) fmt::print("{}", results.rows(task)), std::fflush(stdout);
  }
  bool like = false;
  for (const auto& [task, lengths] : fitted) like = like || !lengths[0]->published();
  if (like && !common.json) fmt::print("ruler-like: with this project's sentences; --templates brings the published ones\n");
  if (common.json) fmt::print("{}\n", results.json());
  else if (!o.output.empty()) fmt::print("{}\n", results.file().string());
  results.say();
  return 0;
}

}  // namespace taper
