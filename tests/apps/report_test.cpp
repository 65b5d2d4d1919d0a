// `taper report`: what stands in the page, by value; what it says of runs that are broken, unfinished or none.
#include <doctest/doctest.h>
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/config.h"
#include "apps/history.h"
#include "apps/report_page.h"
#include "tensor/error.h"
#include "tests/apps/tiny.h"

using namespace taper;
using namespace taper::test;

namespace {

// A run whose page can be computed by hand: 5 logged steps of 10 tokens, two evaluations, two spectra.
void write_run(const Path& dir, const std::string& set = "") {
  fs::create_directories(dir);
  write_file(dir / "config.toml",
             "[run]\ndir = \"elsewhere\"\n[model]\npost = true\nd_model = 16\nlayers = 1\nheads = 2\nhead_dim = 16\nd_state = 8\nvocab = 20\n"
             "[data]\nsequence = 16\n[train]\nsteps = 40\n" +
                 set);
  write_file(dir / "metrics.jsonl",
             "{\"step\":1,\"tokens\":10,\"loss\":4,\"norm\":1,\"lr\":0.001}\n{\"step\":10,\"tokens\":100,\"loss\":3,\"norm\":2,\"lr\":0.002}\n"
             "{\"step\":20,\"tokens\":200,\"loss\":2.5,\"norm\":1.5,\"lr\":0.002}\n"
             "{\"step\":20,\"eval\":{\"tokens\":50,\"loss\":3.5,\"bits_per_byte\":5.0494,\"by_position\":[{\"begin\":1,\"end\":2,\"tokens\":5,\"loss\":4},{"
             "\"begin\":2,\"end\":4,\"tokens\":5,\"loss\":3}]}}\n"
             "{\"step\":30,\"tokens\":300,\"loss\":2.25,\"norm\":1,\"lr\":0.001}\n{\"step\":40,\"tokens\":400,\"loss\":2,\"norm\":1,\"lr\":0}\n"
             "{\"step\":40,\"eval\":{\"tokens\":50,\"loss\":3,\"bits_per_byte\":4.3281,\"by_position\":[{\"begin\":1,\"end\":2,\"tokens\":5,\"loss\":3.5},{"
             "\"begin\":2,\"end\":4,\"tokens\":5,\"loss\":2.5}]}}\n");
  write_file(dir / "spectra.jsonl",
             "{\"step\":0,\"tokens\":0,\"layers\":[{\"rate\":[0.01,1],\"time_constant\":[100,1],\"alpha\":[1,0]}]}\n"
             "{\"step\":40,\"tokens\":400,\"layers\":[{\"rate\":[0.02,1],\"time_constant\":[50,1],\"alpha\":[1,0.25]}]}\n");
  write_file(dir / "timings.jsonl",
             "{\"step\":1,\"unix_time\":7,\"seconds\":5}\n{\"step\":10,\"seconds\":14}\n{\"step\":20,\"seconds\":24}\n{\"step\":30,\"seconds\":34}\n{\"step\":"
             "40,\"seconds\":54}\n");
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++n;
  return n;
}
std::string between(const std::string& text, const std::string& from, const std::string& to) {
  const size_t begin = text.find(from);
  if (begin == text.npos) return "";
  return text.substr(begin, text.find(to, begin + from.size()) - begin);
}

void append(const Path& file, const std::string& text) { append_bytes(file, text); }

}  // namespace

