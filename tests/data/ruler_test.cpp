// ruler: what samples are made of, how long they are, and scores.
#include "data/tasks/ruler.h"

#include <algorithm>
#include <map>
#include <regex>
#include <set>

#include "data/tasks/python_text.h"
#include "tests/support/scratch.h"

using namespace taper;
using test::expect_failure;
using test::Scratch;

namespace {

int64_t quarters(std::string_view text) { return int64_t(text.size() + 3) / 4; }  // a tokenizer of four bytes each

const RulerMaterials& materials() {
  static const RulerMaterials all{.templates = {}, .haystack = Haystack::synthetic(70000), .words = built_in_words(), .squad = {}, .hotpot = {}};
  return all;
}

std::unique_ptr<RulerTask> task(const std::string& name, int64_t length, bool compat = false, const RulerMaterials& m = materials()) {
  return make_ruler_task(name, m, {.length = length, .seed = 0, .compat = compat, .tokens = quarters});
}

int64_t count(const std::string& text, const std::string& part) {
  int64_t n = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++n;
  return n;
}

void write_squad(const Path& file, const std::string& context) {
  write_file(file, "{\"data\": [{\"paragraphs\": [{\"context\": \"" + context +
                       "\", \"qas\": [{\"question\": \"What is first?\", \"answers\": [{\"text\": \"wörd0\"}]}]}]}]}");
}

std::vector<std::string> matches(const std::string& text, const char* pattern) {  // the first group of each
  const std::regex r(pattern);
  std::vector<std::string> all;
  for (std::sregex_iterator i(text.begin(), text.end(), r), end; i != end; ++i) all.push_back((*i)[1].str());
  return all;
}

}  // namespace

TEST_CASE("every task: within its length, near it, the same again, another for another index, seed or length") {
  for (const std::string& name : ruler_tasks()) {
    if (name.starts_with("qa")) continue;
    for (const int64_t length : {1024, 4096, 16384}) {
      CAPTURE(name);
      CAPTURE(length);
      const auto t = task(name, length);
      for (uint64_t i = 0; i < 5; ++i) {
        const RulerSample s = t->sample(i);
        const int64_t tokens = quarters(s.input()) + t->new_tokens();
        CHECK(tokens <= length);
        if (name != "cwe" || length < 16384) CHECK(tokens > length * (length < 4096 ? 5 : 8) / 10);
        CHECK(s.input() == task(name, length)->sample(i).input());
        CHECK(s.input() != t->sample(i + 1).input());
        CHECK_FALSE(s.answers.empty());
      }
      CHECK(t->sample(0).input() != make_ruler_task(name, materials(), {.length = length, .seed = 1, .compat = false, .tokens = quarters})->sample(0).input());
      CHECK_FALSE(t->published());
    }
  }
}

TEST_CASE("an answer may have as many tokens as the published tasks give it") {
  const Scratch scratch;
  write_squad(scratch / "squad.json", "A word says wörd0.");
  RulerMaterials m = materials();
  m.squad = read_squad(scratch / "squad.json");
  std::map<std::string, int64_t> seen;
  for (const std::string& name : ruler_tasks())
    if (name != "qa_hotpot") seen[name.starts_with("niah_") ? "niah" : name] = task(name, 4096, false, m)->new_tokens();
  CHECK(seen == std::map<std::string, int64_t>{{"niah", 128}, {"vt", 30}, {"cwe", 120}, {"fwe", 50}, {"qa_squad", 32}});
}

TEST_CASE("64K of running text still fits, and is full") {
  const auto t = task("niah_single_2", 65536);
  const int64_t tokens = quarters(t->sample(0).input()) + 128;
  CHECK(tokens <= 65536);
  CHECK(tokens > 65536 - 1000);
  CHECK(t->size() % 500 == 0);
}

