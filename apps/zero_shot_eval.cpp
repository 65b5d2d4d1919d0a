// Zero-shot evaluation: requests out, scores back, sums in the order of the documents.
#include "apps/zero_shot_eval.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>

#include "data/sha256.h"
#include "data/tasks/metrics.h"
#include "tensor/error.h"

namespace taper {
namespace {

using Json = nlohmann::ordered_json;

// One document's line for the samples file. `target`: what the harness calls so. Extends the task's hash.
Json sample(size_t id, const TaskDocument& d, const std::string& target, const std::vector<Choice>& asked, const std::vector<Score>& scores, bool greedy,
            const Json& metrics, std::string& hashes) {
  Json arguments = Json::object(), responses = Json::array(), filtered = Json::array(), names = Json::array();
  for (size_t i = 0; i < asked.size(); ++i) {
    arguments["gen_args_" + std::to_string(i)] = {{"arg_0", asked[i].context}, {"arg_1", asked[i].continuation}};
    const Json response = Json::array({fmt::format("{}", scores[i].log_probability), greedy && scores[i].greedy ? "True" : "False"});
    responses.push_back(Json::array({response}));
    filtered.push_back(response);
  }
  for (const auto& [name, value] : metrics.items()) names.push_back(name);
  const std::string doc = sha256(d.record), prompt = sha256(asked.empty() ? d.text : asked[0].context), wanted = sha256(target);
  hashes += doc + prompt + wanted;
  Json s{{"doc_id", id},       {"doc", Json::parse(d.record)}, {"target", target},  {"arguments", arguments}, {"resps", responses},      {"filtered_resps",
      filtered},
         {"filter", "none"},   {"metrics", names},             {"doc_hash", doc},   {"prompt_hash", prompt},  {"target_hash", wanted}};
  s.update(metrics);
  return s;
}

size_t first_largest(const std::vector<double>& values) {
  size_t best = 0;
  for (size_t i = 1; i < values.size(); ++i)
    if (values[i] > values[best]) best = i;
  return best;
}

// What the documents are: as they were read, what is scored and what is right.
std::pair<std::string, std::string> note_of(const TaskDocuments& documents) {
  std::string all;
  for (const TaskDocument& d : documents.documents) all += fmt::format("{}\n{}\n{}\n", d.record, d.text, d.gold);
  return {"documents_sha256", '"' + sha256(all) + '"'};
}

Metric share(const char* name, const std::vector<double>& right) { return {.name = name, .value = mean(right), .error = mean_error(right)}; }

}  // namespace

bool is_finished(const TaskResult& before, const TaskDocuments& documents) { return std::ranges::find(before.notes, note_of(documents)) != before.notes.end(); }

TaskResult evaluate_zero_shot(Predictor& model, const Coder& coder, const ZeroShotTask& task, const TaskDocuments& documents, const ZeroShotOptions& o) {
  const char* kind = task.kind == TaskKind::text ? "loglikelihood_rolling" : task.kind == TaskKind::last_word ? "loglikelihood" : "multiple_choice";
  TaskResult result{.task = task.name, .kind = kind,
                    .version = task.version, .metrics = {}, .all = documents.all, .used = int64_t(documents.documents.size())};
  result.notes.push_back(note_of(documents));
  std::string hashes;
  const auto keep = [&](const Json& s) { result.samples.push_back(s.dump(-1, ' ', false, Json::error_handler_t::replace)); };

  if (task.kind == TaskKind::text) {
    std::vector<std::string> texts;
    for (const TaskDocument& d : documents.documents) texts.push_back(d.text);
    const std::vector<Score> scores = score_texts(model, coder, texts, o.score);
    Sum total;
    int64_t words = 0, bytes = 0, tokens = 0;
    for (size_t i = 0; i < scores.size(); ++i) {
      const TaskDocument& d = documents.documents[i];
      total.add(scores[i].log_probability);
      words += d.words, bytes += d.bytes, tokens += scores[i].tokens;
      Json s = sample(i, d, d.text, {}, {}, false, {{"loglikelihood", scores[i].log_probability}, {"words", d.words}, {"bytes", d.bytes}, {"tokens",
          scores[i].tokens}}, hashes);
      keep(s);
    }
    check(bytes > 0 && tokens > 0, Exit::bad_data, "{}: the texts are empty", task.name);
    const double ll = total.value();
    for (const auto& [name, per] : {std::pair{"word_perplexity", words}, {"byte_perplexity", bytes}, {"token_perplexity", tokens}})
      result.metrics.push_back({.name = name, .value = std::exp(-(ll / double(per))), .higher_is_better = false});
    result.metrics.push_back({.name = "bits_per_byte", .value = -(ll / double(bytes)) / std::numbers::ln2, .higher_is_better = false});
    result.notes.push_back({"max_length", Json(o.score.max_length).dump()});
    result.hash = sha256(hashes);
    return result;
  }

  std::vector<Request> requests;
  for (const TaskDocument& d : documents.documents)
    for (const Choice& c : d.choices) requests.push_back({c.context, c.continuation, d.where});
  const std::vector<Score> scores = score_continuations(model, coder, requests, o.score);
  std::vector<double> right, right_normed, log_likelihoods;
  size_t at = 0;
  for (size_t i = 0; i < documents.documents.size(); ++i) {
    const TaskDocument& d = documents.documents[i];
    const std::vector<Score> own(scores.begin() + int64_t(at), scores.begin() + int64_t(at + d.choices.size()));
    at += d.choices.size();
    if (task.kind == TaskKind::last_word) {
      right.push_back(own[0].greedy), log_likelihoods.push_back(own[0].log_probability);
      keep(sample(i, d, d.choices[0].continuation, d.choices, own, true, {{"perplexity", own[0].log_probability}, {"acc", right.back()}}, hashes));
      continue;
    }
    std::vector<double> plain, normed;
    for (size_t k = 0; k < own.size(); ++k) {
      plain.push_back(own[k].log_probability);
      normed.push_back(d.choices[k].length ? own[k].log_probability / double(d.choices[k].length) : -std::numeric_limits<double>::infinity());
    }
    right.push_back(int64_t(first_largest(plain)) == d.gold);
    right_normed.push_back(int64_t(first_largest(normed)) == d.gold);
    Json metrics{{"acc", right.back()}};
    if (task.normed) metrics["acc_norm"] = right_normed.back();
    keep(sample(i, d, task.name == "winogrande" ? d.choices[0].continuation.substr(1) : std::to_string(d.gold), d.choices, own, true, metrics, hashes));
  }
  if (task.kind == TaskKind::last_word) {
    result.metrics.push_back({.name = "perplexity", .value = perplexity(log_likelihoods),
                              .error = o.bootstrap ? perplexity_error_bootstrap(log_likelihoods, o.bootstrap) : perplexity_error_delta(log_likelihoods),
                              .higher_is_better = false});
    result.notes.push_back({"perplexity_stderr", o.bootstrap ? "\"bootstrap\"" : "\"delta method\""});
  }
  result.metrics.push_back(share("acc", right));
  if (task.normed) result.metrics.push_back(share("acc_norm", right_normed));
  result.hash = sha256(hashes);
  return result;
}

}  // namespace taper
