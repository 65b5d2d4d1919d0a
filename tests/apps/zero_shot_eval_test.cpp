// zero_shot_eval: metrics of hand-made documents by a bigram model, against brute force.
#include "apps/zero_shot_eval.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <numbers>

#include "data/sha256.h"
#include "data/tasks/metrics.h"
#include "data/tasks/python_text.h"
#include "tests/apps/toy_predictor.h"

using namespace taper;
using test::toy_coder;
using test::ToyBigram;

namespace {

const ZeroShotTask& task(const char* name) { return *find_zero_shot_task(name); }

double brute(const std::string& context, const std::string& continuation) {
  const Coder coder = toy_coder();
  int32_t before = context.empty() ? test::toy_prefix : coder.encode(context).back();
  double total = 0;
  for (const int32_t id : coder.encode(continuation)) total += ToyBigram::log_probability(before, id), before = id;
  return total;
}

TaskDocument document(std::vector<Choice> choices, int64_t gold) {
  return {.where = "x.jsonl:1", .choices = std::move(choices), .gold = gold, .text = "", .record = "{\n  \"a\": 1\n}"};
}

double metric(const TaskResult& r, const std::string& name) {
  for (const Metric& m : r.metrics)
    if (m.name == name) return m.value;
  FAIL("no metric " << name);
  return 0;
}
double error(const TaskResult& r, const std::string& name) {
  for (const Metric& m : r.metrics)
    if (m.name == name) return m.error.value();
  return 0;
}

class Flat final : public Predictor {  // every token is as likely as every other: log(1/4)
 public:
  std::vector<std::vector<TokenScore>> ask(std::span<const Question> questions, Softmax) override {
    std::vector<std::vector<TokenScore>> all;
    for (const Question& q : questions) all.emplace_back(q.targets.size(), TokenScore{-std::log(4.0), true});
    return all;
  }
};

}  // namespace

TEST_CASE("choices: acc, acc_norm and their errors, by brute force") {
  const std::vector<std::string> contexts{"Question: one\nAnswer:", "Question: two?\nAnswer:", "The sky", "naïve", "k"};
  const std::vector<std::vector<std::string>> choices{{"yes", "a much longer answer", "no"}, {"x", "yy"}, {"is blue and wide", "falls", "", "é"}, {"été",
      "ete"}, {"q", "r"}};
  for (const int64_t gold : {0, 1}) {
    TaskDocuments d{.documents = {}, .all = 9};
    std::vector<double> right, normed;
    for (size_t i = 0; i < contexts.size(); ++i) {
      std::vector<Choice> c;
      size_t best = 0, best_normed = 0;
      std::vector<double> plain, per;
      for (size_t k = 0; k < choices[i].size(); ++k) {
        c.push_back({contexts[i], " " + choices[i][k], python::length(choices[i][k])});
        plain.push_back(brute(contexts[i], " " + choices[i][k]));
        per.push_back(choices[i][k].empty() ? -1e300 : plain.back() / double(c.back().length));
        if (plain[k] > plain[best]) best = k;
        if (per[k] > per[best_normed]) best_normed = k;
      }
      right.push_back(int64_t(best) == gold), normed.push_back(int64_t(best_normed) == gold);
      d.documents.push_back(document(c, gold));
    }
    ToyBigram model;
    const TaskResult r = evaluate_zero_shot(model, toy_coder(), task("arc_easy"), d, {});
    CHECK(metric(r, "acc") == mean(right));
    CHECK(metric(r, "acc_norm") == mean(normed));
    CHECK(error(r, "acc") == mean_error(right));
    CHECK(error(r, "acc_norm") == mean_error(normed));
    CHECK(r.all == 9);
    CHECK(r.used == 5);
    CHECK(r.kind == "multiple_choice");
    CHECK(evaluate_zero_shot(model, toy_coder(), task("winogrande"), d, {}).metrics.size() == 1);
  }
}

TEST_CASE("choices: ties go to the first; an empty choice wins no acc_norm; lengths are code points, not bytes") {
  Flat flat;
  const auto run = [&](std::vector<std::pair<std::string, int64_t>> c, int64_t gold) {
    std::vector<Choice> all;
    for (auto& [text, length] : c) all.push_back({"c", " " + text, length});
    return evaluate_zero_shot(flat, toy_coder(), task("piqa"), {{document(all, gold)}, 1}, {});
  };
  CHECK(metric(run({{"one", 3}, {"two", 3}}, 0), "acc") == 1);
  CHECK(metric(run({{"one", 3}, {"two", 3}}, 1), "acc") == 0);
  CHECK(metric(run({{"one", 3}, {"two", 3}}, 0), "acc_norm") == 1);
  CHECK(metric(run({{"", 0}, {"two", 3}}, 1), "acc_norm") == 1);
  CHECK(metric(run({{"", 0}, {"two", 3}}, 0), "acc") == 1);
  // 1 + n bytes are 1 + n tokens here: "éé" has 5 tokens for 2 code points (-5/2), "abc" 3 for 3 (its ab is one).
  CHECK(metric(run({{"éé", 2}, {"abc", 3}}, 1), "acc_norm") == 1);
  CHECK(metric(run({{"éé", 4}, {"abcdefgh", 8}}, 1), "acc_norm") == 1);
}