TEST_CASE("report: a run's page holds its curves at the coordinates of its numbers") {
  const Scratch s;
  write_run(s / "a");
  const Ended e = run(s, {"report", (s / "a").string()});
  REQUIRE_MESSAGE(e.code == 0, e.err);
  CHECK(e.err.empty());
  CHECK(e.out.starts_with((s / "a" / "report.html").string() + ": 1 run, "));
  const std::string page = read_file(s / "a" / "report.html");
  CHECK(page.starts_with("<!doctype html>\n<html lang=\"en\">\n"));
  CHECK(has(page, "<title>a</title>"));
  CHECK(has(page, "One run · Mamba-2 + PoST · 400 tokens · lowest held-out loss 3.0000 (4.3281 bits per byte)"));

  // Loss, 340 px high, from 2 to 4 (the next ticks): step 0 .. 40 is 0 .. 20000, loss 4 .. 2 is 0 .. 34000.
  const std::string loss = between(page, "<section id=\"loss\"", "</section>");
  const std::string steps = between(loss, "<div class=\"steps\">", "<div class=\"tokens\">");
  CAPTURE(steps);
  CHECK(has(steps, "data-x=\"0 40 0\" data-y=\"2 4 0\""));
  CHECK(has(steps, "data-name=\"training\" d=\"m500 0 4500 17000 5000 8500 5000 4250 5000 4250\"/>"));
  CHECK(has(steps, "data-name=\"held out\" d=\"m10000 8500 10000 8500\"/>"));
  CHECK(count(steps, "<circle") == 2);
  CHECK(has(between(loss, "<div class=\"tokens\">", "<div class=\"time\">"), "data-x=\"0 400 0\""));
  CHECK(has(between(loss, "<div class=\"time\">", "</figure>"), "data-x=\"0 54 0\""));
  // At 5, 14, 24, 34 and 54 seconds of 54.
  CHECK(has(between(loss, "<div class=\"time\">", "</figure>"), "data-name=\"training\" d=\"m1852 0 3333 17000 3704 8500 3704 4250 7407 4250\"/>"));
  CHECK(has(loss, "<tr><th class=\"n\" scope=\"row\">40</th><td class=\"n r0\">2.0000</td><td class=\"n r0\">3.0000</td></tr>"));

  // Speed: 9 steps of 10 tokens in 9 s, the last 10 steps in 20 s; the first line has none. 0 .. 10 is 19000 .. 0.
  const std::string training = between(page, "<section id=\"training\"", "</section>");
  CHECK(has(training, "data-yn=\"tokens per second\""));
  CHECK(has(training, "d=\"m5000 0 5000 0 5000 0 5000 9500\"/>"));
  CHECK(has(training, "The dotted line, 1, is where it is clipped."));

  // Positions 1 and 2-3 (at the square root of 6), on a logarithmic axis to 3; loss 3.5 and 2.5.
  const std::string positions = between(page, "<section id=\"positions\"", "</section>");
  CHECK(has(positions, "data-x=\"1 3 1\" data-y=\"2.5 3.5 0\""));
  CHECK(has(positions, "d=\"m0 0 16309 26000\"/>"));  // log 6 / log 9 of the width
  CHECK(has(positions, "<tr><th scope=\"row\">2–3</th><td class=\"n r0\">2.5000</td></tr>"));

  // Spectra: the slowest head from 100 to 50 tokens; alpha of the faster from 0 to 0.25; the gap log(1 / 0.02).
  const std::string spectra = between(page, "<section id=\"spectra\"", "</section>");
  CHECK(has(spectra,
            "<tr><th class=\"n\" scope=\"row\">0</th><td class=\"n\">100 → 50</td><td class=\"n\">100 → 50</td><td class=\"n\">1 → 1</td><td class=\"n\">0.500 "
            "→ 0.625</td></tr>"));
  CHECK(has(spectra, "data-size=\"1 2 2 0\" data-names=\"layer head\" data-values=\"50,1\""));
  CHECK(has(spectra, "data-values=\"1,0.25\""));
  CHECK(has(spectra, "data-size=\"1 1 1 1\" data-names=\"layer head\" data-values=\"3.912\""));
  CHECK(has(spectra, "α moved most in layer 0, head 1: from 0 to 0.25."));

  CHECK(has(page, "<td class=\"n\" data-name=\"steps\"><span>40</span></td>"));
  CHECK(has(page, "<td class=\"n\" data-name=\"tokens/s\"><span>10</span></td>"));
  CHECK(has(page, "<td class=\"n\" data-name=\"time\"><span>54s</span></td>"));
  CHECK(!has(page, "elsewhere"));  // where the run was made is not where it is

  // The same again is the same page; the file is replaced whole.
  REQUIRE(run(s, {"report", (s / "a").string()}).code == 0);
  CHECK(read_file(s / "a" / "report.html") == page);
}

