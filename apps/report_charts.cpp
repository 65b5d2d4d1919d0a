// The report's charts of training: loss, learning rate, norm, speed, recall.
#include "apps/report_charts.h"

#include <fmt/format.h>

#include <functional>
#include <set>

namespace taper {
namespace {

using namespace plot;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

// What curves may be drawn over.
struct Horizontal {
  const char* id;     // class of the page
  std::string title;  // of the axis
  double unit = 1;    // of what at() gives
};

double seconds_at(const History& run, int64_t step) {
  const auto after = std::ranges::lower_bound(run.speeds, step, {}, &History::Speed::step);
  if (after == run.speeds.end()) return nan;
  if (after->step == step || after == run.speeds.begin()) return after->step == step ? after->seconds : nan;
  const History::Speed& a = after[-1];
  return a.seconds + (after->seconds - a.seconds) * double(step - a.step) / double(after->step - a.step);
}

double tokens_per_step(const History& run) { return run.steps.empty() ? nan : double(run.steps.back().tokens) / double(run.steps.back().step); }

double at(const Horizontal& h, const History& run, int64_t step) {
  const std::string_view id = h.id;
  return id == "steps" ? double(step) : id == "tokens" ? double(step) * tokens_per_step(run) : seconds_at(run, step) / h.unit;
}

std::vector<Horizontal> horizontals(const std::vector<History>& runs) {
  std::vector<Horizontal> all{{"steps", "step"}, {"tokens", "tokens"}};
  if (!has_times(runs)) return all;
  double longest = 0;
  for (const History& r : runs)
    if (!r.speeds.empty()) longest = std::max(longest, r.speeds.back().seconds);
  if (longest < 180) all.push_back({"time", "seconds of training"});
  else if (longest < 3 * 3600) all.push_back({"time", "minutes of training", 60});
  else all.push_back({"time", "hours of training", 3600});
  return all;
}

// A curve over steps, moved to another axis. What has no place there is left out.
Points over(const Horizontal& h, const History& run, const Points& by_step) {
  Points moved;
  for (const Point& p : by_step)
    if (const double x = at(h, run, int64_t(p.x)); std::isfinite(x)) moved.push_back({x, p.y});
  return moved;
}

template <class T, class F>
Points points_of(const std::vector<T>& lines, F&& y) {
  Points all;
  for (const T& line : lines) all.push_back({double(line.step), y(line)});
  return all;
}

size_t window(size_t n) { return n < 20 ? 0 : (n + 49) / 50; }

double quantile(std::vector<double> values, double share) {
  if (values.empty()) return nan;
  std::ranges::sort(values);
  return values[size_t(share * double(values.size() - 1) + 0.5)];
}

size_t buckets_for(size_t runs) { return std::clamp<size_t>(2400 / std::max<size_t>(1, runs), 40, 240); }

// A figure drawn once over steps, tokens and time, of which the page shows one.
std::string figure(const std::vector<History>& runs, Chart chart, const std::vector<Series>& by_step, const std::string& caption, const std::string& table) {
  chart.buckets = buckets_for(runs.size());
  std::string out = "<figure>";
  for (const Horizontal& h : horizontals(runs)) {
    Chart c = chart;
    double last = 0;
    for (const Series& s : by_step) {
      c.series.push_back(s);
      c.series.back().points = over(h, runs[size_t(s.owner)], s.points);
      if (!c.series.back().points.empty()) last = std::max(last, c.series.back().points.back().x);
    }
    c.x = linear_axis(h.title, 0, last > 0 ? last : 1);
    c.title = fmt::format("{}, over {}", chart.title, h.title);
    out += fmt::format("<div class=\"{}\">{}</div>", h.id, svg(c));
  }
  return out + "<figcaption class=\"caption\">" + caption + "</figcaption>" + table + "</figure>";
}

// Curves at up to twelve steps, as numbers.
std::string table_of(const std::vector<History>& runs, const std::vector<Series>& series, const std::function<std::string(double)>& text) {
  int64_t first = std::numeric_limits<int64_t>::max(), last = 0;
  for (const Series& s : series)
    if (!s.points.empty()) first = std::min(first, int64_t(s.points.front().x)), last = std::max(last, int64_t(s.points.back().x));
  if (last == 0) return "";
  std::set<int64_t> rows;
  for (int i = 0; i < 12; ++i) rows.insert(first + (last - first) * i / 11);
  std::string head = "<th class=\"n\" scope=\"col\">step</th>", body;
  for (const Series& s : series)
    head += fmt::format("<th class=\"n r{}\" scope=\"col\">{}{}</th>", s.owner, runs.size() > 1 ? key_of(size_t(s.owner)) : "", escape(s.name));
  for (const int64_t step : rows) {
    body += fmt::format("<tr><th class=\"n\" scope=\"row\">{}</th>", grouped(step));
    for (const Series& s : series) {
      const auto after = std::ranges::upper_bound(s.points, double(step), {}, &Point::x);
      const bool there = after != s.points.begin() && double(step) <= s.points.back().x;
      body += fmt::format("<td class=\"n r{}\">{}</td>", s.owner, there ? text(after[-1].y) : "–");
    }
    body += "</tr>";
  }
  return details("As a table", table_text(head, body));
}

}  // namespace

std::string section(const char* id, const char* heading, const std::string& content) {
  return fmt::format("<section id=\"{0}\" aria-labelledby=\"{0}-h\">\n<h2 id=\"{0}-h\">{1}</h2>\n{2}</section>\n", id, heading, content);
}

std::string table_text(const std::string& head, const std::string& body) {
  return fmt::format("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", head, body);
}

std::string details(const std::string& summary, const std::string& table) {
  return fmt::format("<details><summary>{}</summary><div class=\"scroll\">{}</div></details>", summary, table);
}

std::string key_of(size_t run) { return fmt::format("<svg class=\"key\" aria-hidden=\"true\"><path class=\"s{}\" d=\"M1 5h22\"/></svg>", run); }

bool has_times(const std::vector<History>& runs) {
  return std::ranges::any_of(runs, [](const History& r) { return !r.speeds.empty() && !r.steps.empty(); });
}

double final_loss(const History& run) {
  const Points mean = smoothed(points_of(run.steps, [](const auto& s) { return s.loss; }), window(run.steps.size()));
  return mean.empty() ? nan : mean.back().y;
}

double median_speed(const History& run) {
  std::vector<double> all;
  for (const History::Speed& s : run.speeds)
    if (std::isfinite(s.tokens_per_second)) all.push_back(s.tokens_per_second);
  return quantile(all, 0.5);
}

std::string loss_section(const std::vector<History>& runs) {
  std::vector<Series> drawn, named;
  Range all, late;
  size_t widest = 0;
  bool held_out = false;
  double highest_start = 0;
  for (size_t r = 0; r < runs.size(); ++r) {
    const History& run = runs[r];
    const int look = int(r);
    const Points raw = points_of(run.steps, [](const auto& s) { return s.loss; });
    const size_t half = window(raw.size());
    const Points mean = smoothed(raw, half);
    Points held;
    for (const auto& e : run.evaluations)
      if (e.recalls.empty()) held.push_back({double(e.step), e.loss});
    if (raw.empty() && held.empty()) continue;
    widest = std::max(widest, 2 * half + 1);
    held_out |= !held.empty();
    if (half && runs.size() <= few_runs) drawn.push_back({.name = run.name, .owner = look, .look = look, .stroke = Stroke::faint, .points = raw});
    const bool alone = runs.size() == 1;
    drawn.push_back({.name = alone ? "training" : run.name, .owner = look, .look = look, .points = mean, .labelled = true});
    named.push_back(drawn.back());
    if (!held.empty()) {
      drawn.push_back({.name = alone ? "held out" : run.name + ", held out", .owner = look, .look = alone ? 1 : look, .stroke = Stroke::dashed,
                       .points = held, .dots = true, .labelled = alone});
      named.push_back(drawn.back());
    }
    all.add(mean), all.add(held);
    const double settled = raw.empty() ? 0 : raw.front().x + 0.06 * (raw.back().x - raw.front().x);
    for (const Points* points : {&mean, static_cast<const Points*>(&held)})
      for (const Point& p : *points)
        if (p.x >= settled) late.add(p.y);
    if (!raw.empty() && std::isfinite(raw.front().y)) highest_start = std::max(highest_start, raw.front().y);
  }
  if (all.empty()) return "";
  // The first steps would press the rest flat.
  const bool cut = !late.empty() && all.high - all.low > 1.4 * (late.high - late.low);
  const Range& range = cut ? late : all;
  const Chart chart{.title = "Loss", .x = {}, .y = widened(linear_axis("loss, nats per token", range.low, range.high, 6)), .height = 340, .series = {}};
  std::string caption = "Lines: training loss.";
  if (widest > 1)
    caption = fmt::format("Lines: training loss, the mean of {} logged steps around each{}.", grouped(int64_t(widest)),
                          runs.size() <= few_runs ? "; faint: every logged step" : "");
  if (held_out) caption += " Dots: loss on held-out text.";
  if (cut) caption += fmt::format(" The first steps lie above the frame; they begin at {:.2f}.", highest_start);
  const std::string table = table_of(runs, named, [](double y) { return std::isfinite(y) ? fmt::format("{:.4f}", y) : "–"; });
  return section("loss", "Loss", figure(runs, chart, drawn, caption, table));
}

std::string training_section(const std::vector<History>& runs) {
  std::string figures;
  const auto text = [](double y) { return short_number(y, 4); };
  const auto add = [&](const char* title, const char* unit, bool smooth, bool from_zero, const std::string& caption, std::vector<Rule> rules, auto&& curve) {
    std::vector<Series> drawn, named;
    Range range;
    for (size_t r = 0; r < runs.size(); ++r) {
      const Points raw = curve(runs[r]);
      if (raw.empty()) continue;
      const size_t half = smooth ? window(raw.size()) : 0;
      if (half && runs.size() <= few_runs) drawn.push_back({.name = runs[r].name, .owner = int(r), .look = int(r), .stroke = Stroke::faint, .points = raw});
      drawn.push_back({.name = runs[r].name, .owner = int(r), .look = int(r), .points = smoothed(raw, half), .dots = raw.size() < 4});
      named.push_back(drawn.back());
      std::vector<double> values;  // one step that is far out is cut off, not the rest pressed flat
      for (const Point& p : raw)
        if (std::isfinite(p.y)) values.push_back(p.y);
      range.add(quantile(values, 0)), range.add(smooth ? quantile(values, 0.995) : quantile(values, 1)), range.add(drawn.back().points);
    }
    if (range.empty()) return;
    const bool logarithmic = !from_zero && range.low > 0 && range.high > 20 * range.low;
    const Axis y = widened(logarithmic ? log_axis(unit, range.low, range.high) : linear_axis(unit, 0, range.high, 4));
    const Chart chart{.title = title, .x = {}, .y = y, .height = 190, .series = {}, .rules = std::move(rules)};
    figures += figure(runs, chart, drawn, caption, table_of(runs, named, text));
  };
  add("Learning rate", "learning rate", false, true, "", {}, [](const History& run) { return points_of(run.steps, [](const auto& s) { return s.lr; }); });
  std::set<double> clips;
  for (const History& r : runs) clips.insert(r.config ? r.config->train.clip : 0);
  std::vector<Rule> rules;
  std::string clipped;
  if (clips.size() == 1 && *clips.begin() > 0) {
    rules.push_back({*clips.begin(), ""});
    clipped = fmt::format("The dotted line, {}, is where it is clipped.", short_number(*clips.begin()));
  }
  add("Norm of the gradient", "norm of the gradient, before clipping", true, false, clipped, rules,
      [](const History& run) { return points_of(run.steps, [](const auto& s) { return s.norm; }); });
  add("Speed", "tokens per second", true, true, "", {}, [](const History& run) {
    Points all;
    for (const History::Speed& s : run.speeds)
      if (std::isfinite(s.tokens_per_second)) all.push_back({double(s.step), s.tokens_per_second});
    return all;
  });
  return figures.empty() ? "" : section("training", "Training", "<div class=\"row\">" + figures + "</div>");
}

std::string recall_section(const std::vector<History>& runs) {
  std::set<std::pair<int64_t, int64_t>> tests;
  for (const History& r : runs)
    for (const auto& e : r.evaluations)
      for (const auto& c : e.recalls) tests.emplace(c.length, c.pairs);
  std::string figures;
  for (const auto& [length, pairs] : tests) {
    std::vector<Series> drawn;
    for (size_t r = 0; r < runs.size(); ++r) {
      Points points;
      for (const auto& e : runs[r].evaluations)
        for (const auto& c : e.recalls)
          if (c.length == length && c.pairs == pairs) points.push_back({double(e.step), 100 * c.accuracy});
      if (!points.empty()) drawn.push_back({.name = runs[r].name, .owner = int(r), .look = int(r), .points = points, .dots = true});
    }
    const Chart chart{.title = fmt::format("Accuracy at length {} with {} pairs", length, pairs), .x = {}, .y = linear_axis("accuracy, %", 0, 100),
                      .height = 190, .heading = fmt::format("length {}, {} pairs: accuracy, %", grouped(length), grouped(pairs)), .series = {}};
    figures += figure(runs, chart, drawn, "", table_of(runs, drawn, [](double y) { return std::isfinite(y) ? fmt::format("{:.2f}", y) : "–"; }));
  }
  return figures.empty() ? "" : section("recall", "Recall of key-value pairs", "<div class=\"row\">" + figures + "</div>");
}

}  // namespace taper
