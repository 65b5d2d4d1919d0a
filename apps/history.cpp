// History: the logs of a run, line by line; its name.
#include "apps/history.h"

#include <algorithm>
#include <cmath>

#include "apps/history_json.h"
#include "nn/model.h"
#include "tensor/error.h"

namespace taper {
namespace {

namespace fs = std::filesystem;
using history::Json, history::nan, history::number_or_nan, history::whole;

// Calls line(number, text) for each line of the file; the last also where it does not end in a newline, then with whole = false.
template <class F>
void each_line(const Path& path, F&& line) {
  const FileReader file(path);
  constexpr size_t block = 1 << 20;
  std::string text, buffer;
  int64_t number = 0;
  for (uint64_t at = 0; at < file.size();) {
    buffer.resize(size_t(std::min<uint64_t>(block, file.size() - at)));
    file.read(at, buffer.data(), buffer.size());
    at += buffer.size();
    text += buffer;
    size_t begin = 0;
    for (size_t end; (end = text.find('\n', begin)) != text.npos; begin = end + 1) line(++number, std::string_view(text).substr(begin, end - begin), true);
    text.erase(0, begin);
  }
  if (!text.empty()) line(++number, text, false);
}

// A log of JSON objects. take(object) throws Json::exception where the object is not what it should be.
template <class F>
void read_log(History& run, const char* name, bool expected, F&& take) {
  const Path path = run.dir / name;
  std::error_code error;
  if (!fs::exists(path, error)) {
    if (expected) run.notes.push_back(fmt::format("{}: is not there yet", name));
    return;
  }
  int64_t first_bad = 0, bad = 0;
  try {
    each_line(path, [&](int64_t number, std::string_view line, bool whole_line) {
      try {
        const Json object = Json::parse(line);
        if (!object.is_object()) throw Json::type_error::create(302, "no object", &object);
        take(object);
      } catch (const Json::exception&) {
        if (!whole_line) {
          run.notes.push_back(fmt::format("{}: the last line is not whole: the run is being written, or was cut off; left out", name));
        } else if (!line.empty()) {
          if (!bad++) first_bad = number;
        }
      }
    });
  } catch (const Error& e) {
    run.notes.push_back(fmt::format("{}: not read to its end: {}", name, e.what()));
  }
  const std::string more = bad > 1 ? fmt::format(" (nor {} {} more)", bad > 2 ? "are" : "is", bad - 1) : "";
  if (bad) run.notes.push_back(fmt::format("{}:{}: not a line of this log{}; left out", name, first_bad, more));
}

// Lines of a step already there are of a time that a resumed run did not count.
template <class T>
void take_back(std::vector<T>& all, int64_t step) {
  while (!all.empty() && all.back().step >= step) all.pop_back();
}

History::Evaluation evaluation_of(int64_t step, const Json& eval) {
  History::Evaluation e{.step = step, .loss = nan, .bits_per_byte = nan, .buckets = {}, .recalls = {}};
  if (eval.is_array()) {
    for (const Json& r : eval)
      e.recalls.push_back({.length = whole(r, "length"), .pairs = whole(r, "pairs"), .loss = number_or_nan(r, "loss"),
                           .accuracy = number_or_nan(r, "accuracy")});
    return e;
  }
  e.loss = number_or_nan(eval, "loss");
  e.bits_per_byte = number_or_nan(eval, "bits_per_byte");
  if (eval.contains("by_position")) e.buckets = history::buckets_of(eval.at("by_position"));
  return e;
}

void read_metrics(History& run) {
  int64_t again = 0, lost = 0;
  read_log(run, "metrics.jsonl", true, [&](const Json& line) {
    const int64_t step = whole(line, "step");
    if (line.contains("eval")) {
      const History::Evaluation e = evaluation_of(step, line.at("eval"));
      take_back(run.evaluations, step);
      run.evaluations.push_back(e);
      return;
    }
    const History::Step s{.step = step, .tokens = whole(line, "tokens"), .loss = number_or_nan(line, "loss"), .norm = number_or_nan(line, "norm"),
                          .lr = number_or_nan(line, "lr")};
    const size_t before = run.steps.size();
    take_back(run.steps, step);
    if (run.steps.size() < before && !again++) lost = step;
    run.steps.push_back(s);
  });
  if (again) run.notes.push_back(fmt::format("metrics.jsonl: goes back to step {}{}; what it says later counts", lost, again > 1 ? ", and again" : ""));
  int64_t bad = 0, first = 0;
  for (const History::Step& s : run.steps)
    if (!std::isfinite(s.loss) || !std::isfinite(s.norm))
      if (!bad++) first = s.step;
  if (bad) run.notes.push_back(fmt::format("loss or gradient was not finite at {} logged step{}, first at step {}", bad, bad > 1 ? "s" : "", first));
}

std::vector<double> numbers(const Json& list) {
  std::vector<double> out;
  for (const Json& n : list) {
    if (!n.is_number() && !n.is_null()) throw Json::type_error::create(302, "no number", &list);
    out.push_back(n.is_number() ? n.get<double>() : nan);
  }
  return out;
}

void read_spectra(History& run) {
  read_log(run, "spectra.jsonl", false, [&](const Json& line) {
    History::Spectrum s{.step = whole(line, "step"), .layers = {}};
    for (const Json& layer : line.at("layers")) {
      s.layers.push_back({.rate = numbers(layer.at("rate")), .time_constant = numbers(layer.at("time_constant")), .alpha = numbers(layer.at("alpha"))});
      const History::Layer& l = s.layers.back();
      if (l.rate.empty() || l.time_constant.size() != l.rate.size() || l.alpha.size() != l.rate.size())
        throw Json::type_error::create(302, "of different lengths", &layer);
    }
    if (s.layers.empty()) throw Json::type_error::create(302, "no layers", &line);
    if (!run.spectra.empty() && run.spectra.back().layers.size() != s.layers.size()) throw Json::type_error::create(302, "other layers", &line);
    take_back(run.spectra, s.step);
    run.spectra.push_back(s);
  });
}

// Seconds count from zero in each process; its first line holds what is done once, and is no speed.
void read_timings(History& run) {
  const double per_step = run.steps.empty() ? nan : double(run.steps.back().tokens) / double(run.steps.back().step);
  double before = 0, offset = 0;   // of this process: seconds at its last line; of all before it
  bool fresh = true;               // the next line is the first of a process
  double counted = 0;              // seconds at the last line that has a speed, so that short steps are measured together
  int64_t counted_step = 0;
  read_log(run, "timings.jsonl", false, [&](const Json& line) {
    const int64_t step = whole(line, "step");
    const double seconds = number_or_nan(line, "seconds");
    if (!(seconds >= 0)) throw Json::type_error::create(302, "no seconds", &line);
    if (seconds < before || (!run.speeds.empty() && step <= run.speeds.back().step)) {
      take_back(run.speeds, step);
      offset = run.speeds.empty() ? 0 : run.speeds.back().seconds;
      fresh = true;
    }
    before = seconds;
    History::Speed s{.step = step, .seconds = offset + seconds, .tokens_per_second = nan};
    if (fresh) {
      counted = seconds, counted_step = step;
    } else if (seconds - counted >= 0.05) {
      s.tokens_per_second = double(step - counted_step) * per_step / (seconds - counted);
      counted = seconds, counted_step = step;
    }
    fresh = false;
    run.speeds.push_back(s);
  });
}

}  // namespace

History read_history(const Path& dir) {
  History run{.dir = dir, .name = dir.string(), .config = {}, .steps = {}, .evaluations = {}, .spectra = {}, .speeds = {}, .scores = {}, .length_behaviour = {},
              .held_out = {}, .notes = {}};
  std::error_code error;
  check(fs::is_directory(dir, error), Exit::no_input, "report: {}: no such run", dir.string());
  const bool configured = fs::exists(dir / "config.toml", error);
  check(configured || fs::exists(dir / "metrics.jsonl", error), Exit::no_input,
        "report: {}: a run's directory is wanted; it has neither config.toml nor metrics.jsonl", dir.string());
  if (!configured) run.notes.push_back("config.toml: is not there");
  else try {
      run.config = load_config(dir / "config.toml");
      run.config->run.dir = "";  // where it lies now, not where it was made
      if (run.config->model.vocab > 0) run.parameters = LanguageModel(run.config->model, 0, open_device("plan")).parameter_count();
    } catch (const Error& e) {
      run.notes.push_back(fmt::format("config.toml: not understood: {}", e.what()));
    }
  read_metrics(run);
  read_spectra(run);
  read_timings(run);
  history::read_evaluations(run);
  return run;
}

void name_runs(std::vector<History>& runs) {
  std::vector<std::vector<std::string>> parts;  // of each path, the last first
  for (const History& run : runs) {
    std::error_code error;
    Path path = fs::weakly_canonical(run.dir, error);
    if (error) path = run.dir;
    std::vector<std::string>& own = parts.emplace_back();
    for (const Path& part : path)
      if (!part.empty() && part != "/") own.insert(own.begin(), part.string());
  }
  const auto tail = [&](size_t r, size_t count) {
    std::string name;
    for (size_t i = 0; i < std::min(count, parts[r].size()); ++i) name = i ? parts[r][i] + "/" + name : parts[r][0];
    return name;
  };
  std::vector<bool> named(runs.size());
  for (size_t count = 1; count < 64; ++count) {
    std::map<std::string, int> times;
    for (size_t r = 0; r < runs.size(); ++r) ++times[tail(r, count)];
    for (size_t r = 0; r < runs.size(); ++r) {
      if (named[r]) continue;
      runs[r].name = tail(r, count);
      named[r] = times[runs[r].name] == 1;
    }
  }
}

}  // namespace taper