TEST_CASE("report: the page needs nothing but itself") {
  const Scratch s;
  write_run(s / "a");
  const std::string page = report_page({read_history(s / "a")}, "t");
  for (const char* outside : {"http:", "https:", "//cdn", "src=", "href=", "@import", "url(", "fetch(", "XMLHttp"}) {
    CAPTURE(outside);
    CHECK(count(page, outside) == count(page, "http://www.w3.org/2000/svg") * (std::string(outside) == "http:"));
  }
  CHECK(has(page, "content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\""));
}

TEST_CASE("report: several runs are told apart, compared, and escaped") {
  const Scratch s;
  write_run(s / "x" / "<script>alert(1)&\"'", "[optimizer]\nlr = 0.5\n");
  write_run(s / "y" / "same");
  write_run(s / "z" / "same");
  const std::vector<std::string> runs{(s / "x" / "<script>alert(1)&\"'").string(), (s / "y" / "same").string(), (s / "z" / "same/").string()};
  const Ended e = run(s, {"report", runs[0], runs[1], runs[2], "-o", (s / "r.html").string(), "--title", "<b>All</b>"});
  REQUIRE_MESSAGE(e.code == 0, e.err);
  const std::string page = read_file(s / "r.html");
  CHECK(has(page, "<h1>&lt;b&gt;All&lt;/b&gt;</h1>"));
  CHECK(!has(page, "<script>alert"));
  CHECK(count(page, "<script>") == 1);
  CHECK(has(page, "&lt;script&gt;alert(1)&amp;&quot;&#39;"));
  CHECK(has(page, "<span>y/same</span>"));
  CHECK(has(page, "<span>z/same</span>"));
  CHECK(has(page, "body:has(#run2:not(:checked)) .r2{display:none}"));
  CHECK(has(page, "data-name=\"z/same, held out\""));
  // The one key that differs, marked where it is peculiar.
  const std::string config = between(page, "<section id=\"configuration\"", "</section>"), differences = config.substr(0, config.find("<details>"));
  CHECK(count(differences, "<tr class=\"differs\">") == 1);
  CHECK(has(differences, "<code>optimizer.lr</code></th><td class=\"wrap r0 own\"><code>0.5</code></td><td class=\"wrap r1\"><code>0.001</code></td>"));
  CHECK(has(config, "<code>optimizer.eps</code>"));
  std::vector<History> two{read_history(runs[0]), read_history(runs[1])};  // of two values neither is usual: the second run's is marked
  CHECK(has(report_page(two, "t"), "<td class=\"wrap r0\"><code>0.5</code></td><td class=\"wrap r1 own\"><code>0.001</code></td>"));
  CHECK(!has(config, "run.dir"));
  // The best of a column is bold, for all that have it.
  CHECK(count(page, "<b>3.0000</b><span class=\"hidden\"> (best)</span>") == 3);
}

TEST_CASE("report: evaluations in the harness's form; of a task evaluated twice the newest") {
  const Scratch s;
  write_run(s / "a");
  write_run(s / "b");
  fs::create_directories(s / "a" / "eval" / "model");
  write_file(
      s / "a" / "results_2026-01-01T00-00-00.json",
      R"({"results":{"piqa":{"alias":"piqa","acc,none":0.1,"acc_stderr,none":0.5},"wiki":{"word_perplexity,none":123456.7,"word_perplexity_stderr,none":"N/A"}}})");
  write_file(
      s / "a" / "eval" / "model" / "results_2026-01-02T00-00-00.json",
      R"({"results":{"piqa":{"alias":" <i>","acc,none":0.6,"acc_stderr,none":0.0114}},"n-shot":{"piqa":0},"n-samples":{"piqa":{"original":1838,"effective":1838}},"higher_is_better":{"piqa":{"acc":true}}})");
  write_file(
      s / "b" / "results_x.json",
      R"({"results":{"piqa":{"acc,none":0.55,"acc_stderr,none":0.0116}},"n-samples":{"piqa":{"effective":1838}},"higher_is_better":{"piqa":{"acc":true}}})");
  write_file(s / "b" / "results_y.json", R"({"scores":[]})");
  std::vector<History> runs{read_history(s / "a"), read_history(s / "b")};
  name_runs(runs);
  CHECK(runs[1].notes == std::vector<std::string>{"results_y.json: not a file of results; left out"});
  const std::string table = between(report_page(runs, "t"), "<section id=\"evaluations\"", "</section>");
  CHECK(has(table,
            "<th scope=\"row\">piqa<br><small>acc ↑<span class=\"hidden\"> (higher is better)</span>, 0 shots, n = 1,838</small></th>"
            "<td class=\"n r0\"><b>0.6000</b><span class=\"hidden\"> (best)</span><br><small>± 0.0114</small></td><td class=\"n r1\">0.5500<br><small>± "
            "0.0116</small></td>"));
  CHECK(has(table, "<th scope=\"row\">wiki<br><small>word_perplexity</small></th><td class=\"n r0\">123.457k</td><td class=\"n r1\">–</td>"));
}

