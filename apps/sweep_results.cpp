// Sweep results: metrics to scores, scores to a table.
#include "apps/sweep_results.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/run.h"
#include "tensor/error.h"

namespace taper {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

Path end_file(const Sweep& sweep, const SweepRun& run) { return sweep.dir / (run.name + ".json"); }

SweepEval read_eval(const Json& line) {
  SweepEval e;
  e.step = line.at("step");
  const Json& eval = line.at("eval");
  if (eval.is_array()) {
    for (const Json& test : eval) {
      e.tests.push_back(fmt::format("{}/{}", test.at("length").get<int64_t>(), test.at("pairs").get<int64_t>()));
      e.values.push_back(test.at("accuracy").is_number() ? test.at("accuracy").get<double>() : 0);
      e.score += e.values.back() / double(eval.size());
    }
  } else {
    e.tests = {"loss"};
    e.values = {eval.at("loss").is_number() ? eval.at("loss").get<double>() : INFINITY};
    e.score = -e.values[0];
  }
  return e;
}

bool is_seed(const std::string& key) { return key.ends_with(".seed"); }

const char* name_of(SweepOutcome::State s) {
  switch (s) {
    case SweepOutcome::State::waiting: return "waiting";
    case SweepOutcome::State::begun: return "begun";
    case SweepOutcome::State::done: return "done";
    case SweepOutcome::State::diverged: return "diverged";
  }
  return "";
}

// Of one model: the runs that differ in their seeds only.
struct Row {
  std::string model, values;
  int64_t runs = 0, parameters = 0;
  std::vector<const SweepOutcome*> measured = {};  // those with an evaluation
  std::string unmeasured = {};                     // the others' states
  double score = -INFINITY;
  double mean(auto&& of) const {
    double sum = 0;
    for (const SweepOutcome* o : measured) sum += of(*o);
    return sum / double(measured.size());
  }
};

// The best row of each model, in the order of the models.
std::vector<Row> best_rows(const Sweep& sweep, const std::vector<SweepOutcome>& outcomes) {
  std::vector<Row> rows;
  for (size_t i = 0; i < sweep.runs.size(); ++i) {
    const SweepRun& run = sweep.runs[i];
    std::string values;
    for (const auto& [key, value] : run.values)
      if (!is_seed(key)) values += fmt::format("{}{}={}", values.empty() ? "" : " ", key.substr(key.rfind('.') + 1), value);
    auto row = std::ranges::find_if(rows, [&](const Row& r) { return r.model == run.model && r.values == values; });
    if (row == rows.end()) row = rows.insert(rows.end(), Row{.model = run.model, .values = values});
    row->runs++;
    row->parameters = std::max(row->parameters, outcomes[i].parameters);
    if (outcomes[i].best()) row->measured.push_back(&outcomes[i]);
    else row->unmeasured += fmt::format("{}{}", row->unmeasured.empty() ? "" : ", ", name_of(outcomes[i].state));
  }
  std::vector<Row> best;
  for (Row& r : rows) {
    if (!r.measured.empty()) r.score = r.mean([](const SweepOutcome& o) { return o.best()->score; });
    const auto other = std::ranges::find(best, r.model, &Row::model);
    if (other == best.end()) best.push_back(r);
    else if (r.score > other->score) *other = r;
  }
  return best;
}

Json eval_json(const SweepEval& e) {
  Json tests = Json::object();
  for (size_t i = 0; i < e.tests.size(); ++i) tests[e.tests[i]] = e.values[i];
  return {{"step", e.step}, {"score", e.score}, {"tests", tests}};
}

}  // namespace

const SweepEval* SweepOutcome::best() const {
  const auto best = std::ranges::max_element(evals, {}, &SweepEval::score);  // the earliest of equals
  return best == evals.end() ? nullptr : &*best;
}

SweepOutcome read_outcome(const Sweep& sweep, const SweepRun& run) {
  SweepOutcome o;
  std::error_code error;
  if (fs::exists(end_file(sweep, run), error)) {
    const std::string who = end_file(sweep, run).string();
    std::string config;
    try {
      const Json end = Json::parse(read_file(end_file(sweep, run)));
      o.state = end.at("state") == "done" ? SweepOutcome::State::done : SweepOutcome::State::diverged;
      o.parameters = end.at("parameters");
      o.seconds = end.at("seconds");
      config = end.at("config");
    } catch (const Json::exception& e) {
      fail(Exit::bad_data, "{}: must be what a sweep wrote when the run ended; {}; remove it, and the run is looked at again", who, e.what());
    }
    for (const Difference& d : differences(parse_config(config, who), run.config))
      check(may_change(d.key), Exit::bad_config, "sweep: run {} ended with {} = {}, which is now {}; name another sweep.dir, or remove {} and the run",
            run.name, d.key, d.before, d.after, who);
  }
  const Path metrics = sweep.dir / run.name / "metrics.jsonl";
  if (!fs::exists(metrics, error)) return o;
  if (o.state == SweepOutcome::State::waiting) o.state = SweepOutcome::State::begun;
  std::istringstream lines(read_file(metrics));
  std::string line;
  for (int64_t n = 1; std::getline(lines, line); ++n) {
    if (lines.eof()) break;  // a line that is being written
    try {
      const Json json = Json::parse(line);
      o.step = std::max<int64_t>(o.step, json.at("step"));
      if (json.contains("eval")) o.evals.push_back(read_eval(json));
    } catch (const Json::exception& e) {
      fail(Exit::bad_data, "{}:{}: must be a line of metrics; {}", metrics.string(), n, e.what());
    }
  }
  return o;
}