TEST_CASE("needles: as many as the table says, one sentence each, answers in the context, queries among the keys") {
  struct Want {
    const char* name;
    size_t needles, answers, queries;
    const char* value;
    bool one;
  };
  const char *number = "[1-9][0-9]{6}", *uuid = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}";
  for (const Want& w : {Want{"niah_single_1", 1, 1, 1, number, true}, Want{"niah_single_2", 1, 1, 1, number, true}, Want{"niah_single_3", 1, 1, 1, uuid, true},
                        Want{"niah_multikey_1", 4, 1, 1, number, true}, Want{"niah_multikey_2", 0, 1, 1, number, true}, Want{"niah_multikey_3", 0, 1, 1, uuid,
                            true},
                        Want{"niah_multivalue", 4, 4, 1, number, false}, Want{"niah_multiquery", 4, 4, 4, number, false}}) {
    CAPTURE(w.name);
    const auto t = task(w.name, 2048);
    const std::string kind = w.value == number ? "numbers" : "uuids";
    for (uint64_t i = 0; i < 20; ++i) {
      const RulerSample s = t->sample(i);
      const std::regex pattern("Among the secret " + kind + ", the one kept for (\\S+) is (" + w.value + ")\\.");
      std::map<std::string, std::set<std::string>> values;
      size_t needles = 0;
      for (std::sregex_iterator k(s.prompt.begin(), s.prompt.end(), pattern), end; k != end; ++k) values[(*k)[1]].insert((*k)[2]), ++needles;
      if (w.needles) CHECK(needles == w.needles);
      else CHECK(int64_t(needles) == t->size() + 1);  // hidden among needles: all others distract
      REQUIRE(s.answers.size() == w.answers);
      std::set<std::string> asked;
      for (const auto& [key, its] : values)
        if (s.prefix.find(key) != std::string::npos) asked.insert(its.begin(), its.end());
      CHECK(asked == std::set<std::string>(s.answers.begin(), s.answers.end()));
      // Singular for one answer: "A secret number is ...", "Which is the secret number ...".
      CHECK(s.prompt.starts_with(w.one ? "A secret " : "Some secret "));
      CHECK(s.prompt.find(w.one ? "\nWhich is the secret " + kind.substr(0, kind.size() - 1) + " that"
          : "\nWhich are all the secret " + kind + " that") != std::string::npos);
      CHECK(s.prefix.ends_with(w.one ? " is" : " are"));
      CHECK(s.input() == s.prompt + " " + s.prefix);
      if (w.queries == 4) CHECK(matches(s.prefix, "for (\\S+, \\S+, \\S+, and \\S+) are$").size() == 1);
      CHECK(s.prompt.find('{') == std::string::npos);
    }
  }
}

TEST_CASE("repeated lines: size copies of the filler, the needle between them") {
  const auto t = task("niah_single_1", 2048);
  const RulerSample s = t->sample(3);
  CHECK(count(s.prompt, "\n" + Templates()["niah_repeat"]) == t->size());
  CHECK(t->size() % 5 == 0);  // steps of 5 below 4096, else 25
  CHECK(task("niah_single_1", 8192)->size() % 25 == 0);
}

TEST_CASE("running text: needles lie at 40 depths, whole sentences before and behind") {
  const Scratch scratch;
  std::string text;
  for (int i = 0; i < 100; ++i) text += "Sentence number" + std::string(1, char('a' + i / 26)) + char('a' + i % 26) + " stands here. ";
  write_file(scratch / "hay.txt", text);
  RulerMaterials m{.templates = {}, .haystack = Haystack::of_files({scratch / "hay.txt"}, 400), .words = built_in_words(), .squad = {}, .hotpot = {}};
  const auto t = make_ruler_task("niah_multivalue", m, {.length = 100000, .seed = 0, .compat = false, .tokens = quarters});
  CHECK(t->size() == 400);
  std::set<int64_t> seen;
  for (uint64_t i = 0; i < 300; ++i) {
    const RulerSample s = t->sample(i);
    const std::string prompt = s.prompt.substr(s.prompt.find("Sentence") < s.prompt.find("Among") ? s.prompt.find("Sentence") : s.prompt.find("Among"));
    std::set<int64_t> here;
    int64_t before = 0;
    for (const std::string_view sentence : split_sentences(std::string_view(prompt).substr(0, prompt.find('\n')))) {
      if (sentence.starts_with("Sentence")) ++before;
      else here.insert(before);
    }
    CHECK(before == 100);
    CHECK(here.size() == 4);  // each at a depth of its own
    seen.insert(here.begin(), here.end());
  }
  CHECK(seen == std::set<int64_t>{0,  3,  5,  8,  10, 13, 15, 18, 21, 23, 26, 28, 31, 33, 36, 38, 41, 44, 46, 49,
                                  51, 54, 56, 59, 62, 64, 67, 69, 72, 74, 77, 79, 82, 85, 87, 90, 92, 95, 97, 100});
}

