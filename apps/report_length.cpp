// The report's charts of length: loss by position and by limited context, answers by the text's length.
#include <fmt/format.h>

#include <map>
#include <set>

#include "apps/report_charts.h"

namespace taper {
namespace {

using namespace plot;
using Runs = std::vector<History>;

// What differs between runs, each once, in their order: "400, 380".
class Distinct {
 public:
  void add(const std::string& text) {
    if (std::ranges::find(all_, text) == all_.end()) all_.push_back(text);
  }
  std::string text(const char* between = ", ") const { return fmt::format("{}", fmt::join(all_, between)); }

 private:
  std::vector<std::string> all_;
};

std::string run_heads(const Runs& runs, const std::vector<size_t>& which) {
  std::string head;
  for (const size_t r : which) head += fmt::format("<th class=\"n r{0}\" scope=\"col\">{1}{2}</th>", r, runs.size() > 1 ? key_of(r) : "", escape(runs[r].name));
  return head;
}

std::string figure(const Chart& chart, const std::string& caption, const std::string& table) {
  return fmt::format("<figure>{}<figcaption class=\"caption\">{}</figcaption>{}</figure>", svg(chart), caption, details("As a table", table));
}

void add_marks(Chart& chart, const std::set<int64_t>& training_lengths) {
  for (const int64_t length : training_lengths) chart.marks.push_back({double(length), "trained at " + grouped(length)});
}

// A run's loss in buckets of positions.
struct Curve {
  size_t run;
  const std::vector<History::Bucket>* buckets;
};

std::string positions_figure(const Runs& runs, const std::vector<Curve>& curves, const char* title, const std::set<int64_t>& marks,
                             const std::string& caption) {
  Chart chart{.title = title, .x = {}, .y = {}, .height = 260, .series = {}};
  Range range;
  double longest = 1;
  std::set<std::pair<int64_t, int64_t>> rows;
  std::vector<size_t> which;
  for (const auto& [r, buckets] : curves) {
    Series s{.name = runs[r].name, .owner = int(r), .look = int(r), .points = {}, .dots = true, .labelled = runs.size() > 1};
    for (const History::Bucket& b : *buckets) {
      s.points.push_back({std::sqrt(double(b.begin) * double(std::max(b.begin, b.end - 1))), b.loss});
      longest = std::max(longest, double(b.end - 1));
      rows.emplace(b.begin, b.end);
    }
    range.add(s.points);
    chart.series.push_back(s);
    which.push_back(r);
  }
  if (range.empty()) return "";
  chart.x = log_axis("position in the window, tokens", 1, std::max(2.0, longest));
  chart.y = widened(linear_axis("loss, nats per token", range.low, range.high, 5));
  add_marks(chart, marks);
  std::string body;
  for (const auto& [begin, end] : rows) {
    body += fmt::format("<tr><th scope=\"row\">{}</th>", end - begin > 1 ? fmt::format("{}–{}", grouped(begin), grouped(end - 1)) : grouped(begin));
    for (const auto& [r, buckets] : curves) {
      const auto b = std::ranges::find_if(*buckets, [&](const auto& one) { return one.begin == begin && one.end == end; });
      body += fmt::format("<td class=\"n r{}\">{}</td>", r, b != buckets->end() && std::isfinite(b->loss) ? fmt::format("{:.4f}", b->loss) : "–");
    }
    body += "</tr>";
  }
  return figure(chart, caption, table_text("<th scope=\"col\">positions</th>" + run_heads(runs, which), body));
}

std::string training_positions(const Runs& runs) {
  std::vector<Curve> curves;
  Distinct steps;
  for (size_t r = 0; r < runs.size(); ++r) {
    const auto e = std::find_if(runs[r].evaluations.rbegin(), runs[r].evaluations.rend(), [](const auto& one) { return !one.buckets.empty(); });
    if (e == runs[r].evaluations.rend()) continue;
    curves.push_back({r, &e->buckets});
    steps.add(grouped(e->step));
  }
  return positions_figure(runs, curves, "Held-out loss by position in the window", {},
                          fmt::format("Held-out text at the last evaluation (step {}), in buckets of positions that double.", steps.text()));
}

std::string far_positions(const Runs& runs) {
  std::vector<Curve> curves;
  std::set<int64_t> trained;
  Distinct steps, windows, documents;
  for (size_t r = 0; r < runs.size(); ++r) {
    if (!runs[r].length_behaviour) continue;
    const History::LengthBehaviour& b = *runs[r].length_behaviour;
    curves.push_back({r, &b.buckets});
    trained.insert(b.training_length);
    steps.add(grouped(b.step)), windows.add(grouped(b.length));
    documents.add(b.documents == "carry" ? "one document behind another" : "within documents");
  }
  return positions_figure(runs, curves, "Held-out loss by position, beyond the training length", trained,
                          fmt::format("Beyond the training length (taper eval --by-position, step {}): windows of {} tokens, {}.", steps.text(),
                                      windows.text(" or "), escape(documents.text(" or "))));
}

// A loss over tokens on a logarithmic axis: of each run points and what a table's cell says of one.
struct Losses {
  struct Line {
    size_t run;
    Points points;
    std::map<int64_t, std::string> cells;
  };
  std::vector<Line> lines;
  std::set<int64_t> trained;
  void add(size_t run, int64_t tokens, double y, std::string cell) {
    if (lines.empty() || lines.back().run != run) lines.push_back({run, {}, {}});
    lines.back().points.push_back({double(tokens), y});
    lines.back().cells[tokens] = std::move(cell);
  }
};

std::string losses_figure(const Runs& runs, const Losses& all, const char* title, const char* horizontal, const char* vertical, const std::string& caption,
                          const std::string& last_rows) {
  Chart chart{.title = title, .x = {}, .y = {}, .height = 260, .series = {}};
  Range range, tokens;
  std::set<int64_t> rows;
  std::vector<size_t> which;
  for (const Losses::Line& l : all.lines) {
    chart.series.push_back({.name = runs[l.run].name, .owner = int(l.run), .look = int(l.run), .points = l.points, .dots = true, .labelled = runs.size() > 1});
    which.push_back(l.run);
    range.add(l.points);
    for (const Point& p : l.points) tokens.add(p.x);
    for (const auto& [row, cell] : l.cells) rows.insert(row);
  }
  if (range.empty()) return "";
  chart.x = log_axis(horizontal, tokens.low, tokens.high);
  chart.y = widened(linear_axis(vertical, range.low, range.high, 5));
  add_marks(chart, all.trained);
  std::string body;
  for (const int64_t row : rows) {
    body += fmt::format("<tr><th class=\"n\" scope=\"row\">{}</th>", grouped(row));
    for (const Losses::Line& l : all.lines) body += fmt::format("<td class=\"n r{}\">{}</td>", l.run, l.cells.contains(row) ? l.cells.at(row) : "–");
    body += "</tr>";
  }
  return figure(chart, caption, table_text(fmt::format("<th class=\"n\" scope=\"col\">{}</th>", horizontal) + run_heads(runs, which), body + last_rows));
}

std::string with_error(double y, double error) {
  if (!std::isfinite(y)) return "–";
  return std::isfinite(error) ? fmt::format("{:.4f} ± {:.4f}", y, error) : fmt::format("{:.4f}", y);
}

std::string contexts_figure(const Runs& runs) {
  Losses all;
  Distinct targets;
  std::string effective;
  for (size_t r = 0; r < runs.size(); ++r) {
    if (!runs[r].length_behaviour || runs[r].length_behaviour->contexts.empty()) continue;
    const History::LengthBehaviour& b = *runs[r].length_behaviour;
    for (const History::Context& c : b.contexts) all.add(r, c.tokens, c.loss, with_error(c.loss, c.error));
    all.trained.insert(b.training_length);
    targets.add(grouped(b.targets));
    effective += fmt::format("<td class=\"n r{}\">{}</td>", r, grouped(b.effective_context));
  }
  return losses_figure(runs, all, "Held-out loss behind limited contexts", "tokens of context", "loss, nats per token",
                       fmt::format("The same {} tokens, each behind exactly so many tokens of what came before it. The effective context, the shortest whose "
                                   "loss is within 0.01 of the longest's, stands in the table.", targets.text(" or ")),
                       "<tr><th scope=\"row\">effective context</th>" + effective + "</tr>");
}

std::string again_figure(const Runs& runs) {
  Losses all;
  Distinct passage, passages;
  for (size_t r = 0; r < runs.size(); ++r) {
    if (!runs[r].length_behaviour || runs[r].length_behaviour->again.empty()) continue;
    const History::LengthBehaviour& b = *runs[r].length_behaviour;
    for (const History::Again& d : b.again) {
      const std::string right = std::isfinite(d.right) ? fmt::format("<br><small>{:.1f}% right</small>", 100 * d.right) : "";
      all.add(r, d.distance, d.gain, with_error(d.gain, d.error) + right);
    }
    all.trained.insert(b.training_length);
    passage.add(grouped(b.passage)), passages.add(grouped(b.passages));
  }
  return losses_figure(runs, all, "Gain from having read a passage before", "tokens between the two", "gain, nats per token",
                       fmt::format("Recall: a passage of {} tokens read a second time, so many tokens behind its first, and how much lower its loss is than in "
                                   "the same place when it is new ({} passages).", passage.text(" or "), passages.text(" or ")), "");
}

// Scores of one task by the length of its texts.
struct Answer {
  double score = 0, error = std::numeric_limits<double>::quiet_NaN();  // of 1
};
struct Answers {
  std::string name, what;                          // "niah_single_1", "score"
  std::vector<std::map<int64_t, Answer>> by_run;   // length: answer
};

int64_t length_of(const std::string& metric) {  // of RULER's "4096"; 0: it is no length
  if (metric.empty() || metric.size() > 12 || metric[0] == '0') return 0;
  int64_t n = 0;
  for (const char c : metric) {
    if (c < '0' || c > '9') return 0;
    n = 10 * n + (c - '0');
  }
  return n;
}

std::vector<Answers> all_answers(const Runs& runs) {
  std::map<std::string, Answers> ruler;
  std::map<int64_t, Answers> recall;  // by the number of pairs; 0: a quarter of the length
  for (size_t r = 0; r < runs.size(); ++r)
    for (const History::Score& s : runs[r].scores)
      if (const int64_t length = length_of(s.metric)) {
        Answers& a = ruler[s.task + (s.ruler_like ? " (ruler-like)" : "")];
        a.by_run.resize(runs.size());
        a.by_run[r][length] = {s.value, s.error};
      }
  std::set<int64_t> counts{0};
  for (const History& run : runs)
    for (const History::HeldOut& h : run.held_out)
      if (h.pairs > 0 && h.pairs != h.length / 4) counts.insert(h.pairs);
  for (size_t r = 0; r < runs.size(); ++r)
    for (const History::HeldOut& h : runs[r].held_out)
      for (const int64_t pairs : counts) {
        if (h.pairs == 0 || h.pairs != (pairs ? pairs : h.length / 4)) continue;
        recall[pairs].by_run.resize(runs.size());
        recall[pairs].by_run[r][h.length] = {.score = h.accuracy};
      }
  std::vector<Answers> all;
  for (auto& [pairs, a] : recall) {
    a.name = pairs ? fmt::format("{} key-value pairs", grouped(pairs)) : "key-value pairs, a quarter of the length";
    a.what = "accuracy";
    all.push_back(std::move(a));
  }
  for (auto& [task, a] : ruler) {
    a.name = task, a.what = "score";
    all.push_back(std::move(a));
  }
  return all;
}

std::string length_text(int64_t n) { return n % 1024 == 0 ? fmt::format("{}K", n / 1024) : grouped(n); }

// Ticks at the lengths themselves; those close behind another only where there is room.
Axis lengths_axis(const std::set<int64_t>& lengths, const std::set<int64_t>& trained) {
  int64_t low = *lengths.begin(), high = *lengths.rbegin();
  if (!trained.empty()) low = std::min(low, *trained.begin()), high = std::max(high, *trained.rbegin());
  Axis axis = log_axis("length of the text, tokens", double(low), double(high));
  axis.ticks.clear();
  double before = -1;
  for (const int64_t n : lengths) {
    const double at = axis.place(double(n));
    axis.ticks.push_back({.at = double(n), .text = length_text(n), .fine = at - before < 0.15});
    if (!axis.ticks.back().fine) before = at;
  }
  return axis;
}

std::string answers_figure(const Runs& runs, const Answers& a) {
  std::set<int64_t> lengths, trained;
  std::vector<size_t> which;
  for (size_t r = 0; r < runs.size(); ++r) {
    if (a.by_run[r].empty()) continue;
    which.push_back(r);
    for (const auto& [length, answer] : a.by_run[r]) lengths.insert(length);
    if (runs[r].config) trained.insert(runs[r].config->data.sequence);
  }
  if (lengths.size() < 2) return "";  // the table of evaluations says it all
  Chart chart{.title = fmt::format("{}: {} by length", a.name, a.what), .x = lengths_axis(lengths, trained),
              .y = linear_axis(a.what + ", %", 0, 100), .height = 190, .heading = fmt::format("{}: {}, %", a.name, a.what), .series = {}};
  add_marks(chart, trained);
  std::string body;
  for (const size_t r : which) {
    Series s{.name = runs[r].name, .owner = int(r), .look = int(r), .points = {}, .dots = true};
    for (const auto& [length, answer] : a.by_run[r]) s.points.push_back({double(length), 100 * answer.score});
    chart.series.push_back(s);
  }
  for (const int64_t length : lengths) {
    body += fmt::format("<tr><th class=\"n\" scope=\"row\">{}</th>", grouped(length));
    for (const size_t r : which) {
      const auto at = a.by_run[r].find(length);
      const bool there = at != a.by_run[r].end() && std::isfinite(at->second.score);
      const double error = there ? at->second.error : std::numeric_limits<double>::quiet_NaN();
      body += fmt::format("<td class=\"n r{}\">{}{}</td>", r, there ? fmt::format("{:.1f}", 100 * at->second.score) : "–",
                          std::isfinite(error) ? fmt::format(" ± {:.1f}", 100 * error) : "");
    }
    body += "</tr>";
  }
  return figure(chart, "", table_text("<th class=\"n\" scope=\"col\">length</th>" + run_heads(runs, which), body));
}

}  // namespace

std::string position_section(const Runs& runs) {
  const std::string content = training_positions(runs) + far_positions(runs) + contexts_figure(runs) + again_figure(runs);
  return content.empty() ? "" : section("positions", "Loss by position", content);
}

std::string answers_section(const Runs& runs) {
  std::string figures;
  for (const Answers& a : all_answers(runs)) figures += answers_figure(runs, a);
  if (figures.empty()) return "";
  return section("answers", "Answers by length", "<div class=\"row\">" + figures + "</div><p class=\"caption\">The share of what was asked for that the model "
                                                 "answered, by the length of the text; the dotted line is the training length.</p>");
}

}  // namespace taper
