// History: the files that evaluations left.
#include <algorithm>

#include "apps/history_json.h"
#include "tensor/error.h"

namespace taper::history {

namespace fs = std::filesystem;

namespace {

// results*.json, in the harness's form.
void take_results(History& run, const Json& all) {
  const auto part = [&](const char* section, const std::string& task) {
    return all.contains(section) && all[section].is_object() ? all[section].value(task, Json()) : Json();
  };
  std::vector<History::Score> found;
  for (const auto& [task, values] : all.at("results").items())
    for (const auto& [key, value] : values.items()) {
      const size_t comma = key.find(',');
      if (comma == key.npos || !value.is_number() || key.substr(0, comma).ends_with("_stderr")) continue;
      History::Score s{.task = task, .metric = key.substr(0, comma), .filter = key.substr(comma + 1), .value = value.get<double>(), .higher_is_better = {}};
      s.error = number_or_nan(values, (s.metric + "_stderr," + s.filter).c_str());
      if (const Json n = part("n-shot", task); n.is_number_integer()) s.shots = n.get<int>();
      if (const Json n = part("n-samples", task); n.is_object() && n.contains("effective") && n["effective"].is_number_integer())
        s.samples = n["effective"].get<int64_t>();
      if (const Json h = part("higher_is_better", task); h.is_object() && h.contains(s.metric) && h[s.metric].is_boolean())
        s.higher_is_better = h[s.metric].get<bool>();
      if (const Json c = part("configs", task); c.is_object()) s.ruler_like = c.value("templates", Json()) == "ruler-like";
      found.push_back(s);
    }
  std::erase_if(run.scores, [&](const History::Score& old) { return std::ranges::any_of(found, [&](const auto& s) { return s.task == old.task; }); });
  run.scores.insert(run.scores.end(), found.begin(), found.end());
}

// by_position*.json
void take_length_behaviour(History& run, const Json& all) {
  History::LengthBehaviour b{.step = whole(all, "step"), .training_length = whole(all, "training_length"), .length = whole(all, "length"),
                             .targets = whole(all, "targets"), .effective_context = whole(all, "effective_context"),
                             .documents = all.at("documents").get<std::string>(), .buckets = buckets_of(all.at("by_position")), .contexts = {}, .again = {}};
  for (const Json& c : all.at("by_context"))
    b.contexts.push_back({.tokens = whole(c, "context"), .loss = number_or_nan(c, "loss"), .error = number_or_nan(c, "stderr")});
  if (all.contains("by_distance")) {
    b.passage = whole(all, "passage"), b.passages = whole(all, "passages");
    for (const Json& d : all.at("by_distance"))
      b.again.push_back({.distance = whole(d, "distance"), .gain = number_or_nan(d, "gain"), .error = number_or_nan(d, "gain_stderr"),
                         .right = number_or_nan(d, "right")});
  }
  run.length_behaviour = std::move(b);
}

// held_out*.json
void take_held_out(History& run, const Json& all) {
  std::vector<History::HeldOut> found;
  for (const Json& r : all.at("results")) {
    const bool text = !r.contains("pairs");
    found.push_back({.length = whole(r, "length"), .pairs = text ? 0 : whole(r, "pairs"),
                     .examples = whole(r, text ? "tokens" : "examples"), .loss = number_or_nan(r, "loss"), .bits_per_byte = number_or_nan(r, "bits_per_byte"),
                     .accuracy = number_or_nan(r, "accuracy")});
  }
  const std::string data = all.value("data", "");
  for (History::HeldOut& h : found) {
    if (h.pairs == 0 && !(run.config && run.config->data.validation == data)) h.data = data;
    std::erase_if(run.held_out, [&](const auto& old) { return old.length == h.length && old.pairs == h.pairs && old.data == h.data; });
    run.held_out.push_back(h);
  }
}

}  // namespace

std::vector<History::Bucket> buckets_of(const Json& list) {
  std::vector<History::Bucket> all;
  for (const Json& b : list) {
    all.push_back({.begin = whole(b, "begin"), .end = whole(b, "end"), .loss = number_or_nan(b, "loss")});
    if (all.back().begin < 1 || all.back().end <= all.back().begin) throw Json::type_error::create(302, "no positions", &b);
  }
  return all;
}

// What `taper eval` left (apps/eval_output.h), anywhere below the run's directory: the newest file counts. Names end in the time:
// results_2026-01-31T12-00-00.json.
void read_evaluations(History& run) {
  struct Kind {
    const char *prefix, *what;
    void (*take)(History&, const Json&);
  };
  static constexpr Kind kinds[] = {{"results", "a file of results", take_results},
                                   {"by_position", "a file of losses by position", take_length_behaviour},
                                   {"held_out", "a file of held-out losses", take_held_out}};
  std::vector<std::pair<Path, const Kind*>> files;
  std::error_code error;
  for (fs::recursive_directory_iterator i(run.dir, fs::directory_options::skip_permission_denied, error), end; !error && i != end; i.increment(error)) {
    if (i->path().filename() == "checkpoints" || i.depth() > 4) i.disable_recursion_pending();
    const std::string name = i->path().filename().string();
    for (const Kind& kind : kinds)
      if (name.starts_with(kind.prefix) && name.ends_with(".json")) files.emplace_back(i->path(), &kind);
  }
  if (error) run.notes.push_back(fmt::format("evaluations may be missing: the directory was not read to its end: {}", error.message()));
  std::ranges::sort(files, {}, [](const auto& f) { return std::pair(f.first.filename().string(), f.first.string()); });
  for (const auto& [file, kind] : files) {
    const std::string who = file.lexically_relative(run.dir).string();
    try {
      kind->take(run, Json::parse(read_file(file)));
    } catch (const Json::exception&) {
      run.notes.push_back(fmt::format("{}: not {}; left out", who, kind->what));
    } catch (const Error& e) {
      run.notes.push_back(fmt::format("{}: {}", who, e.what()));
    }
  }
}

}  // namespace taper::history