TEST_CASE("a value that the haystack holds already is not hidden in it") {
  const Scratch scratch;
  std::string digits;  // of 9 million seven-digit numbers, those of this task's first draws
  RulerMaterials plain{.templates = {}, .haystack = Haystack::synthetic(500), .words = built_in_words(), .squad = {}, .hotpot = {}};
  const auto value = [](const RulerMaterials& m) { return make_ruler_task("niah_single_2", m, {.length = 4096, .seed = 0, .compat = false,
      .tokens = quarters})->sample(0).answers[0]; };
  const std::string first = value(plain);
  write_file(scratch / "hay.txt", std::string(plain.haystack.front(500)) + " " + first + ".");
  RulerMaterials holds{.templates = {}, .haystack = Haystack::of_files({scratch / "hay.txt"}, 501), .words = built_in_words(), .squad = {}, .hotpot = {}};
  CHECK(value(holds) != first);
}

TEST_CASE("vt: a chain of five variables over the noise, behind an example with its answer") {
  const auto t = task("vt", 2048);
  for (uint64_t i = 0; i < 20; ++i) {
    const RulerSample s = t->sample(i);
    REQUIRE(s.answers.size() == 5);
    const size_t second = s.prompt.find("Values are handed", 1);
    REQUIRE(second != std::string::npos);
    const std::string example = s.prompt.substr(0, second), asked = s.prompt.substr(second);
    CHECK(example.ends_with("\n\n\n\n"));
    for (const std::string& a : s.answers) CHECK(std::regex_match(a, std::regex("[A-Z]{5}")));
    const auto values = matches(asked, "VAR [A-Z]{5} = ([0-9]{5})");
    REQUIRE(values.size() == 1);
    CHECK(std::stoi(values[0]) >= 10000);
    CHECK(std::stoi(values[0]) <= 99998);
    size_t at = asked.find("VAR " + s.answers[0] + " = " + values[0]);
    for (size_t k = 1; k < 5; ++k) {  // in order, each from the one before, its space kept
      const size_t next = asked.find("VAR " + s.answers[k] + " = VAR " + s.answers[k - 1] + " ", at);
      REQUIRE(next != std::string::npos);
      REQUIRE(next > at);
      at = next;
    }
    CHECK(count(asked, "Leaves are green.") == t->size());
    CHECK(asked.find(". \n") == std::string::npos);
    CHECK(s.prefix == "Answer: Followed through the text above, 5 variables have the value " + values[0] + ":");
    // The example: three letters each, all five after its prefix, and nothing left to fill.
    const auto names = matches(example, "VAR ([A-Z]{3}) = ");
    REQUIRE(names.size() == 5);
    std::string list;
    for (const std::string& n : names) list += " " + n;
    CHECK(example.find(":" + list + "\n\n") != std::string::npos);
    CHECK(example.find('{') == std::string::npos);
    CHECK(quarters(example) <= 500);
  }
  CHECK(matches(t->sample(0).prompt, "VAR ([A-Z]{3}) = ") != matches(t->sample(1).prompt, "VAR ([A-Z]{3}) = "));
}

TEST_CASE("cwe: ten words 6 times and the others once, 30 and 3 from 4096 on; numbered without a gap") {
  for (const int64_t length : {2048, 8192}) {
    const auto t = task("cwe", length);
    const RulerSample s = t->sample(1);
    std::map<std::string, int64_t> times;
    std::vector<std::string> words;
    const std::regex item("(\\d+)\\. ([a-z]+)(?= \\d|\\n)");
    int64_t n = 0;
    for (std::sregex_iterator i(s.prompt.begin(), s.prompt.end(), item), end; i != end; ++i) {
      REQUIRE(std::stoi((*i)[1]) == ++n);
      ++times[(*i)[2]];
    }
    REQUIRE(s.answers.size() == 10);
    CHECK(int64_t(times.size()) == t->size());
    CHECK(t->size() % 10 == 0);
    for (const auto& [word, k] : times) CHECK(k == (std::ranges::count(s.answers, word) ? (length < 4096 ? 6 : 30) : (length < 4096 ? 1 : 3)));
    CHECK(s.input() == s.prompt + "\n\n" + s.prefix);
  }
  CHECK(task("cwe", 2048, true)->size() < task("cwe", 2048)->size());  // compat counts an example that is not asked
  CHECK(task("cwe", 2048, true)->sample(0).uncounted.find("20. ") != std::string::npos);
}

