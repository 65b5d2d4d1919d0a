// eval --tasks: the real binary on hand-made files; results JSON, samples, tables and refusals.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "tests/apps/tiny.h"

using namespace taper;
using namespace taper::test;

namespace {

struct Trained : Tiny {
  Trained() {
    const Ended e = run(*this, train("r", {"--set", "train.steps=6"}));
    REQUIRE_MESSAGE(e.code == 0, e.err);
    fs::create_directories(*this / "tasks");
  }
  void file(const std::string& name, const std::string& lines) const { write_file(*this / "tasks" / name, lines); }
  std::vector<std::string> eval(std::vector<std::string> more) const {
    std::vector<std::string> a{"eval", dir("r"), "--data", dir("tasks"), "--device", "cpu"};
    a.insert(a.end(), more.begin(), more.end());
    return a;
  }
};

}  // namespace

TEST_CASE("eval --tasks: results in the harness's form, the same at any batch, and nothing but what was asked for") {
  const Trained t;
  t.file("piqa.jsonl",
         "{\"goal\": \"slow\", \"sol1\": \"head\", \"sol2\": \"decays with\", \"label\": 1}\n{\"goal\": \"the\", \"sol1\": \"é\", \"sol2\": \"state\", "
         "\"label\": 1}\n"
         "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\", \"label\": 0}\n");
  t.file("lambada_openai.jsonl", "{\"text\": \"the slow head remembers longest\"}\n{\"text\": \"state decays with position\"}\n");
  t.file("text.jsonl", "{\"text\": \"state decays with position and the slow head remembers longest.\"}\n");
  const Ended e = run(t, t.eval({"--tasks", "piqa,lambada_openai,text", "--output", t.dir("out"), "--samples", "--json", "--bootstrap", "1000"}));
  REQUIRE_MESSAGE(e.code == 0, e.err);
  const auto j = nlohmann::json::parse(e.out);
  for (const char* key : {"results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config", "git_hash", "date",
      "task_hashes"})
    CHECK_MESSAGE(j.contains(key), key);
  CHECK(j["results"]["piqa"]["alias"] == "piqa");
  for (const char* key : {"acc,none", "acc_stderr,none", "acc_norm,none", "acc_norm_stderr,none"}) CHECK(j["results"]["piqa"].contains(key));
  CHECK(j["results"]["text"]["word_perplexity_stderr,none"] == "N/A");
  CHECK(j["n-samples"]["piqa"]["original"] == 3);
  CHECK(j["higher_is_better"]["lambada_openai"]["perplexity"] == false);
  CHECK(j["config"]["model_num_parameters"].get<int64_t>() > 1000);
  CHECK(j["results"]["text"]["bits_per_byte,none"].get<double>() > 1);
  CHECK(j["results"]["text"]["bits_per_byte,none"].get<double>() < 9);

  std::vector<std::string> files;
  for (const auto& f : fs::recursive_directory_iterator(t / "out"))
    if (f.is_regular_file()) files.push_back(f.path().filename().string());
  std::ranges::sort(files);
  REQUIRE(files.size() == 4);
  CHECK(files[0].starts_with("results_20"));
  CHECK(files[0].ends_with(".json"));
  CHECK(files[0].find(':') == std::string::npos);
  CHECK(files[1].starts_with("samples_lambada_openai_"));
  Path folder;
  for (const auto& f : fs::directory_iterator(t / "out")) folder = f.path();
  const std::string samples = read_file(folder / files[2]);
  CHECK(std::ranges::count(samples, '\n') == 3);
  const auto stored = nlohmann::json::parse(read_file(folder / files[0]));
  CHECK(stored["results"] == j["results"]);
  CHECK(stored["task_hashes"] == j["task_hashes"]);

  for (const char* batch : {"1", "2"}) {
    const auto again = nlohmann::json::parse(run(t, t.eval({"--tasks", "piqa,lambada_openai,text", "--json", "--bootstrap", "1000", "--batch",
        batch})).out)["results"];
    CHECK(again["piqa"] == j["results"]["piqa"]);
    CHECK(again["text"]["bits_per_byte,none"].get<double>() == doctest::Approx(j["results"]["text"]["bits_per_byte,none"].get<double>()).epsilon(1e-5));
  }
  const Ended table = run(t, t.eval({"--tasks", "piqa", "text", "--limit", "2", "--max-length", "16", "--softmax", "bf16-emulate"}));
  CHECK(table.code == 0);
  CHECK(table.out.find("piqa                         2  acc ") != std::string::npos);
  CHECK(table.out.find("bits_per_byte") != std::string::npos);
}