void record_end(const Sweep& sweep, const SweepRun& run, bool diverged, int64_t parameters, double seconds) {
  write_file(end_file(sweep, run), Json{{"state", diverged ? "diverged" : "done"}, {"parameters", parameters}, {"seconds", seconds},
                                        {"config", write_config(run.config)}}.dump(2) + "\n");
}

std::string sweep_json(const Sweep& sweep, const std::vector<SweepOutcome>& outcomes) {
  Json runs = Json::array(), models = Json::array();
  for (size_t i = 0; i < sweep.runs.size(); ++i) {
    const SweepRun& run = sweep.runs[i];
    const SweepOutcome& o = outcomes[i];
    Json values = Json::object();
    for (const auto& [key, value] : run.values) values[key] = value;
    runs.push_back({{"name", run.name}, {"model", run.model}, {"config", run.path}, {"set", run.set}, {"values", values}, {"state", name_of(o.state)},
                    {"steps", run.config.train.steps}, {"step", o.step}, {"parameters", o.parameters}, {"seconds", o.seconds}});
    runs.back()["best"] = o.best() ? eval_json(*o.best()) : Json();
    runs.back()["last"] = o.evals.empty() ? Json() : eval_json(o.evals.back());
  }
  for (const Row& r : best_rows(sweep, outcomes)) {
    models.push_back({{"model", r.model}, {"values", r.values}, {"seeds", r.measured.size()}, {"parameters", r.parameters}});
    if (r.measured.empty()) continue;
    models.back()["score"] = r.score;
    Json tests = Json::object();
    for (size_t t = 0; t < r.measured[0]->best()->tests.size(); ++t)
      tests[r.measured[0]->best()->tests[t]] = r.mean([&](const SweepOutcome& o) { return o.best()->values[t]; });
    models.back()["tests"] = tests;
  }
  return Json{{"models", models}, {"runs", runs}}.dump(2) + "\n";
}

std::string sweep_table(const Sweep& sweep, const std::vector<SweepOutcome>& outcomes) {
  const std::vector<Row> rows = best_rows(sweep, outcomes);
  std::vector<std::string> tests;
  for (const Row& r : rows)
    if (tests.empty() && !r.measured.empty()) tests = r.measured[0]->best()->tests;
  const bool text = tests == std::vector<std::string>{"loss"};
  const auto number = [&](double x) { return text ? fmt::format("{:.4f}", x) : fmt::format("{:.1f}", 100 * x); };

  std::string table = "| model | values | seeds | step | ";
  if (text) table += "loss | last |\n|---|---|---|---|---|---|\n";
  else table += fmt::format("mean, % | last, % |{}\n|---|---|---|---|---|---|", tests.empty() ? "" : fmt::format(" {} |", fmt::join(tests, " | ")));
  for (size_t t = 0; !text && t < tests.size(); ++t) table += "---|";
  if (!text) table += "\n";
  for (const Row& r : rows) {
    table += fmt::format("| {} | {} | {}/{} |", r.model, r.values.empty() ? "-" : r.values, r.measured.size(), r.runs);
    if (r.measured.empty()) {
      table += fmt::format(" {} | | |", r.unmeasured);
      for (size_t t = 0; !text && t < tests.size(); ++t) table += " |";
      table += "\n";
      continue;
    }
    std::vector<std::string> steps;
    for (const SweepOutcome* o : r.measured) steps.push_back(fmt::format("{}", o->best()->step));
    const double last = r.mean([](const SweepOutcome& o) { return o.evals.back().score; });
    table += fmt::format(" {} | {} | {} |", fmt::join(steps, ", "), number(text ? -r.score : r.score), number(text ? -last : last));
    for (size_t t = 0; !text && t < tests.size(); ++t)
      table += fmt::format(" {} |", number(r.mean([&](const SweepOutcome& o) { return o.best()->values[t]; })));
    table += "\n";
  }
  return table;
}

}  // namespace taper