TEST_CASE("report: what eval --by-position left: losses beyond the training length and by limited context; the newest file counts") {
  const Scratch s;
  write_run(s / "a");
  write_run(s / "b");
  fs::create_directories(s / "a" / "evaluations");
  write_file(s / "a" / "evaluations" / "by_position_2026-01-01T00-00-00.json", "{\"step\":1}");  // noted; the next one counts
  const auto file = [](const char* documents, const char* losses) {
    return fmt::format(
        R"({{"checkpoint":"c","step":40,"training_length":16,"length":256,"documents":"{}","by_position":[{{"begin":1,"end":2,"tokens":9,"loss":3}},)"
        R"({{"begin":16,"end":17,"tokens":9,"loss":2}},{{"begin":256,"end":257,"tokens":9,"loss":5}}],"by_context":[{}],"targets":12,)"
        R"("effective_context":64,"layers":[]}})",
        documents, losses);
  };
  write_file(s / "a" / "evaluations" / "by_position_2026-01-02T00-00-00.json",
             file("carry", R"({"context":16,"loss":4,"stderr":0.5},{"context":64,"loss":3,"stderr":0.25},{"context":256,"loss":3,"stderr":0.125})"));
  History a = read_history(s / "a");
  CHECK(a.notes == std::vector<std::string>{"evaluations/by_position_2026-01-01T00-00-00.json: not a file of losses by position; left out"});
  const std::string one = between(report_page({a}, "t"), "<section id=\"positions\"", "</section>");
  CHECK(count(one, "<figure>") == 3);
  // Losses 3, 2, 5 of 2 .. 5 at positions 1, 16, 256 of 1 .. 256: left, half way, right of the grid, 260 px high.
  CHECK(has(one, "data-x=\"1 256 1\" data-y=\"2 5 0\" data-xn=\"position in the window, tokens\""));
  CHECK(has(one, "d=\"m0 17333 10000 8667 10000-26000\"/>"));
  CHECK(has(one, "<g class=\"rule\"><line x1=\"50%\" x2=\"50%\" y2=\"260\"/><text x=\"50%\" dx=\"-5\" y=\"12.0\">trained at 16</text></g>"));
  CHECK(has(one, "<tr><th scope=\"row\">256</th><td class=\"n r0\">5.0000</td></tr>"));
  CHECK(has(one, "Beyond the training length (taper eval --by-position, step 40): windows of 256 tokens, one document behind another."));
  // 4, 3, 3 of 3 .. 4 behind 16, 64, 256 of 16 .. 256 tokens.
  CHECK(has(one, "data-x=\"16 256 1\" data-y=\"3 4 0\" data-xn=\"tokens of context\""));
  CHECK(has(one, "d=\"m0 0 10000 26000 10000 0\"/>"));
  CHECK(has(one, "<tr><th class=\"n\" scope=\"row\">64</th><td class=\"n r0\">3.0000 ± 0.2500</td></tr>"));
  CHECK(has(one, "<tr><th scope=\"row\">effective context</th><td class=\"n r0\">64</td></tr>"));

  // A passage read again, where the file has that: gains 2, 1 of 1 .. 2 at 32 and 128 tokens.
  write_file(s / "a" / "evaluations" / "by_position_2026-01-03T00-00-00.json",
             file("carry", "")
                 .replace(0, 1,
                          R"({"passage":32,"passages":20,"by_distance":[{"distance":32,"loss":1,"unseen_loss":3,"gain":2,"gain_stderr":0.5,"right":0.75},)"
                          R"({"distance":128,"loss":2,"unseen_loss":3,"gain":1,"gain_stderr":null}],)"));
  const std::string again = between(report_page({read_history(s / "a")}, "t"), "Gain from having read a passage before", "</figure>");
  CHECK(has(again, "data-x=\"32 128 1\" data-y=\"1 2 0\" data-xn=\"tokens between the two\" data-yn=\"gain, nats per token\""));
  CHECK(has(again, "d=\"m0 0 20000 26000\"/>"));
  CHECK(has(again, "<td class=\"n r0\">2.0000 ± 0.5000<br><small>75.0% right</small></td>"));
  CHECK(has(again, "<td class=\"n r0\">1.0000</td>"));
  CHECK(has(again, "Recall: a passage of 32 tokens read a second time"));
  CHECK(has(again, "(20 passages)"));

  // A second run that has none stays out of these charts, and one that has it is overlaid.
  std::vector<History> runs{read_history(s / "b"), a};
  name_runs(runs);
  const std::string of_one = between(report_page(runs, "t"), "Held-out loss by position, beyond", "</figure>");
  CHECK(has(of_one, "<path class=\"r1 s1\" data-name=\"a\""));
  CHECK(!has(of_one, "data-name=\"b\""));
  write_file(s / "b" / "by_position.json", file("reset", ""));
  runs[0] = read_history(s / "b");
  name_runs(runs);
  const std::string two = between(report_page(runs, "t"), "<section id=\"positions\"", "</section>");
  CHECK(has(two, "windows of 256 tokens, within documents or one document behind another."));
  CHECK(has(between(two, "Held-out loss by position, beyond", "</figure>"), "data-name=\"b\""));
  CHECK(!has(between(two, "Held-out loss behind limited contexts", "</figure>"), "data-name=\"b\""));
  CHECK(count(two, "trained at 16") == 2);  // equal lengths are one line in each chart
}