TEST_CASE("eval --tasks: what does not fit is refused before any work") {
  const Trained t;
  t.file("piqa.jsonl", "{\"goal\": \"slow\", \"sol1\": \"head\"}\n");
  t.file("arc_easy.jsonl", "{\"question\": \"q\", \"choices\": {\"text\": [\"\", \"b\"], \"label\": [\"A\", \"B\"]}, \"answerKey\": \"A\"}\n");
  refuses(t, t.eval({"--tasks", "piqua"}), 2, "eval: no task 'piqua'; there are lambada_openai, hellaswag, piqa, ");
  refuses(t, t.eval({"--tasks", "piqa,piqa"}), 2, "eval: task 'piqa' is named twice");
  refuses(t, {"eval", t.dir("r"), "--tasks", "piqa"}, 2, "eval: --tasks piqa wants --data DIR, the directory that holds piqa.jsonl");
  refuses(t, t.eval({"--tasks", "arc_easy,piqa"}), 65, "piqa.jsonl:1: piqa wants the field 'sol2'; the record has goal, sol1");
  refuses(t, t.eval({"--tasks", "hellaswag"}), 66, "hellaswag.jsonl");
  refuses(t, t.eval({"--tasks", "arc_easy", "--softmax", "f16"}), 2, "--softmax");
  // Options of another evaluation are not passed over.
  refuses(t, t.eval({"--limit", "3"}), 2, "--limit requires --tasks");
  refuses(t, t.eval({"--haystack", t.config()}), 2, "--haystack requires --tasks");
  refuses(t, t.eval({"--passage", "3"}), 2, "--passage requires --by-position");
  refuses(t, t.eval({"--tasks", "arc_easy", "--tokens", "30"}), 2, "--tokens excludes --tasks");
  refuses(t, t.eval({"--by-position", "--pairs", "30"}), 2, "--pairs excludes --by-position");
  fs::copy(t / "r" / "checkpoints" / "step-000006", t / "alone", fs::copy_options::recursive);
  t.file("text.jsonl", "{\"text\": \"a b\"}\n");
  for (const char* flag : {"--samples", "--resume"})
    refuses(t, {"eval", t.dir("alone"), "--data", t.dir("tasks"), "--device", "cpu", "--tasks", "text", flag}, 2,
            std::string("eval: ") + flag + " wants --output DIR: " + t.dir("alone") + " has no run whose directory could keep results");
  t.file("blocked", "");
  refuses(t, t.eval({"--tasks", "arc_easy", "--output", t.dir("tasks/blocked")}), 73, "eval: cannot create ");
}

TEST_CASE("eval --tasks: RULER needs no file; groups, the harness's names, and lengths that are too short") {
  const Trained t;
  const auto eval = [&](std::vector<std::string> more) {
    std::vector<std::string> a{"eval", t.dir("r"), "--device", "cpu"};
    a.insert(a.end(), more.begin(), more.end());
    return a;
  };
  const Ended e = run(t, eval({"--tasks", "niah_single_1,ruler_fwe", "--length", "1024", "2048", "--limit", "3", "--json", "--output", t.dir("out"),
      "--samples"}));
  REQUIRE_MESSAGE(e.code == 0, e.err);
  const auto j = nlohmann::json::parse(e.out);
  for (const char* task : {"niah_single_1", "fwe"}) {
    CHECK(j["results"][task].contains("1024,none"));
    CHECK(j["results"][task].contains("2048_stderr,none"));
    CHECK(j["configs"][task]["templates"] == "ruler-like");
    CHECK(j["configs"][task]["output_type"] == "generate_until");
    CHECK(j["configs"][task]["lengths"]["1024"]["longest_prompt_tokens"].get<int64_t>() < 1024);
    CHECK(j["n-samples"][task]["effective"] == 6);
  }
  for (const auto& f : fs::recursive_directory_iterator(t / "out"))
    if (f.path().filename().string().starts_with("samples_fwe")) {
      const std::string lines = read_file(f.path());
      CHECK(std::ranges::count(lines, '\n') == 6);
    }
  // The same again, whatever the batch: the same samples, and the same words written.
  const auto again = nlohmann::json::parse(run(t, eval({"--tasks", "niah_single_1,fwe", "--length", "1024", "2048", "--limit", "3", "--json", "--batch",
      "1"})).out);
  CHECK(again["results"] == j["results"]);
  CHECK(again["task_hashes"] == j["task_hashes"]);
  const Ended table = run(t, eval({"--tasks", "niah", "--length", "2048", "--limit", "1"}));
  CHECK(table.code == 0);
  for (const char* text : {"niah_multikey_3 ", "niah_multiquery ",
      "ruler-like: with this project's sentences"}) CHECK(table.out.find(text) != std::string::npos);

  refuses(t, eval({"--tasks", "niah_single_1,vt", "--length", "1024"}), 78, "eval: vt does not fit into --length 1024: with this tokenizer it takes ");
  refuses(t, eval({"--tasks", "vt", "--length", "2048", "1024", "2048"}), 2, "eval: --length 2048 is given twice");
  refuses(t, eval({"--tasks", "qa_squad"}), 66, "eval: qa_squad wants --squad FILE");
  refuses(t, eval({"--tasks", "niah", "niah_single_1"}), 2, "eval: task 'niah_single_1' is named twice");
  refuses(t, eval({"--tasks", "niah", "--templates", t.dir("nowhere")}), 66, "holds no template");
  refuses(t, eval({"--tasks", "niah", "--haystack", t.dir("nowhere")}), 66, "nowhere");
  write_file(t / "nouns", " ");
  refuses(t, eval({"--tasks", "niah", "--words-noun", t.dir("nouns")}), 65, "nouns: must hold words; it holds none");
}

