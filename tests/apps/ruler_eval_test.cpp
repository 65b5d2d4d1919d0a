// ruler_eval: a writer that reads the prompt scores 1, one that says nothing 0.
#include "apps/ruler_eval.h"

#include <doctest/doctest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <regex>

#include "data/tasks/python_text.h"
#include "tensor/error.h"

using namespace taper;

namespace {

// Answers from nothing but the prompt.
std::string oracle(const std::string& prompt) {
  std::string out;
  const auto each = [&](const std::string& text, const char* pattern, const auto& f) {
    const std::regex r(pattern);
    for (std::sregex_iterator i(text.begin(), text.end(), r), end; i != end; ++i) f(*i);
  };
  const std::string question = prompt.substr(prompt.rfind('\n') + 1);
  if (prompt.starts_with("Some secret") || prompt.starts_with("A secret")) {
    each(prompt, "kept for (\\S+) is (\\S+)\\.(?=[ \\n])", [&](const std::smatch& m) {
      if (question.find(m[1].str()) != std::string::npos) out += m[2].str() + " ";
    });
  } else if (prompt.starts_with("Values are handed")) {
    const std::string last = prompt.substr(prompt.rfind("Values are handed"));
    each(last, "VAR ([A-Z]{5}) = ", [&](const std::smatch& m) { out += m[1].str() + ", "; });
  } else {
    std::map<std::string, int64_t> times;
    const std::string context = prompt.substr(0, prompt.rfind("\nQuestion"));
    each(context, "[a-z]+", [&](const std::smatch& m) { ++times[m[0].str()]; });
    const bool coded = prompt.find("code words") != std::string::npos;
    std::vector<std::pair<int64_t, std::string>> sorted;
    for (const auto& [word, n] : times)
      if (!coded || word.size() == 6) sorted.emplace_back(-n, word);
    std::ranges::sort(sorted);
    for (size_t i = 0; i < std::min<size_t>(sorted.size(), coded ? 3 : 30); ++i) out += sorted[i].second + " ";
  }
  return out;
}

RulerEvaluation how(std::vector<int64_t> lengths) {
  return {.lengths = std::move(lengths), .samples = 10, .batch = 4, .seed = 0, .compat = false,
      .tokens = [](std::string_view s) { return int64_t(s.size() + 3) / 4; }};
}

}  // namespace

TEST_CASE("evaluate_ruler: an oracle scores 1, silence 0, at every length of every task") {
  const RulerMaterials m{.templates = {}, .haystack = Haystack::synthetic(5000), .words = built_in_words(), .squad = {}, .hotpot = {}};
  for (const std::string& task : ruler_tasks()) {
    if (task.starts_with("qa")) continue;
    CAPTURE(task);
    const RulerEvaluation h = how({1024, 4096});
    const auto fitted = fit_ruler(task, m, h);
    std::vector<size_t> batches;
    const TaskResult all = evaluate_ruler([&](const std::vector<std::string>& prompts, int64_t tokens) {
      batches.push_back(prompts.size());
      CHECK(tokens == (task == "vt" ? 30 : task == "cwe" ? 120 : task == "fwe" ? 50 : 128));
      std::vector<std::string> out;
      for (const std::string& p : prompts) out.push_back(oracle(p));
      return out;
    }, task, fitted, m, h);
    REQUIRE(all.metrics.size() == 2);
    for (const Metric& metric : all.metrics) CHECK(metric.value == 1);
    CHECK(all.metrics[0].name == "1024");
    CHECK(all.metrics[1].error == 0.0);
    CHECK(batches == std::vector<size_t>{4, 4, 2, 4, 4, 2});
    const TaskResult none = evaluate_ruler([](const std::vector<std::string>& p, int64_t) { return std::vector<std::string>(p.size()); }, task, fitted, m, h);
    for (const Metric& metric : none.metrics) CHECK(metric.value == 0);
    CHECK(none.hash == all.hash);  // of what was asked
  }
}