TEST_CASE("last word: perplexity per word, not per token; acc wants every token greedily right") {
  ToyBigram model;
  std::string greedy = "k";
  while (greedy.size() < 4) greedy += char(ToyBigram::likeliest(greedy.back()));
  greedy.erase(0, 1);
  const std::vector<std::pair<std::string, std::string>> texts{{"He met", " Bob"}, {"", " one"}, {"a longer text before the", " word"}, {"z", " été"}, {"k",
      greedy}};
  std::vector<double> ll, right;
  TaskDocuments d{.documents = {}, .all = 5};
  for (const auto& [context, word] : texts) {
    ll.push_back(brute(context, word));
    right.push_back(word == greedy);
    d.documents.push_back(document({{context, word, 3}}, 0));
  }
  TaskResult r = evaluate_zero_shot(model, toy_coder(), task("lambada_openai"), d, {.score = {}, .bootstrap = 2000});
  CHECK(metric(r, "perplexity") == doctest::Approx(std::exp(-(ll[0] + ll[1] + ll[2] + ll[3] + ll[4]) / 5)).epsilon(1e-13));
  CHECK(error(r, "perplexity") == doctest::Approx(perplexity_error_bootstrap(ll, 2000)).epsilon(1e-10));
  CHECK(metric(r, "acc") == doctest::Approx(0.2));
  CHECK(error(r, "acc") == mean_error(right));
  CHECK(r.metrics[0].higher_is_better == false);
  CHECK(r.notes.back().second == "\"bootstrap\"");
  r = evaluate_zero_shot(model, toy_coder(), task("lambada_openai"), d, {.score = {}, .bootstrap = 0});
  CHECK(error(r, "perplexity") == doctest::Approx(perplexity_error_delta(ll)).epsilon(1e-12));
  CHECK(r.notes.back().second == "\"delta method\"");
}

TEST_CASE("text: one sum over all documents; words and bytes of the page, tokens of what was scored") {
  ToyBigram model;
  TaskDocuments d{.documents = {}, .all = 3};
  double total = 0;
  int64_t words = 0, bytes = 0, tokens = 0;
  for (const std::string text : {"the cab ran", "", " é  x "}) {
    TaskDocument one = document({}, 0);
    one.text = text, one.words = python::count_split(text), one.bytes = int64_t(text.size()) + 2;
    words += one.words, bytes += one.bytes, tokens += int64_t(toy_coder().encode(text).size());
    total += text.empty() ? 0 : brute("", text);
    d.documents.push_back(one);
  }
  CHECK(words == 3 + 1 + 4);
  const TaskResult r = evaluate_zero_shot(model, toy_coder(), task("wikitext"), d, {.score = {.max_length = 4}});
  CHECK(metric(r, "word_perplexity") == doctest::Approx(std::exp(-total / double(words))).epsilon(1e-12));
  CHECK(metric(r, "byte_perplexity") == doctest::Approx(std::exp(-total / double(bytes))).epsilon(1e-12));
  CHECK(metric(r, "bits_per_byte") == doctest::Approx(-total / double(bytes) / std::numbers::ln2).epsilon(1e-12));
  CHECK(metric(r, "token_perplexity") == doctest::Approx(std::exp(-total / double(tokens))).epsilon(1e-12));
  for (const Metric& m : r.metrics) CHECK_FALSE(m.error.has_value());
}

TEST_CASE("samples: the harness's fields, and a hash of the task") {
  Flat flat;
  const TaskResult r = evaluate_zero_shot(flat, toy_coder(), task("piqa"), {{document({{"Q", " a", 1}, {"Q", " bc", 2}}, 1), document({{"R", " a", 1}, {"R",
      " b", 1}}, 0)}, 2}, {});
  REQUIRE(r.samples.size() == 2);
  const auto s = nlohmann::json::parse(r.samples[0]);
  CHECK(s["doc_id"] == 0);
  CHECK(s["doc"]["a"] == 1);
  CHECK(s["target"] == "1");
  CHECK(s["arguments"]["gen_args_1"]["arg_0"] == "Q");
  CHECK(s["arguments"]["gen_args_1"]["arg_1"] == " bc");
  CHECK(s["filtered_resps"][0][1] == "True");
  CHECK(std::stod(s["resps"][1][0][0].get<std::string>()) == doctest::Approx(-3 * std::log(4.0)));
  CHECK(s["acc"] == 0.0);
  CHECK(s["acc_norm"] == 1.0 * (-3 * std::log(4.0) / 2 > -2 * std::log(4.0)));
  CHECK(s["doc_hash"] == sha256("{\n  \"a\": 1\n}"));
  CHECK(s["prompt_hash"] == sha256("Q"));
  CHECK(s["target_hash"] == sha256("1"));
  const auto t = nlohmann::json::parse(r.samples[1]);
  const auto text = [](const nlohmann::json& j, const char* key) { return j[key].get<std::string>(); };
  CHECK(r.hash == sha256(text(s, "doc_hash") + text(s, "prompt_hash") + text(s, "target_hash") + text(t, "doc_hash") + text(t, "prompt_hash") + text(t,
      "target_hash")));
}