TEST_CASE("eval: without --output what is found is kept in the run's directory, where report finds it; a run that cannot be written to is evaluated too") {
  const Trained t;
  t.file("text.jsonl", "{\"text\": \"state decays with position\"}\n");
  const std::vector<std::string> task{"--tasks", "text", "--json"};
  const auto with = [](std::vector<std::string> a, const std::vector<std::string>& more) {
    a.insert(a.end(), more.begin(), more.end());
    return a;
  };
  const auto kept = [&] {
    std::vector<std::string> names;
    std::error_code none;
    for (const auto& f : fs::directory_iterator(t / "r" / "evaluations", none)) names.push_back(f.path().filename().string());
    std::ranges::sort(names);
    return names;
  };
  const Ended tasks = run(t, t.eval(with(task, {"--samples"})));
  REQUIRE_MESSAGE(tasks.code == 0, tasks.err);
  REQUIRE(kept().size() == 2);
  CHECK(kept()[0].starts_with("results_20"));
  CHECK(kept()[1].starts_with("samples_text_20"));
  CHECK(tasks.err.find("eval: kept in ") != std::string::npos);
  CHECK(tasks.err.ends_with("r/evaluations/" + kept()[0] + "\n"));
  CHECK(run(t, t.eval(with(task, {"--resume"}))).err.find("text: in ") == 0);
  CHECK(kept().size() == 2);

  // Of a checkpoint inside the run, too; of one that stands alone nothing is kept.
  const std::string inside = t.dir("r") + "/checkpoints/step-000006/";
  const std::vector<std::string> held_out{"--device", "cpu", "--tokens", "500", "--json"};
  const Ended held = run(t, with({"eval", inside}, held_out));
  CHECK_MESSAGE(held.code == 0, held.err);
  REQUIRE(kept().size() == 3);
  CHECK(kept()[0].starts_with("held_out_20"));
  const auto file = nlohmann::json::parse(read_file(t / "r" / "evaluations" / kept()[0]));
  CHECK(file["results"] == nlohmann::json::parse(held.out)["results"]);
  CHECK(file["training_length"] == 32);
  fs::copy(inside, t / "alone", fs::copy_options::recursive);
  const Ended alone = run(t, with({"eval", t.dir("alone"), "--data", t.data()}, held_out));
  CHECK_MESSAGE(alone.code == 0, alone.err);
  CHECK(alone.err.empty());
  CHECK(nlohmann::json::parse(alone.out)["results"] == file["results"]);
  for (const auto& f : fs::directory_iterator(t / "alone")) CHECK(f.path().filename() != "evaluations");

  const Ended report = run(t, {"report", t.dir("r")});
  REQUIRE_MESSAGE(report.code == 0, report.err);
  const std::string page = read_file(t / "r" / "report.html");
  CHECK(page.find("<th scope=\"row\">text<br><small>bits_per_byte") != std::string::npos);
  CHECK(page.find("<th scope=\"row\">held-out text<br><small>32 tokens: loss") != std::string::npos);

  // A file stands where the directory should be: said, and nothing lost.
  fs::remove_all(t / "r" / "evaluations");
  write_file(t / "r" / "evaluations", "");
  const Ended blocked = run(t, t.eval(task));
  CHECK(blocked.code == 0);
  CHECK(blocked.err.find("eval: results are not kept: cannot create ") == 0);
  CHECK(std::ranges::count(blocked.err, '\n') == 1);
  CHECK(nlohmann::json::parse(blocked.out)["results"] == nlohmann::json::parse(tasks.out)["results"]);
  CHECK(fs::file_size(t / "r" / "evaluations") == 0);
}