TEST_CASE("report: scores by length: RULER's from results, MQAR's from held-out evaluations, in the order of lengths") {
  const Scratch s;
  write_run(s / "a");
  write_run(s / "b");
  write_file(
      s / "a" / "results_1.json",
      R"({"results":{"vt":{"16384,none":0.25,"16384_stderr,none":0.125,"1024,none":0.75,"4096,none":0.5,"1024_stderr,none":"N/A"},"fwe":{"1024,none":1},)"
      R"("qa_squad":{"1024,none":0.5,"1024_any,none":1,"2048,none":0.25}},"configs":{"vt":{"templates":"ruler-like"},"qa_squad":{"templates":"ruler"}}})");
  write_file(s / "b" / "results_1.json", R"({"results":{"vt":{"2048,none":1}},"configs":{"vt":{"templates":"ruler-like"}}})");
  write_file(
      s / "b" / "held_out_1.json",
      R"({"step":40,"task":"mqar","results":[{"length":64,"pairs":16,"examples":9,"loss":1,"accuracy":1},{"length":256,"pairs":16,"examples":9,"loss":1,)"
      R"("accuracy":0.75},{"length":256,"pairs":64,"examples":9,"loss":1,"accuracy":0.5}]})");
  write_file(s / "b" / "held_out_2.json", R"({"step":40,"task":"mqar","results":[{"length":256,"pairs":64,"examples":9,"loss":1,"accuracy":0.25}]})");
  write_file(s / "a" / "held_out_1.json", R"({"step":40,"task":"text","data":"","results":[{"length":16,"tokens":90,"loss":2,"bits_per_byte":3}]})");
  write_file(s / "a" / "held_out_2.json", R"({"step":40,"task":"text","data":"x<y","results":[{"length":16,"tokens":90,"loss":4}]})");
  std::vector<History> runs{read_history(s / "a"), read_history(s / "b")};
  name_runs(runs);
  CHECK(runs[0].notes.empty());
  CHECK(runs[1].notes.empty());
  const std::string page = report_page(runs, "t"), answers = between(page, "<section id=\"answers\"", "</section>");
  CHECK(count(answers, "<figure>") == 4);  // pairs: a quarter, 16; qa_squad, vt; fwe has one length alone
  // Trained at 16: from 16 to 16384 are 1024-fold. vt at 1024, 4096, 16384 of that: 0.6, 0.8, 1; 75, 50, 25 of 190 px for 100.
  const std::string vt = between(answers, "aria-label=\"vt (ruler-like): score by length\"", "</figure>");
  CHECK(has(vt, "data-x=\"16 16384 1\" data-y=\"0 100 0\""));
  CHECK(has(vt, "data-name=\"a\" d=\"m12000 4750 4000 4750 4000 4750\"/>"));
  CHECK(has(vt, "data-name=\"b\" d=\"m14000 0h0\"/>"));
  CHECK(has(vt, "y=\"207\">1K</text>"));
  CHECK(has(vt, "<text class=\"x fine\" x=\"70%\" y=\"207\">2K</text>"));  // close behind 1K
  CHECK(has(vt, "<text class=\"after\" x=\"0%\" dx=\"5\" y=\"12.0\">trained at 16</text>"));
  CHECK(has(vt, "<tr><th class=\"n\" scope=\"row\">16,384</th><td class=\"n r0\">25.0 ± 12.5</td><td class=\"n r1\">–</td></tr>"));
  CHECK(has(answers, "aria-label=\"qa_squad: score by length\""));
  CHECK(has(between(answers, "aria-label=\"16 key-value pairs: accuracy by length\"", "</figure>"),
            "data-name=\"b\" d=\"m10000 0 10000 4750\"/>"));  // 64 and 256 of 16 .. 256
  CHECK(has(between(answers, "aria-label=\"key-value pairs, a quarter of the length: accuracy by length\"", "</figure>"),
            "data-name=\"b\" d=\"m10000 0 10000 14250\"/>"));  // the newer file's
  const std::string table = between(page, "<section id=\"evaluations\"", "</section>");
  std::vector<size_t> places;
  for (const char* row : {"<small>1024,", "<small>2048,", "<small>4096,", "<small>16384,"}) places.push_back(table.find(row, table.find("row\">vt")));
  CHECK(std::ranges::is_sorted(places));
  CHECK(places.back() != table.npos);
  CHECK(has(table, "<small>1024, ruler-like</small></th><td class=\"n r0\">0.7500</td><td class=\"n r1\">–</td>"));
  CHECK(has(table,
            "<th scope=\"row\">held-out text<br><small>16 tokens: loss ↓<span class=\"hidden\"> (lower is better)</span>, n = 90</small></th><td class=\"n "
            "r0\"><b>2.0000</b>"));
  CHECK(has(table, "<th scope=\"row\">held-out text<br><small>16 tokens: bits per byte"));
  CHECK(has(table, "<th scope=\"row\">held-out text, x&lt;y<br><small>16 tokens: loss"));
  CHECK(has(table, "<small>64 tokens, 16 pairs: accuracy ↑"));
}