TEST_CASE("fwe: coded words by Zipf's law with exponent 2, the most frequent one dots") {
  const auto t = task("fwe", 4096);
  const RulerSample s = t->sample(0);
  std::map<std::string, int64_t> times;
  const size_t begin = s.prompt.find("is there. ") + 10;
  for (const std::string_view w : python::words(std::string_view(s.prompt).substr(begin, s.prompt.find('\n') - begin))) ++times[std::string(w)];
  const double n = double(t->size()), zeta2 = 1.6449340668482264;
  CHECK(times["..."] == int64_t(n / zeta2));
  for (int64_t k = 2; k <= 4; ++k) CHECK(times[s.answers[size_t(k - 2)]] == int64_t(n / double(k * k) / zeta2));
  for (const std::string& a : s.answers) CHECK(std::regex_match(a, std::regex("[a-z]{6}")));
  CHECK(task("fwe", 4096, true)->size() >= t->size());
}

TEST_CASE("qa: gold documents first chosen, then the article's, then others; numbered in a drawn order") {
  const Scratch scratch;
  std::string json = "{\"data\": [";
  for (int a = 0; a < 3; ++a) {
    json += std::string(a ? ", " : "") + "{\"title\": \"t\", \"paragraphs\": [";
    for (int p = 0; p < 4; ++p)
      json += fmt::format(
          "{}{{\"context\": \"Paragraph {}{} says a word.\", \"qas\": [{{\"question\": \"What says {}{}?\", \"is_impossible\": {}, \"answers\": [{{\"text\": "
          "\"word {}{}\"}}, "
          "{{\"text\": \"word {}{}\"}}, {{\"text\": \"Other\"}}]}}]}}",
          p ? ", " : "", a, p, a, p, p == 1 ? "true" : "false", a, p, a, p);
    json += "]}";
  }
  write_file(scratch / "squad.json", json + "]}");
  const QaDocuments d = read_squad(scratch / "squad.json");
  CHECK(d.documents.size() == 12);
  CHECK(std::ranges::is_sorted(d.documents));
  REQUIRE(d.questions.size() == 9);  // of four in each article one has no answer
  CHECK(d.questions[1].text == "What says 02?");
  CHECK(d.questions[1].answers == std::vector<std::string>{"word 02", "word 02", "Other"});  // as often as given: the score is a share of all
  CHECK(d.questions[1].needed == std::vector<size_t>{2});
  CHECK(d.questions[1].related == std::vector<size_t>{0, 1, 3});
  RulerMaterials m{.templates = {}, .haystack = Haystack::synthetic(1), .words = built_in_words(), .squad = d, .hotpot = {}};
  const auto all = task("qa_squad", 4096, false, m);
  CHECK(all->samples() == 9);
  CHECK(all->size() == 12);
  for (const int64_t length : {4096, 160}) {
    const auto t = task("qa_squad", length, false, m);
    std::set<std::string> firsts;
    for (uint64_t i = 0; i < 9; ++i) {
      const RulerSample s = t->sample(i);
      CHECK(s.prompt.find(d.documents[d.questions[i].needed[0]]) != std::string::npos);
      CHECK(count(s.prompt, "Document ") == t->size());
      CHECK(s.prompt.find(fmt::format("Document {}:\nParagraph", t->size())) != std::string::npos);
      CHECK(s.prompt.ends_with("Question: " + d.questions[i].text));
      if (t->size() <= 4)  // no more than the article has: no other article's
        CHECK(count(s.prompt, "Paragraph " + d.questions[i].text.substr(10, 1)) == t->size());
      firsts.insert(matches(s.prompt, "Document 1:\nParagraph (\\S+)").at(0));
    }
    CHECK(firsts.size() > 1);
  }
  expect_failure([&] { task("qa_hotpot", 1024, false, m); }, Exit::no_input, "eval: qa_hotpot wants --hotpot FILE, HotpotQA's development set");

  write_file(scratch / "hotpot.json", R"([{"question": "Who?", "answer": "Ann", "context": [["B", ["One.", " Two."]], ["A", ["Three."]]]}])");
  const QaDocuments h = read_hotpot(scratch / "hotpot.json");
  CHECK(h.documents == std::vector<std::string>{"A\nThree.", "B\nOne. Two."});
  CHECK(h.questions[0].needed == std::vector<size_t>{1, 0});
  write_file(scratch / "bad.json", R"({"data": [{"paragraphs": [{"qas": []}]}]})");
  const std::string squad = "bad.json: is not SQuAD 2.0 (data[].paragraphs[].{context, qas[].{question, answers[].text}}): ";
  expect_failure([&] { read_squad(scratch / "bad.json"); }, Exit::bad_data, squad + "in data[0].paragraphs[0], key 'context' not found");
  write_file(scratch / "bad.json",
             R"({"data": [{"paragraphs": [{"context": "A", "qas": [{"question": "Who?", "answers": [{"text": "A"}]}, {"answers": [{"text": "A"}]}]}]}]})");
  expect_failure([&] { read_squad(scratch / "bad.json"); }, Exit::bad_data, squad + "in data[0].paragraphs[0].qas[1], key 'question' not found");
  write_file(scratch / "bad.json", R"({"date": []})");
  expect_failure([&] { read_squad(scratch / "bad.json"); }, Exit::bad_data, squad + "at its top, key 'data' not found");
  write_file(scratch / "bad.json", R"([{"question": "Who?", "answer": "Ann", "context": [["A", ["B"]]]}, {"question": "Who?", "context": [["A", ["B"]]]}])");
  expect_failure([&] { read_hotpot(scratch / "bad.json"); }, Exit::bad_data,
                 "bad.json: is not HotpotQA's distractor setting ([].{question, answer, context[][title, sentences[]]}): in [1], key 'answer' not found");
  write_file(scratch / "none.json", R"({"data": []})");
  expect_failure([&] { read_squad(scratch / "none.json"); }, Exit::bad_data, "none.json: holds no question that has an answer");
  write_file(scratch / "no.json", "x");
  expect_failure([&] { read_hotpot(scratch / "no.json"); }, Exit::bad_data, "no.json: must be one JSON value, in UTF-8; it is not");
}