TEST_CASE("eval --resume: what a results file holds is taken over, whole; other settings begin anew") {
  const Trained t;
  t.file("piqa.jsonl",
         "{\"goal\": \"slow\", \"sol1\": \"head\", \"sol2\": \"decays with\", \"label\": 1}\n{\"goal\": \"the\", \"sol1\": \"a\", \"sol2\": \"state\", "
         "\"label\": 1}\n");
  t.file("text.jsonl", "{\"text\": \"state decays with position\"}\n");
  const std::vector<std::string> all{"--tasks", "piqa,text,niah_single_1", "--length", "1024", "--limit", "2", "--output", t.dir("out"), "--json"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> a = all;
    a.insert(a.end(), more.begin(), more.end());
    return t.eval(a);
  };
  const auto files = [&] {
    int64_t n = 0;
    for (const auto& f : fs::recursive_directory_iterator(t / "out")) n += f.is_regular_file();
    return n;
  };
  REQUIRE(run(t, t.eval({"--tasks", "piqa,niah_single_1", "--length", "1024", "--limit", "2", "--output", t.dir("out"), "--json"})).code == 0);
  CHECK(files() == 1);
  const Ended resumed = run(t, with({"--resume"}));
  REQUIRE_MESSAGE(resumed.code == 0, resumed.err);
  CHECK(resumed.err.find("piqa: in ") != std::string::npos);
  CHECK(resumed.err.find("niah_single_1: in ") != std::string::npos);
  CHECK(resumed.err.find("text: in ") == std::string::npos);
  CHECK(files() == 1);
  const Ended whole = run(t, with({}));  // without it: a file of its own
  CHECK(files() == 2);
  const auto a = nlohmann::json::parse(resumed.out), b = nlohmann::json::parse(whole.out);
  for (const char* key : {"results", "task_hashes", "configs", "n-samples", "versions", "higher_is_better"}) CHECK_MESSAGE(a[key] == b[key], key);
  CHECK(run(t, with({"--resume", "--softmax", "bf16-emulate"})).err.find("in ") == std::string::npos);
  CHECK(files() == 3);
  CHECK(run(t, with({"--resume", "--seed", "5"})).err.find("niah_single_1: in ") == std::string::npos);
  const auto nouns = [&](const char* text) {
    write_file(t / "nouns", text);
    return run(t, with({"--resume", "--words-noun", t.dir("nouns")})).err.find("niah_single_1: in ") != std::string::npos;
  };
  CHECK_FALSE(nouns("owl elk emu"));
  CHECK(nouns("owl elk emu"));
  CHECK_FALSE(nouns("owl elk gnu"));  // in the same file
  CHECK(run(t, with({"--resume", "--samples"})).err.find(": in ") == std::string::npos);  // no answers were kept
  CHECK(run(t, with({"--resume", "--samples"})).err.find("niah_single_1: in ") != std::string::npos);

  t.file("piqa.jsonl",
         "{\"goal\": \"slow\", \"sol1\": \"head\", \"sol2\": \"decays with\", \"label\": 0}\n{\"goal\": \"the\", \"sol1\": \"a\", \"sol2\": \"state\", "
         "\"label\": 1}\n");
  const std::string other_label = run(t, with({"--resume"})).err;
  CHECK(other_label.find("piqa: in ") == std::string::npos);
  CHECK(other_label.find("text: in ") != std::string::npos);
  fs::remove_all(t / "r");  // another model in the same place, as many steps old
  REQUIRE(run(t, t.train("r", {"--set", "train.steps=6", "--set", "run.seed=9"})).code == 0);
  const Ended other_model = run(t, with({"--resume"}));
  CHECK(other_model.code == 0);
  CHECK(other_model.err.find(": in ") == std::string::npos);
}