TEST_CASE("report: MQAR's accuracy is drawn, and there is no held-out loss") {
  const Scratch s;
  write_run(s / "a");
  write_file(s / "a" / "metrics.jsonl",
             "{\"step\":10,\"tokens\":100,\"loss\":3,\"norm\":2,\"lr\":0.002}\n{\"step\":10,\"eval\":[{\"length\":64,\"pairs\":4,\"loss\":1,\"accuracy\":0.25},"
             "{\"length\":128,\"pairs\":8,\"loss\":2,\"accuracy\":0.75}]}\n");
  const std::string page = report_page({read_history(s / "a")}, "t");
  CHECK(has(page, "length 64, 4 pairs: accuracy, %"));
  CHECK(has(page, "data-y=\"0 100 0\""));
  CHECK(has(page, "d=\"m20000 14250h0\"/>"));  // a quarter of 190 px
  CHECK(has(page, "<td class=\"n\" data-name=\"accuracy\"><span>50.00%</span></td>"));
  CHECK(!has(page, "held out"));
  CHECK(!has(page, "id=\"positions\""));
}

TEST_CASE("report: broken, unfinished and missing logs are notes; what is whole is shown") {
  const Scratch s;
  write_run(s / "a");
  const Path metrics = s / "a" / "metrics.jsonl";
  append(metrics,
         "{\"step\":50,\n\n[1,2]\n{\"step\":\"x\",\"tokens\":1}\n{\"step\":60,\"tokens\":600,\"loss\":null,\"norm\":null,\"lr\":1}\n{\"step\":70,\"tok");
  write_file(s / "a" / "spectra.jsonl", "{\"step\":0,\"layers\":[]}\n{\"step\":0,\"layers\":[{\"rate\":[1],\"time_constant\":[1,2],\"alpha\":[1]}]}\n");
  fs::remove(s / "a" / "timings.jsonl");
  History a = read_history(s / "a");
  CHECK(a.notes == std::vector<std::string>{
                       "metrics.jsonl: the last line is not whole: the run is being written, or was cut off; left out",
                       "metrics.jsonl:8: not a line of this log (nor are 2 more); left out",
                       "loss or gradient was not finite at 1 logged step, first at step 60",
                       "spectra.jsonl:1: not a line of this log (nor is 1 more); left out"});
  CHECK(a.steps.size() == 6);
  const Ended e = run(s, {"report", (s / "a").string()});
  CHECK(e.code == 0);
  CHECK(has(e.err, "report: a: metrics.jsonl:8: not a line of this log (nor are 2 more); left out\n"));
  const std::string page = read_file(s / "a" / "report.html");
  CHECK(has(page, "<li><b>a</b>: metrics.jsonl:8: not a line"));
  CHECK(!has(page, "id=\"spectra\""));
  CHECK(!has(page, "id=\"x-time\""));
  CHECK(!has(page, ">nan<"));

  // A last line that is whole but for its end counts.
  write_run(s / "b");
  append(s / "b" / "metrics.jsonl", "{\"step\":50,\"tokens\":500,\"loss\":1.5,\"norm\":1,\"lr\":0}");
  CHECK(read_history(s / "b").steps.size() == 6);
  CHECK(read_history(s / "b").notes.empty());

  // A run that has only begun, a configuration of a later version, a directory without a configuration.
  fs::create_directories(s / "c");
  write_file(s / "c" / "config.toml", "[model]\nvocab = 7\nhyper = 1\n");
  History c = read_history(s / "c");
  REQUIRE(c.notes.size() == 2);
  CHECK(has(c.notes[0], "config.toml: not understood: config "));
  CHECK(has(c.notes[0], "no key 'hyper' in [model]"));
  CHECK(c.notes[1] == "metrics.jsonl: is not there yet");
  CHECK(run(s, {"report", (s / "c").string()}).code == 0);
  CHECK(has(read_file(s / "c" / "report.html"), "<section id=\"runs\""));
  fs::create_directories(s / "d");
  write_file(s / "d" / "metrics.jsonl", "");
  CHECK(read_history(s / "d").notes == std::vector<std::string>{"config.toml: is not there"});
  CHECK(run(s, {"report", (s / "d").string()}).code == 0);
}