TEST_CASE("qa: of a document that is too long alone the end is cut off; the question stays whole") {
  const Scratch scratch;
  std::string text;
  for (int i = 0; i < 400; ++i) text += fmt::format("wörd{} ", i);
  write_squad(scratch / "squad.json", text);
  RulerMaterials m{.templates = {}, .haystack = Haystack::synthetic(1), .words = built_in_words(), .squad = read_squad(scratch / "squad.json"), .hotpot = {}};
  REQUIRE(quarters(text) > 700);
  const std::string around = Templates()["qa"], question = "Question: What is first?";
  for (const int64_t length : {200, 256, 500}) {
    CAPTURE(length);
    const auto t = task("qa_squad", length, false, m);
    CHECK(t->size() == 1);
    const RulerSample s = t->sample(0);
    CHECK(quarters(s.input()) + 32 <= length);
    CHECK(quarters(s.input()) + 32 >= length - 1);  // no letter less than that
    CHECK(s.prompt.starts_with(around.substr(0, around.find("{context}")) + "Document 1:\nwörd0 wörd1 "));
    CHECK(s.prompt.ends_with(question));
    for (size_t i = 0; i < s.prompt.size(); i += python::next_code_point(s.prompt, i).bytes)
      CHECK(python::next_code_point(s.prompt, i).value >= 0);  // no half letters
    // compat: the text's first tokens, 32 and 5 left out, and the question again.
    const RulerSample c = task("qa_squad", length, true, m)->sample(0);
    const size_t cut = c.prompt.rfind("\n" + question);
    REQUIRE(cut + 1 + question.size() == c.prompt.size());
    CHECK(quarters(c.prompt.substr(0, cut)) == length - 37);
    CHECK(count(c.prompt, question) == 1);  // the first was cut off
  }
  CHECK(task("qa_squad", 4096, false, m)->sample(0).prompt.find("wörd399 ") != std::string::npos);
  expect_failure([&] { task("qa_squad", 70, false, m); }, Exit::bad_config, "eval: qa_squad does not fit into --length 70: with this tokenizer it takes ");
}

