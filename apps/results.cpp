// Results: the harness's keys.
#include "apps/results.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/version.h"
#include "tensor/error.h"

namespace taper {
namespace {

using Json = nlohmann::ordered_json;

// What two evaluations must have in common for one to go on with the other's results.
Json settings(const EvaluationFacts& f) {
  return {{"model_args", "checkpoint=" + f.checkpoint},
          {"model_xxh3", f.weights},
          {"model_num_parameters", f.parameters},
          {"model_dtype", f.dtype},
          {"step", f.step},
          {"tokenizer", f.tokenizer},
          {"bos", f.bos},
          {"data", f.data},
          {"softmax", f.softmax},
          {"max_length", f.max_length},
          {"limit", f.limit ? Json(f.limit) : Json(nullptr)},
          {"bootstrap_iters", f.bootstrap}};
}

Json error_json(const Metric& m) { return m.error && std::isfinite(*m.error) ? Json(*m.error) : Json("N/A"); }

std::string samples_name(const std::string& task, const std::string& date) { return "samples_" + task + "_" + date + ".jsonl"; }
std::string date_of(const Path& results) { return results.stem().string().substr(std::string("results_").size()); }

// The answers beside a results file; false: they were not kept.
bool read_samples(TaskResult& r, const Path& file) {
  const Path lines = file.parent_path() / samples_name(r.task, date_of(file));
  std::error_code error;
  if (!std::filesystem::exists(lines, error)) return false;
  const std::string text = read_file(lines);
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != text.npos; begin = end + 1) r.samples.push_back(text.substr(begin, end - begin));
  return true;
}

}  // namespace

Results::Results(EvaluationFacts facts, EvalOutput output, bool samples, bool resume_newest)
    : facts_(std::move(facts)), output_(std::move(output)), samples_(samples), begin_(seconds_now()) {
  date_ = file_time(begin_);
  name_ = "results_" + date_ + ".json";
  if (!resume_newest || !output_.kept()) return;
  std::error_code error;
  std::vector<Path> files;  // their names end in their times
  for (const auto& entry : std::filesystem::directory_iterator(output_.directory(), error))
    if (entry.path().filename().string().starts_with("results_") && entry.path().extension() == ".json") files.push_back(entry.path());
  std::ranges::sort(files, std::greater<>());
  for (const Path& file : files)
    if (resume(file)) return;
}

bool Results::resume(const Path& file) {
  const Json j = Json::parse(read_file(file), nullptr, false);
  if (j.is_discarded() || !j.is_object() || !j.contains("config") || !j["config"].is_object()) return false;
  const Json wanted = settings(facts_);
  for (const auto& [key, value] : wanted.items())
    if (!j["config"].contains(key) || j["config"][key] != value) return false;
  std::vector<TaskResult> results;
  try {
    for (const auto& [task, values] : j.at("results").items()) {
      const Json& config = j.at("configs").at(task);
      TaskResult r{.task = task, .kind = config.at("output_type").get<std::string>(), .version = j.at("versions").at(task).get<double>(), .metrics = {},
                   .all = j.at("n-samples").at(task).at("original").get<int64_t>(), .used = j.at("n-samples").at(task).at("effective").get<int64_t>()};
      for (const auto& [name, better] : j.at("higher_is_better").at(task).items()) {
        const Json &value = values.at(name + ",none"), &error = values.at(name + "_stderr,none");
        r.metrics.push_back({.name = name, .value = value.is_null() ? NAN : value.get<double>(), .error = {}, .higher_is_better = better.get<bool>()});
        if (error.is_number()) r.metrics.back().error = error.get<double>();
      }
      for (const auto& [key, value] : config.items())
        if (key != "task" && key != "output_type" && key != "num_fewshot" && key != "metadata") r.notes.push_back({key, value.dump()});
      r.hash = j.at("task_hashes").at(task).get<std::string>();
      if (samples_ && !read_samples(r, file)) continue;
      results.push_back(std::move(r));
    }
  } catch (const Json::exception&) {
    return false;  // not written by this program
  }
  results_ = std::move(results);
  name_ = file.filename().string();
  date_ = date_of(file);
  return true;
}

const TaskResult* Results::find(const std::string& task) const {
  const auto found = std::ranges::find(results_, task, &TaskResult::task);
  return found == results_.end() ? nullptr : &*found;
}

void Results::add(TaskResult result) {
  if (samples_) {
    std::string lines;
    for (const std::string& s : result.samples) lines += s + "\n";
    output_.write(samples_name(result.task, date_), lines);
  }
  result.samples.clear();
  const auto before = std::ranges::find(results_, result.task, &TaskResult::task);
  if (before == results_.end()) results_.push_back(std::move(result));
  else *before = std::move(result);
  output_.write(name_, json() + "\n");
}

std::string Results::json() const {
  Json results = Json::object(), groups = Json::object(), configs = Json::object(), versions = Json::object(), shots = Json::object();
  Json better = Json::object(), counts = Json::object(), hashes = Json::object();
  for (const TaskResult& r : results_) {
    Json one{{"alias", r.task}};
    for (const Metric& m : r.metrics) {
      one[m.name + ",none"] = m.value;
      one[m.name + "_stderr,none"] = error_json(m);
      better[r.task][m.name] = m.higher_is_better;
    }
    results[r.task] = one;
    groups[r.task] = Json::array();
    configs[r.task] = {{"task", r.task}, {"output_type", r.kind}, {"num_fewshot", 0}, {"metadata", {{"version", r.version}}}};
    for (const auto& [key, value] : r.notes) configs[r.task][key] = Json::parse(value);
    versions[r.task] = r.version;
    shots[r.task] = 0;
    counts[r.task] = {{"original", r.all}, {"effective", r.used}};
    hashes[r.task] = r.hash;
  }
  const double end = seconds_now();
  const EvaluationFacts& f = facts_;
  Json config{{"model", "taper"}};
  config.update(settings(f));
  config.update({{"batch_size", f.batch}, {"batch_sizes", Json::array()}, {"device", f.device}, {"use_cache", nullptr}, {"gen_kwargs", nullptr}});
  return Json{{"results", results},
              {"group_subtasks", groups},
              {"configs", configs},
              {"versions", versions},
              {"n-shot", shots},
              {"higher_is_better", better},
              {"n-samples", counts},
              {"config", config},
              {"git_hash", nullptr},
              {"taper_version", version},
              {"date", begin_},
              {"max_length", f.max_length},
              {"task_hashes", hashes},
              {"model_source", "taper"},
              {"model_name", f.model},
              {"model_name_sanitized", sanitized(f.model)},
              {"start_time", begin_},
              {"end_time", end},
              {"total_evaluation_time_seconds", fmt::format("{:.3f}", end - begin_)}}
      .dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string Results::head() { return fmt::format("{:<22} {:>7}  {:<16} {:>12}    {}\n", "task", "n", "metric", "value", "stderr"); }

std::string Results::rows(const std::string& task) const {
  const TaskResult* found = find(task);
  check(found != nullptr, "results: no task '{}'", task);
  const TaskResult& r = *found;
  std::string text;
  for (const Metric& m : r.metrics) {
    const bool first = &m == &r.metrics.front();
    const std::string error = m.error && std::isfinite(*m.error) ? fmt::format("{:.4f}", *m.error) : "N/A";
    text += fmt::format("{:<22} {:>7}  {:<16} {:>12.4f}    {}\n", first ? r.task : "", first ? std::to_string(r.used) : "", m.name, m.value, error);
  }
  return text;
}

}  // namespace taper