TEST_CASE("report: a log that says a step twice: the later counts, and time goes on") {
  const Scratch s;
  write_run(s / "a");
  // Killed after step 40, resumed after step 20: a new process counts from zero.
  append(s / "a" / "timings.jsonl", "{\"step\":21,\"seconds\":2}\n{\"step\":30,\"seconds\":4.5}\n{\"step\":40,\"seconds\":9.5}\n");
  History a = read_history(s / "a");
  REQUIRE(a.speeds.size() == 6);
  CHECK(a.speeds[2].seconds == 24);
  CHECK(a.speeds[3].step == 21);
  CHECK(a.speeds[3].seconds == 26);
  CHECK(std::isnan(a.speeds[3].tokens_per_second));
  CHECK(a.speeds[5].seconds == 33.5);
  CHECK(a.speeds[4].tokens_per_second == 36);
  append(s / "a" / "metrics.jsonl", "{\"step\":30,\"tokens\":300,\"loss\":9,\"norm\":1,\"lr\":0.001}\n");
  a = read_history(s / "a");
  CHECK(a.steps.size() == 4);
  CHECK(a.steps.back().loss == 9);
  CHECK(a.notes == std::vector<std::string>{"metrics.jsonl: goes back to step 30; what it says later counts"});
}

TEST_CASE("report: bad input") {
  const Scratch s;
  write_run(s / "a");
  write_run(s / "b");
  const std::string a = (s / "a").string(), b = (s / "b").string();
  refuses(s, {"report", (s / "none").string()}, 66, "report: " + (s / "none").string() + ": no such run");
  refuses(s, {"report", a, (s / "none").string(), "-o", (s / "r.html").string()}, 66, "none: no such run");
  CHECK(!fs::exists(s / "r.html"));
  fs::create_directories(s / "empty");
  refuses(s, {"report", (s / "empty").string()}, 66, "empty: a run's directory is wanted; it has neither config.toml nor metrics.jsonl");
  refuses(s, {"report", a, b}, 2, "report: several runs want a file to write; give -o FILE.html");
  refuses(s, {"report", a, a + "/.", "-o", (s / "r.html").string()}, 2, "report: each run once; ");
  refuses(s, {"report"}, 2, "RUN is required");
  refuses(s, {"report", a, "-o", (s / "nowhere" / "r.html").string()}, 73, "nowhere/r.html");
  write_file(s / "a" / "report.html", "before");
  refuses(s, {"report", a}, 74, "report.html", 1000);  // no more than 1000 bytes may be written
  CHECK(read_file(s / "a" / "report.html") == "before");
}