TEST_CASE("compat: lengths count what the published program counts") {
  const auto counted = [](const std::string& name, int64_t length) {
    const RulerSample s = task(name, length, true)->sample(0);
    if (name.starts_with("niah")) return quarters(s.prompt) + 128;                // no prefix
    if (name == "vt") return quarters(s.input()) + 30;
    if (name == "cwe") return quarters(s.prompt + " " + s.prefix) + 120;           // no example
    return quarters(s.prompt + " " + s.prefix);                                    // fwe: no new tokens
  };
  for (const char* name : {"niah_single_1", "niah_multiquery", "vt", "cwe", "fwe"})
    for (const int64_t length : {1024, 2048, 4096}) {
      CAPTURE(name);
      CAPTURE(length);
      CHECK(counted(name, length) <= length);
      CHECK(task(name, length, true)->size() >= (std::string(name) == "cwe" ? 20 : task(name, length)->size()));
    }
  // fwe grows in steps of length / 32 words while the tokens of prompt and prefix are fewer than the length.
  const auto fwe = task("fwe", 2048, true);
  CHECK((fwe->size() - 2048 / 6) % 64 == 0);
}

TEST_CASE("published prefixes have spaces around them that are not asked") {
  const Scratch scratch;
  for (const auto& [name, text] : {std::pair{"vt_prefix", " Reply: {num_v} of {query}, they are: "},
                                   {"cwe_prefix", " Reply: ten"},
                                   {"fwe_prefix", " Reply: three"},
                                   {"qa_prefix", " Reply:"}})
    write_file(scratch / (std::string(name) + ".txt"), text);
  RulerMaterials m{.templates = Templates(scratch.path), .haystack = Haystack::synthetic(1), .words = built_in_words(), .squad = {}, .hotpot = {}};
  CHECK(std::regex_match(task("vt", 2048, false, m)->sample(0).prefix, std::regex("Reply: 5 of [0-9]{5}, they are:")));
  CHECK(std::regex_search(task("vt", 2048, false, m)->sample(0).prompt,
                          std::regex("text above\\? Reply: 5 of [0-9]{5}, they are:  [A-Z]{3} [A-Z]{3} ")));  // in the example they are
  for (const char* name : {"cwe", "fwe"}) {
    const RulerSample s = task(name, 2048, false, m)->sample(0);
    CHECK(s.prefix.starts_with("Reply: "));
    CHECK(s.input() == s.prompt + (std::string(name) == "cwe" ? "\n\n" : " ") + s.prefix);
  }
}

TEST_CASE("needles: words that are too few end the draws, and say so") {
  RulerMaterials m{.templates = {},
                   .haystack = Haystack::synthetic(2000),
                   .words = {.adjectives = {"red"}, .nouns = {"owl", "elk", "emu"}, .verbs = {}},
                   .squad = {},
                   .hotpot = {}};
  expect_failure([&] { task("niah_multikey_1", 2048, false, m); }, Exit::bad_data, "eval: niah_multikey_1 found no new key or value in 100000 draws");
  expect_failure([&] { task("niah_multikey_2", 2048, false, m); }, Exit::bad_data, "1 adjectives and 3 nouns are too few: give longer lists");
  CHECK_FALSE(task("niah_single_2", 2048, false, m)->sample(0).answers.empty());
}

TEST_CASE("a length that is too short says what is needed") {
  expect_failure([&] { task("vt", 300); }, Exit::bad_config, "eval: vt does not fit into --length 300: with this tokenizer it takes ");
  expect_failure([&] { task("niah_single_1", 100); }, Exit::bad_config, "eval: niah_single_1 does not fit into --length 100: with this tokenizer it takes ");
  const auto bytes = [](std::string_view s) { return int64_t(s.size()); };
  const auto t = make_ruler_task("niah_single_2", materials(), {.length = 1024, .seed = 0, .compat = false,
      .tokens = bytes});  // not one step of 500 words fits
  CHECK(t->size() < 500);
  CHECK(t->size() > 50);
  CHECK(t->sample(0).input().size() + 128 <= 1024);
  CHECK(t->sample(0).input().size() + 128 > 950);
}

TEST_CASE("score: the share of answers found, whatever the case; control characters are newlines") {
  CHECK(ruler_score(" 1234567.", {"1234567"}) == 1);
  CHECK(ruler_score("it is 12345", {"1234567"}) == 0);
  CHECK(ruler_score("ALPHA and beta", {"alpha", "Beta", "gamma", "delta"}) == 0.5);
  CHECK(ruler_score("", {"a"}) == 0);
  CHECK(ruler_score("a\x01" "b", {"a\nb"}) == 1);
  CHECK(ruler_score("\x02 a \x03", {"a"}) == 1);
  CHECK(ruler_score("ÉTÉ", {"été"}) == 1);
}
