// The report's page: its frame, its tables, and the order of its sections.
#include "apps/report_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>

#include "apps/plot.h"
#include "apps/progress.h"
#include "apps/report_charts.h"
#include "apps/report_style.h"
#include "apps/version.h"

namespace taper {
namespace {

using plot::escape, plot::grouped, plot::short_number;
using Runs = std::vector<History>;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

std::string model_of(const History& run) {
  if (!run.config) return "";
  const ModelConfig& m = run.config->model;
  static const std::map<std::string, const char*> names{
      {"mamba2", "Mamba-2"}, {"rwkv7", "RWKV-7"}, {"gdn", "Gated DeltaNet"}, {"gla", "GLA"}, {"retnet", "RetNet"}};
  const auto name = names.find(m.arch);
  return (name == names.end() ? m.arch : name->second) + std::string(m.post ? " + PoST" : "");
}

struct Held {
  int64_t step = 0;
  double loss = nan, bits = nan;
};
Held best_held_out(const History& run) {
  Held best;
  for (const auto& e : run.evaluations)
    if (std::isfinite(e.loss) && !(best.loss <= e.loss)) best = {e.step, e.loss, e.bits_per_byte};
  return best;
}
Held last_held_out(const History& run) {
  for (auto e = run.evaluations.rbegin(); e != run.evaluations.rend(); ++e)
    if (std::isfinite(e->loss)) return {e->step, e->loss, e->bits_per_byte};
  return {};
}
double last_accuracy(const History& run) {  // MQAR: the mean over its tests
  if (run.evaluations.empty() || run.evaluations.back().recalls.empty()) return nan;
  double sum = 0;
  for (const auto& r : run.evaluations.back().recalls) sum += r.accuracy;
  return sum / double(run.evaluations.back().recalls.size());
}

std::string fixed(double x, int decimals) { return std::isfinite(x) ? fmt::format("{:.{}f}", x, decimals) : "–"; }

std::string best_text(const std::string& cell) { return fmt::format("<b>{}</b><span class=\"hidden\"> (best)</span>", cell); }

// A table that is wider than a narrow screen: it scrolls by itself.
std::string wide_table(const char* name, const std::string& table) {
  return fmt::format("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">{}</div>", name, table);
}

// One row a run. A column that no run fills is left out; of a column that can be ordered the best is bold.
std::string runs_section(const Runs& runs) {
  struct Column {
    std::string name;
    std::vector<std::string> cells;
    std::vector<double> order;  // lower is better; empty: none
  };
  std::vector<Column> columns;
  const auto add = [&](const char* name, auto&& text, auto&& order) {
    Column c{.name = name, .cells = {}, .order = {}};
    for (const History& r : runs) {
      c.cells.push_back(text(r));
      if constexpr (!std::is_same_v<std::decay_t<decltype(order)>, std::nullptr_t>) c.order.push_back(order(r));
    }
    if (std::ranges::any_of(c.cells, [](const std::string& t) { return !t.empty() && t != "–"; })) columns.push_back(c);
  };
  add("parameters", [](const History& r) { return r.parameters ? short_number(double(r.parameters), 4) : "–"; }, nullptr);
  add("steps", [](const History& r) {
    const int64_t done = r.steps.empty() ? 0 : r.steps.back().step;
    return r.config && r.config->train.steps != done ? fmt::format("{} <small>of {}</small>", grouped(done), grouped(r.config->train.steps)) : grouped(done);
  }, nullptr);
  add("tokens", [](const History& r) { return r.steps.empty() ? "–" : short_number(double(r.steps.back().tokens), 4); }, nullptr);
  add("training loss", [](const History& r) { return fixed(final_loss(r), 4); }, final_loss);
  add("held-out loss", [](const History& r) { return fixed(last_held_out(r).loss, 4); }, [](const History& r) { return last_held_out(r).loss; });
  if (std::ranges::any_of(runs, [](const History& r) { return best_held_out(r).step != last_held_out(r).step; })) add("lowest", [](const History& r) {
    const Held h = best_held_out(r);
    return std::isfinite(h.loss) ? fmt::format("{:.4f} <small>at {}</small>", h.loss, grouped(h.step)) : "–";
  }, [](const History& r) { return best_held_out(r).loss; });
  add("bits per byte", [](const History& r) { return fixed(last_held_out(r).bits, 4); }, [](const History& r) { return last_held_out(r).bits; });
  add("accuracy", [](const History& r) { return std::isfinite(last_accuracy(r)) ? fixed(100 * last_accuracy(r), 2) + "%" : "–"; },
      [](const History& r) { return -last_accuracy(r); });
  add("tokens/s", [](const History& r) { return short_number(median_speed(r)); }, nullptr);
  add("time", [](const History& r) { return r.speeds.empty() ? "–" : duration_text(r.speeds.back().seconds); }, nullptr);

  std::string head = "<th scope=\"col\">run</th><th scope=\"col\">model</th>", body;
  for (const Column& c : columns) head += fmt::format("<th class=\"n\" scope=\"col\">{}</th>", c.name);
  for (size_t r = 0; r < runs.size(); ++r) {
    const std::string model = model_of(runs[r]);
    body += fmt::format("<tr class=\"r{}\"><th scope=\"row\">{}{}</th><td class=\"model\">{}</td>", r, key_of(r), escape(runs[r].name),
                        model.empty() ? "–" : escape(model));
    for (const Column& c : columns) {
      double best = nan;
      for (const double v : c.order)
        if (!(best <= v) && std::isfinite(v)) best = v;
      const bool is_best = runs.size() > 1 && !c.order.empty() && c.order[r] == best;
      body += fmt::format("<td class=\"n\" data-name=\"{}\"><span>{}</span></td>", c.name, is_best ? best_text(c.cells[r]) : c.cells[r]);
    }
    body += "</tr>\n";
  }
  return section("runs", "Runs", wide_table("Runs", fmt::format("<table class=\"cards\"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", head, body)));
}

// What is held out is a task too: a loss or an accuracy for each length.
std::vector<History::Score> all_scores(const History& run) {
  std::vector<History::Score> all = run.scores;
  for (const History::HeldOut& h : run.held_out) {
    History::Score s{.task = h.pairs ? "key-value pairs" : h.data.empty() ? "held-out text" : "held-out text, " + h.data, .metric = {}, .filter = "none",
                     .value = h.pairs ? h.accuracy : h.loss, .error = nan, .samples = h.examples, .higher_is_better = h.pairs > 0};
    s.metric = h.pairs ? fmt::format("{} tokens, {} pairs: accuracy", h.length, h.pairs) : fmt::format("{} tokens: loss", h.length);
    all.push_back(s);
    if (!std::isfinite(h.bits_per_byte)) continue;
    s.metric = fmt::format("{} tokens: bits per byte", h.length), s.value = h.bits_per_byte;
    all.push_back(s);
  }
  return all;
}

std::string scores_section(const Runs& runs) {
  struct Key {
    std::string task;
    int64_t number = 0;  // that the metric begins with: lengths in their order
    std::string metric, filter;
    auto operator<=>(const Key&) const = default;
  };
  std::vector<std::vector<History::Score>> scores;
  for (const History& r : runs) scores.push_back(all_scores(r));
  std::map<Key, std::vector<const History::Score*>> rows;
  for (size_t r = 0; r < runs.size(); ++r)
    for (const History::Score& s : scores[r]) {
      auto& row = rows[{s.task, std::strtoll(s.metric.c_str(), nullptr, 10), s.metric, s.filter}];
      row.resize(runs.size());
      row[r] = &s;
    }
  if (rows.empty()) return "";
  std::string head = "<th scope=\"col\">task and metric</th>", body;
  for (size_t r = 0; r < runs.size(); ++r) head += fmt::format("<th class=\"n r{}\" scope=\"col\">{}{}</th>", r, key_of(r), escape(runs[r].name));
  for (const auto& [key, row] : rows) {
    const auto some = *std::ranges::find_if(row, [](const auto* s) { return s != nullptr; });
    const bool one_size = std::ranges::all_of(row, [&](const auto* s) { return !s || s->samples == some->samples; });
    double best = nan;
    for (const auto* s : row) {
      if (!s || !some->higher_is_better || !std::isfinite(s->value)) continue;
      if (!std::isfinite(best) || (*some->higher_is_better ? s->value > best : s->value < best)) best = s->value;
    }
    std::string about = escape(key.metric);
    if (some->higher_is_better)
      about += *some->higher_is_better ? " ↑<span class=\"hidden\"> (higher is better)</span>"
                                       : " ↓<span class=\"hidden\"> (lower is better)</span>";
    if (key.filter != "none") about += ", " + escape(key.filter);
    if (some->ruler_like) about += ", ruler-like";
    if (some->shots >= 0) about += fmt::format(", {} shot{}", some->shots, some->shots == 1 ? "" : "s");
    if (one_size && some->samples >= 0) about += ", n = " + grouped(some->samples);
    body += fmt::format("<tr><th scope=\"row\">{}<br><small>{}</small></th>", escape(key.task), about);
    for (size_t r = 0; r < runs.size(); ++r) {
      const History::Score* s = row[r];
      std::string text = !s ? "–" : std::abs(s->value) < 100 ? fmt::format("{:.4f}", s->value) : short_number(s->value, 6);
      if (s && runs.size() > 1 && s->value == best) text = best_text(text);
      if (s && std::isfinite(s->error))
        text += fmt::format("<br><small>± {}</small>", s->error < 100 ? fmt::format("{:.4f}", s->error) : short_number(s->error));
      if (s && !one_size && s->samples >= 0) text += fmt::format("<br><small>n = {}</small>", grouped(s->samples));
      body += fmt::format("<td class=\"n r{}\">{}</td>", r, text);
    }
    body += "</tr>\n";
  }
  return section("evaluations", "Evaluations",
                 wide_table("Evaluations", table_text(head, body)) +
                     "<p class=\"caption\">± is the standard error of the mean; arrows say which way is better.</p>");
}

// Keys in which the runs differ stand first and marked; the others are folded away.
std::string config_section(const Runs& runs) {
  std::vector<std::string> keys;
  std::vector<std::map<std::string, std::string>> values(runs.size());
  size_t known = 0;
  for (size_t r = 0; r < runs.size(); ++r) {
    if (!runs[r].config) continue;
    ++known;
    for (const Setting& s : settings(*runs[r].config)) {
      if (s.key == "run.dir") continue;
      values[r][s.key] = s.value;
      if (std::ranges::find(keys, s.key) == keys.end()) {
        // Beside its section, where an earlier run has the section.
        const std::string section = s.key.substr(0, s.key.find('.') + 1);
        auto place = std::find_if(keys.rbegin(), keys.rend(), [&](const std::string& k) { return k.starts_with(section); });
        keys.insert(place == keys.rend() ? keys.end() : place.base(), s.key);
      }
    }
  }
  if (!known) return "";
  std::string head = "<th scope=\"col\">key</th>", different, equal;
  for (size_t r = 0; r < runs.size(); ++r) head += fmt::format("<th class=\"r{}\" scope=\"col\">{}{}</th>", r, key_of(r), escape(runs[r].name));
  size_t equals = 0;
  for (const std::string& key : keys) {
    std::map<std::string, int> counts;
    for (size_t r = 0; r < runs.size(); ++r)
      if (runs[r].config) ++counts[values[r].contains(key) ? values[r][key] : ""];
    const bool differs = counts.size() > 1;
    std::string usual;  // the most frequent value, of equals the first run's
    int most = 0;
    for (size_t r = 0; r < runs.size(); ++r)
      if (const std::string v = values[r].contains(key) ? values[r][key] : ""; runs[r].config && counts[v] > most) usual = v, most = counts[v];
    std::string row = fmt::format("<tr{}><th scope=\"row\"><code>{}</code></th>", differs ? " class=\"differs\"" : "", escape(key));
    for (size_t r = 0; r < runs.size(); ++r) {
      const bool has = values[r].contains(key);
      const bool own = differs && runs[r].config && (has ? values[r][key] : "") != usual;
      row += fmt::format("<td class=\"wrap r{}{}\">{}</td>", r, own ? " own" : "", has ? "<code>" + escape(values[r][key]) + "</code>" : "<span>–</span>");
    }
    (differs ? different : equal) += row + "</tr>\n";
    equals += !differs;
  }
  const auto table = [&](const std::string& body) { return fmt::format("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", head, body); };
  std::string out;
  if (runs.size() > 1)
    out = different.empty() ? "<p>The configurations are equal but for the directory.</p>"
                            : "<p class=\"caption\">Where the runs differ; what is not the usual value is marked.</p>" +
                                  wide_table("Differences of the configurations", table(different));
  out += details(runs.size() > 1 ? fmt::format("{} keys that are the same in all runs", equals) : fmt::format("All {} keys", equals), table(equal));
  return section("configuration", "Configuration", out);
}

std::string notes_section(const Runs& runs) {
  std::string items;
  for (const History& r : runs)
    for (const std::string& note : r.notes) items += fmt::format("<li><b>{}</b>: {}</li>\n", escape(r.name), escape(note));
  if (items.empty()) return "";
  return section("notes", "Notes", "<p class=\"caption\">What could not be read, or is peculiar.</p><ul class=\"notes\">" + items + "</ul>");
}

std::string lead(const Runs& runs) {
  std::vector<std::string> models;
  int64_t tokens = 0;
  for (const History& r : runs) {
    if (const std::string m = model_of(r); !m.empty() && std::ranges::find(models, m) == models.end()) models.push_back(m);
    if (!r.steps.empty()) tokens = std::max(tokens, r.steps.back().tokens);
  }
  std::string out = runs.size() == 1 ? "One run" : fmt::format("{} runs", runs.size());
  for (size_t i = 0; i < models.size() && i < 6; ++i) out += (i ? ", " : " · ") + escape(models[i]);
  if (models.size() > 6) out += " and others";
  if (tokens) out += fmt::format(" · {}{} tokens", runs.size() > 1 ? "up to " : "", short_number(double(tokens)));
  size_t best = runs.size();
  for (size_t r = 0; r < runs.size(); ++r)
    if (const double loss = best_held_out(runs[r]).loss; std::isfinite(loss) && (best == runs.size() || loss < best_held_out(runs[best]).loss)) best = r;
  if (best == runs.size()) return out;
  const Held h = best_held_out(runs[best]);
  return out + fmt::format(" · lowest held-out loss {:.4f}{}{}", h.loss, std::isfinite(h.bits) ? fmt::format(" ({:.4f} bits per byte)", h.bits) : "",
                           runs.size() > 1 ? ", " + escape(runs[best].name) : "");
}

std::string bar(const Runs& runs) {
  std::string out = "<div class=\"bar-top\"><form autocomplete=\"off\" aria-label=\"What the charts show\">";
  for (size_t r = 0; r < runs.size(); ++r)
    out += fmt::format("<label title=\"{1}\"><input type=\"checkbox\" id=\"run{0}\" checked>{2}<span>{1}</span></label>", r, escape(runs[r].name), key_of(r));
  out += "<fieldset><legend>over</legend><label><input type=\"radio\" name=\"x\" id=\"x-steps\" checked>steps</label>"
         "<label><input type=\"radio\" name=\"x\" id=\"x-tokens\">tokens</label>";
  if (has_times(runs)) out += "<label><input type=\"radio\" name=\"x\" id=\"x-time\">time</label>";
  return out + "</fieldset></form></div>\n";
}

// A stroke for each run: eight colours, then the same with dashes.
std::string strokes(size_t runs) {
  static constexpr const char* dashes[] = {"", "9 4", "2 4", "9 3 2 3"};
  std::string css;
  for (size_t r = 0; r < std::max<size_t>(runs, 2); ++r) {
    css += fmt::format(".s{0}{{stroke:var(--s{1})}}circle.s{0}{{fill:var(--s{1});stroke:var(--card)}}", r, r % 8);
    if (const size_t d = r / 8 % 4; d) css += fmt::format("path.s{}{{stroke-dasharray:{}}}", r, dashes[d]);
    css += fmt::format("body:has(#run{0}:not(:checked)) .r{0}{{display:none}}\n", r);
  }
  return css;
}

}  // namespace

std::string report_page(const std::vector<History>& runs, const std::string& title) {
  std::string page = fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
      "<meta name=\"generator\" content=\"taper {0}\">\n<title>{1}</title>\n<style>{2}{3}</style>\n</head>\n<body>\n"
      "<header><h1>{1}</h1><p class=\"lead\">{4}</p></header>\n",
      version, escape(title), report_css, strokes(runs.size()), lead(runs));
  page += bar(runs) + "<main>\n";
  for (std::string (*section)(const Runs&) : {&runs_section, &loss_section, &recall_section, &training_section, &position_section, &answers_section,
                                              &spectrum_section, &scores_section, &config_section, &notes_section})
    page += (*section)(runs);
  return page + fmt::format("</main>\n<footer>Written by taper {}. Hover over a chart, or move in it with the arrow keys, for its numbers.</footer>\n"
                            "<script>{}</script>\n</body>\n</html>\n",
                            version, report_script);
}

}  // namespace taper
