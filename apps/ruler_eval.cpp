// RULER evaluation: batch by batch, so that few prompts are held at a time.
#include "apps/ruler_eval.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "apps/json_text.h"
#include "data/sha256.h"
#include "data/tasks/metrics.h"
#include "data/tasks/python_text.h"
#include "tensor/error.h"

namespace taper {

using Json = nlohmann::ordered_json;

namespace {

// Into a task's configs: what its samples follow from.
std::vector<std::pair<std::string, std::string>> notes_of(const std::string& task, const RulerTask& t, const RulerMaterials& materials,
                                                          const RulerEvaluation& how) {
  const bool qa = task.starts_with("qa_");
  Json given = Json::object();  // of what the user brought, that which this task may read
  for (const auto& [what, digest] : materials.given)
    if (what == "templates" || qa == (what == "squad" || what == "hotpot")) given[what] = digest;
  if (qa) given.erase(task == "qa_squad" ? "hotpot" : "squad");
  return {{"templates", t.published() ? "\"ruler\"" : "\"ruler-like\""},
          {"haystack", json_text(Json(materials.haystack.name()))},
          {"seed", std::to_string(how.seed)},
          {"compat", how.compat ? "true" : "false"},
          {"given", given.dump()}};
}

bool holds(const TaskResult& before, int64_t length) {
  return std::ranges::find(before.metrics, std::to_string(length), &Metric::name) != before.metrics.end();
}

// What a sample is told by, whatever is written to it.
struct Digests {
  std::string target, doc, prompt, wanted;
  explicit Digests(const RulerSample& s)
      : target(python::repr(s.answers)), doc(sha256(Json{{"input", s.prompt}, {"outputs", s.answers}}.dump(2, ' ', false, Json::error_handler_t::replace))),
        prompt(sha256(s.input())), wanted(sha256(target)) {}
  std::string all() const { return doc + prompt + wanted; }
};

// An earlier result's metrics, sample lines and facts of a length go into this one.
void take_over(const TaskResult& before, const std::string& length, TaskResult& result, Json& lengths) {
  for (const Metric& m : before.metrics)
    if (m.name == length || m.name == length + "_any") result.metrics.push_back(m);
  for (const std::string& line : before.samples)
    if (Json::parse(line).at("metrics").at(0) == length) result.samples.push_back(line);
  for (const auto& [key, text] : before.notes)
    if (key == "lengths") lengths[length] = Json::parse(text).at(length);
}

}  // namespace

bool is_finished(const TaskResult& before, const std::vector<std::unique_ptr<RulerTask>>& fitted, const RulerMaterials& materials, const RulerEvaluation& how) {
  return std::ranges::all_of(how.lengths, [&](int64_t length) { return holds(before, length); }) && is_same(before, fitted, materials, how);
}

bool is_same(const TaskResult& before, const std::vector<std::unique_ptr<RulerTask>>& fitted, const RulerMaterials& materials, const RulerEvaluation& how) {
  for (const auto& note : notes_of(before.task, *fitted.at(0), materials, how))
    if (std::ranges::find(before.notes, note) == before.notes.end()) return false;
  return true;
}

std::vector<std::unique_ptr<RulerTask>> fit_ruler(const std::string& task, const RulerMaterials& materials, const RulerEvaluation& how) {
  std::vector<std::unique_ptr<RulerTask>> fitted;
  for (const int64_t length : how.lengths)
    fitted.push_back(make_ruler_task(task, materials, {.length = length, .seed = how.seed, .compat = how.compat, .tokens = how.tokens}));
  return fitted;
}

TaskResult evaluate_ruler(const Writer& writer, const std::string& task, const std::vector<std::unique_ptr<RulerTask>>& tasks, const RulerMaterials& materials,
                          const RulerEvaluation& how, const TaskResult* before) {
  TaskResult result{.task = task, .kind = "generate_until", .metrics = {}};
  const bool qa = task.starts_with("qa_");
  std::string hashes;
  Json lengths = Json::object();
  for (size_t i = 0; i < tasks.size(); ++i) {
    const RulerTask& t = *tasks[i];
    const int64_t count = std::min(how.samples, t.samples()), length = how.lengths[i];
    const std::string name = std::to_string(length);
    result.all += count, result.used += count;
    const bool known = before && holds(*before, length);
    if (known) {
      take_over(*before, name, result, lengths);
      for (int64_t k = 0; k < count; ++k) hashes += Digests(t.sample(uint64_t(k))).all();
    } else {
      std::vector<double> scores, any;
      Sum tokens;
      int64_t longest = 0;
      for (int64_t begin = 0; begin < count; begin += how.batch) {
        std::vector<RulerSample> samples;
        std::vector<std::string> prompts;
        for (int64_t k = begin; k < std::min(count, begin + how.batch); ++k)
          samples.push_back(t.sample(uint64_t(k))), prompts.push_back(samples.back().input());
        const std::vector<std::string> written = writer(prompts, t.new_tokens());
        check(written.size() == prompts.size(), "ruler: wants {} continuations; got {}", prompts.size(), written.size());
        for (size_t k = 0; k < samples.size(); ++k) {
          const RulerSample& s = samples[k];
          const int64_t n = how.tokens(prompts[k]);
          tokens.add(double(n));
          longest = std::max(longest, n);
          scores.push_back(ruler_score(written[k], s.answers));
          any.push_back(scores.back() > 0);
          const Digests told(s);
          hashes += told.all();
          Json line{{"doc_id", begin + int64_t(k)},
                    {"doc", {{"index", begin + int64_t(k)}, {"input", s.prompt}, {"outputs", s.answers}, {"length", n}, {"max_length", length}, {"gen_prefix",
                        s.prefix}}},
                    {"target", told.target},
                    {"arguments", {{"gen_args_0", {{"arg_0", prompts[k]}, {"arg_1", {{"do_sample", false}, {"max_gen_toks", t.new_tokens()}}}}}}},
                    {"resps", Json::array({Json::array({written[k]})})},
                    {"filtered_resps", Json::array({written[k]})},
                    {"filter", "none"},
                    {"metrics", Json::array({name})},
                    {"doc_hash", told.doc},
                    {"prompt_hash", told.prompt},
                    {"target_hash", told.wanted},
                    {name, scores.back()}};
          result.samples.push_back(line.dump(-1, ' ', false, Json::error_handler_t::replace));
        }
        if (how.progress) how.progress(begin + int64_t(samples.size()), count);
      }
      result.metrics.push_back({.name = name, .value = mean(scores), .error = mean_error(scores)});
      if (qa) result.metrics.push_back({.name = name + "_any", .value = mean(any), .error = mean_error(any)});
      lengths[name] = {{"samples", count}, {"size", t.size()}, {"mean_prompt_tokens", tokens.value() / double(count)}, {"longest_prompt_tokens", longest},
          {"max_gen_toks", t.new_tokens()}};
    }
    result.hash = sha256(hashes);
    result.notes = notes_of(task, t, materials, how);
    result.notes.push_back({"lengths", lengths.dump()});
    if (how.finished && (!known || i + 1 == tasks.size())) how.finished(result);
  }
  return result;
}

}  // namespace taper