TEST_CASE("report: many runs: no faint curves, folded spectra, dashes where colours begin again") {
  const Scratch s;
  std::vector<History> runs;
  for (int i = 0; i < 10; ++i) {
    const Path dir = s / ("run" + std::to_string(i));
    write_run(dir);
    std::string lines;
    for (int step = 1; step <= 30; ++step)
      lines += fmt::format("{{\"step\":{},\"tokens\":{},\"loss\":{},\"norm\":1,\"lr\":0.1}}\n", step, step, 3 + i - 0.01 * step);
    write_file(dir / "metrics.jsonl", lines);
    runs.push_back(read_history(dir));
  }
  name_runs(runs);
  const std::string page = report_page(runs, "t");
  CHECK(count(page, " faint\" data-name") == 0);
  CHECK(count(page, "<details class=\"run r0\" open>") == 1);
  CHECK(count(page, "<details class=\"run r9\">") == 1);
  CHECK(has(page, ".s9{stroke:var(--s1)}"));
  CHECK(has(page, "path.s9{stroke-dasharray:9 4}"));
  runs.resize(6);
  CHECK(count(report_page(runs, "t"), " faint\" data-name") == 3 * 2 * 6);  // loss and norm, over three axes
}

TEST_CASE("report: many steps make a page that is small all the same") {
  const Scratch s;
  write_run(s / "a");
  std::string lines, spectra = "{\"rate\":[0.5", alpha = "[1";
  for (int step = 1; step <= 100000; ++step)
    lines += fmt::format("{{\"step\":{},\"tokens\":{},\"loss\":{:.6f},\"norm\":{:.4f},\"lr\":{:.3e}}}\n", step, step * 64,
                         3 + 3.0 / step + 0.3 * std::sin(step * 12.9898), 1 + 0.5 * std::cos(step * 78.233), 1e-3 / step);
  write_file(s / "a" / "metrics.jsonl", lines);
  std::string rates = "1", all;
  for (int c = 1; c < 2048; ++c) rates += fmt::format(",{}", 1 + c);
  const std::string layer = fmt::format("{{\"rate\":[{0}],\"time_constant\":[{0}],\"alpha\":[{0}]}}", rates);
  for (int step = 0; step < 50; ++step) all += fmt::format("{{\"step\":{},\"layers\":[{},{}]}}\n", step, layer, layer);
  write_file(s / "a" / "spectra.jsonl", all);
  const std::string page = report_page({read_history(s / "a")}, "t");
  CHECK(page.size() > 100e3);
  CHECK(page.size() < 400e3);
  CHECK(has(page, "data-name=\"slowest\""));
  CHECK(has(page, "data-name=\"50% are slower\""));
}