TEST_CASE("evaluate_ruler: shares, errors, notes, samples, and what is known after each length") {
  const RulerMaterials m{.templates = {}, .haystack = Haystack::synthetic(2000), .words = built_in_words(), .squad = {}, .hotpot = {}};
  RulerEvaluation h = how({1024, 2048});
  std::vector<size_t> known;
  h.finished = [&](const TaskResult& r) { known.push_back(r.metrics.size()); };
  int64_t asked = 0;
  const TaskResult r = evaluate_ruler([&](const std::vector<std::string>& prompts, int64_t) {
    std::vector<std::string> out;
    for (const std::string& p : prompts) out.push_back(asked++ % 10 < 7 ? oracle(p) : "no");
    return out;
  }, "niah_single_2", fit_ruler("niah_single_2", m, h), m, h);
  CHECK(known == std::vector<size_t>{1, 2});
  CHECK(r.metrics[0].value == 0.7);
  CHECK(*r.metrics[0].error == doctest::Approx(std::sqrt(0.7 * 0.3 / 9)).epsilon(1e-14));
  CHECK(r.used == 20);
  REQUIRE(r.samples.size() == 20);
  const auto s = nlohmann::json::parse(r.samples[9]);
  CHECK_FALSE(s.contains("2048"));
  CHECK(s["1024"] == 0.0);
  CHECK(s["doc"]["outputs"].size() == 1);
  CHECK(s["target"] == "['" + s["doc"]["outputs"][0].get<std::string>() + "']");
  CHECK(s["resps"][0][0] == "no");
  CHECK(s["arguments"]["gen_args_0"]["arg_0"].get<std::string>().ends_with(s["doc"]["gen_prefix"].get<std::string>()));
  CHECK(s["doc"]["length"].get<int64_t>() + 128 <= 1024);
  std::map<std::string, std::string> notes(r.notes.begin(), r.notes.end());
  CHECK(notes["templates"] == "\"ruler-like\"");
  CHECK(notes["haystack"] == "\"synthetic\"");
  const auto lengths = nlohmann::json::parse(notes["lengths"]);
  CHECK(lengths["2048"]["longest_prompt_tokens"].get<int64_t>() + 128 <= 2048);
  CHECK(lengths["2048"]["samples"] == 10);

  // Stopped after the first length: the second alone is asked, and all is as it had been.
  RulerEvaluation one = how({1024});
  asked = 0;
  const Writer writer = [&](const std::vector<std::string>& prompts, int64_t) {
    std::vector<std::string> out;
    for (const std::string& p : prompts) out.push_back(asked++ % 10 < 7 ? oracle(p) : "no");
    return out;
  };
  const TaskResult first = evaluate_ruler(writer, "niah_single_2", fit_ruler("niah_single_2", m, one), m, one);
  REQUIRE(asked == 10);
  const TaskResult both = evaluate_ruler(writer, "niah_single_2", fit_ruler("niah_single_2", m, h), m, h, &first);
  CHECK(asked == 20);
  CHECK(known == std::vector<size_t>{1, 2, 2});
  CHECK(both.samples == r.samples);
  CHECK(both.hash == r.hash);
  CHECK(both.notes == r.notes);
  CHECK(both.used == r.used);
  for (size_t i = 0; i < 2; ++i)
    CHECK((both.metrics[i].name == r.metrics[i].name && both.metrics[i].value == r.metrics[i].value && both.metrics[i].error == r.metrics[i].error));
  CHECK(is_finished(both, fit_ruler("niah_single_2", m, h), m, h));
  // Only a later one is there: it is kept, in its place.
  const TaskResult last = evaluate_ruler(writer, "niah_single_2", fit_ruler("niah_single_2", m, how({2048})), m, how({2048}));
  const TaskResult again = evaluate_ruler(writer, "niah_single_2", fit_ruler("niah_single_2", m, h), m, h, &last);
  CHECK(asked == 40);
  CHECK(again.samples == r.samples);
  CHECK(known == std::vector<size_t>{1, 2, 2, 1, 2});
}

TEST_CASE("is_finished: every length, and the same samples") {
  const RulerMaterials m{.templates = {}, .haystack = Haystack::synthetic(2000), .words = built_in_words(), .squad = {}, .hotpot = {}};
  RulerEvaluation h = how({1024});
  const auto fitted = fit_ruler("niah_single_1", m, h);
  const TaskResult r = evaluate_ruler([](const std::vector<std::string>& p, int64_t) { return std::vector<std::string>(p.size()); }, "niah_single_1", fitted,
      m, h);
  CHECK(is_finished(r, fitted, m, h));
  RulerEvaluation more = how({1024, 2048});
  CHECK_FALSE(is_finished(r, fitted, m, more));
  for (const auto change : {+[](RulerEvaluation& e) { e.seed = 1; }, +[](RulerEvaluation& e) { e.compat = true; }}) {
    RulerEvaluation other = how({1024});
    change(other);
    CHECK_FALSE(is_finished(r, fitted, m, other));
  }
  // Other texts under the same names are other samples; those that the task does not read are no matter.
  for (const auto& [what, same] : {std::pair{"haystack", false}, {"templates", false}, {"words-adj", false}, {"squad", true}, {"hotpot", true}}) {
    CAPTURE(what);
    RulerMaterials other = m;
    other.given[what] = "ab12";
    CHECK(is_finished(r, fitted, other, h) == same);
    const TaskResult then = evaluate_ruler([](const std::vector<std::string>& p, int64_t) { return std::vector<std::string>(p.size()); }, "niah_single_1",
                                           fitted, other, h);
    CHECK(is_finished(then, fitted, m, h) == same);
    CHECK(is_finished(then, fitted, other, h));
  }
}
