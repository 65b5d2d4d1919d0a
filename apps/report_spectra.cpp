// The report's spectra: what the heads forget by, over training and at its end.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "apps/plot.h"
#include "apps/report_charts.h"

namespace taper {
namespace {

using namespace plot;
using Layer = History::Layer;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr size_t most_curves = 24;      // of one layer; more heads, or channels, are drawn as quantiles
constexpr size_t most_points = 120000;  // of all curves of all runs, so that the page stays small

bool usable(double x) { return std::isfinite(x) && x > 0; }

double quantile(std::vector<double> values, double share) {
  std::erase_if(values, [](double v) { return !usable(v); });
  if (values.empty()) return nan;
  std::ranges::sort(values);
  return values[size_t(std::lround(share * double(values.size() - 1)))];
}

size_t heads_of(const History& run) { return run.spectra.back().layers.front().rate.size(); }
const char* unit_of(const History& run) { return run.config && run.config->model.arch == "rwkv7" ? "channel" : "head"; }
size_t curves_of(const History& run) { return heads_of(run) <= most_curves ? heads_of(run) : 9; }

// Evenly spaced records, the first and the last among them.
std::vector<const History::Spectrum*> chosen(const History& run, size_t most) {
  std::vector<const History::Spectrum*> out;
  const size_t n = run.spectra.size(), kept = std::min(n, std::max<size_t>(2, most));
  for (size_t i = 0; i < kept; ++i) out.push_back(&run.spectra[kept > 1 ? i * (n - 1) / (kept - 1) : 0]);
  return out;
}

std::string ranks(const History& run) {
  std::string gradient;
  for (int i = 0; i <= 8; ++i) gradient += fmt::format("{}{}", i ? "," : "", rank_colour(i / 8.0));
  const bool all = heads_of(run) <= most_curves;
  return fmt::format("<span class=\"ranks\"><span>{}</span><i style=\"background:linear-gradient(90deg,{})\"></i><span>{}</span></span>",
                     all ? fmt::format("{} 0", unit_of(run)) : "slowest", gradient, all ? fmt::format("{} {}", unit_of(run), heads_of(run) - 1) : "fastest");
}

// One small chart a layer, all on the same axes.
std::string over_training(const History& run, int owner, const Axis& y, size_t records) {
  const auto spectra = chosen(run, records);
  const double first = double(spectra.front()->step), last = double(spectra.back()->step);
  const size_t heads = heads_of(run), curves = curves_of(run);
  std::string out = "<div class=\"facets\">";
  for (size_t layer = 0; layer < run.spectra.back().layers.size(); ++layer) {
    Chart chart{.title = fmt::format("Time constants of layer {} over training, in tokens", layer),
                .x = linear_axis("step", first, last > first ? last : first + 1, 3), .y = y,
                .height = 132, .heading = fmt::format("layer {}", layer), .series = {}};
    if (run.config) chart.rules.push_back({double(run.config->model.train_length), layer == 0 ? "training length" : ""});
    for (size_t k = 0; k < curves; ++k) {
      const double share = curves > 1 ? double(k) / double(curves - 1) : 0;
      const std::string rank = k == 0 ? "slowest" : k + 1 == curves ? "fastest" : fmt::format("{:.3g}% are slower", share * 100);
      Series s{.name = curves == heads ? fmt::format("{} {}", unit_of(run), k) : rank, .owner = owner, .look = owner, .points = {},
               .colour = rank_colour(share)};
      for (const History::Spectrum* at : spectra) {
        if (at->layers[layer].time_constant.empty()) continue;
        const auto& all = at->layers[layer].time_constant;
        s.points.push_back({double(at->step), curves == heads ? (k < all.size() ? all[k] : nan) : quantile(all, 1 - share)});
      }
      chart.series.push_back(s);
    }
    out += svg(chart);
  }
  return out + "</div>";
}

using Rows = std::vector<std::vector<double>>;

template <class F>
Rows rows_of(const History::Spectrum& s, F&& row) {
  Rows rows;
  for (const Layer& l : s.layers) rows.push_back(row(l));
  return rows;
}

std::vector<double> gaps_of(const Layer& l) {
  std::vector<double> out;
  for (size_t k = 1; k < l.rate.size(); ++k) out.push_back(usable(l.rate[k]) && usable(l.rate[k - 1]) ? std::log(l.rate[k] / l.rate[k - 1]) : nan);
  return out;
}

bool any(const Rows& rows) {
  return std::ranges::any_of(rows, [](const auto& row) { return std::ranges::any_of(row, [](double v) { return std::isfinite(v) && v != 0; }); });
}

double greatest(const Rows& rows) {
  double most = 0;
  for (const auto& row : rows)
    for (const double v : row) most = std::isfinite(v) ? std::max(most, v) : most;
  return most;
}

std::string change(const History& run, const char* what, std::vector<double> Layer::*list) {
  if (run.spectra.size() < 2) return "";
  double most = 0;
  size_t layer = 0, head = 0;
  const auto &a = run.spectra.front().layers, &b = run.spectra.back().layers;
  for (size_t l = 0; l < b.size(); ++l)
    for (size_t h = 0; h < std::min((a[l].*list).size(), (b[l].*list).size()); ++h)
      if (const double d = std::abs((b[l].*list)[h] - (a[l].*list)[h]); d > most) most = d, layer = l, head = h;
  return most > 0 ? fmt::format(" {} moved most in layer {}, {} {}: from {} to {}.", what, layer, unit_of(run), head, short_number((a[layer].*list)[head]),
                                short_number((b[layer].*list)[head]))
                  : fmt::format(" {} did not move.", what);
}

std::string maps(const History& run, double low, double high) {
  const History::Spectrum& last = run.spectra.back();
  const bool post = run.config && run.config->model.post, ordered = post && run.config->model.post_options.spectrum;
  std::string out;
  const auto add = [&](const std::string& caption, HeatMap map) {
    map.row_name = "layer", map.column_name = unit_of(run);
    out += fmt::format("<figure><h3>{}</h3>{}<figcaption class=\"caption\">{}</figcaption></figure>", map.title, svg(map), caption);
  };
  Rows times = rows_of(last, [](const Layer& l) { return l.time_constant; });
  add(fmt::format("Tokens until a state has fallen to 1/e, at position 1, step {}.", grouped(last.step)),
      {.title = "Time constants", .row_name = {}, .column_name = {}, .rows = times, .low = low, .high = high, .logarithmic = true});
  if (const Rows alpha = rows_of(last, [](const Layer& l) { return l.alpha; }); any(alpha))
    add(fmt::format("Exponent of the taper: at position t a time constant is t<sup>α</sup> times as long.{}", change(run, "α", &Layer::alpha)),
        {.title = "α", .row_name = {}, .column_name = {}, .rows = alpha, .low = 0, .high = 1});
  if (const Rows gaps = rows_of(last, gaps_of); ordered && any(gaps))
    add(fmt::format("Logarithm of the ratio of each {}'s rate to that of the one before it.", unit_of(run)),
        {.title = "Gaps", .row_name = {}, .column_name = {}, .rows = gaps, .low = 0, .high = greatest(gaps), .first_column = 1});
  return "<div class=\"row maps\">" + out + "</div>";
}

std::string table(const History& run) {
  const History::Spectrum &first = run.spectra.front(), &last = run.spectra.back();
  std::string body;
  for (size_t l = 0; l < last.layers.size(); ++l) {
    const auto from_to = [&](double share) {
      const auto at = [&](const History::Spectrum& s) { return short_number(quantile(s.layers[l].time_constant, share)); };
      return fmt::format("<td class=\"n\">{} → {}</td>", at(first), at(last));
    };
    const auto mean = [&](const Layer& layer) {
      double sum = 0;
      for (const double a : layer.alpha) sum += a;
      return sum / double(layer.alpha.size());
    };
    body += fmt::format("<tr><th class=\"n\" scope=\"row\">{}</th>{}{}{}<td class=\"n\">{:.3f} → {:.3f}</td></tr>", l, from_to(1), from_to(0.5), from_to(0),
                        mean(first.layers[l]), mean(last.layers[l]));
  }
  std::string head;
  for (const char* column : {"layer", "slowest, tokens", "median", "fastest", "mean α"}) head += fmt::format("<th class=\"n\" scope=\"col\">{}</th>", column);
  const std::string caption = fmt::format("<p class=\"caption\">From step {} to step {}.</p>", grouped(first.step), grouped(last.step));
  return details("As a table", table_text(head, body) + caption);
}

}  // namespace

std::string spectrum_section(const std::vector<History>& runs) {
  double low = std::numeric_limits<double>::infinity(), high = 0;
  size_t curves = 0;
  for (const History& run : runs)
    for (const History::Spectrum& s : run.spectra)
      for (const Layer& l : s.layers)
        for (const double t : l.time_constant)
          if (usable(t)) low = std::min(low, t), high = std::max(high, t);
  for (const History& run : runs)
    if (!run.spectra.empty()) curves += curves_of(run) * run.spectra.back().layers.size();
  if (!(low <= high)) return "";
  const Axis y = widened(log_axis("time constant, tokens", low, high));
  const size_t records = std::clamp<size_t>(most_points / std::max<size_t>(1, curves), 4, 60);
  std::string out = "<section id=\"spectra\" aria-labelledby=\"spectra-h\">\n<h2 id=\"spectra-h\">Spectra</h2>\n"
                    "<p class=\"caption\">How long heads remember: the time constant is the number of tokens until a state has decayed to 1/e at position 1, "
                    "by the trained biases alone, without what the input adds. Charts: time constants in tokens, on a logarithmic axis, over the steps of "
                    "training; the dotted line is the training length.</p>\n";
  for (size_t r = 0; r < runs.size(); ++r) {
    const History& run = runs[r];
    if (run.spectra.empty()) continue;
    const size_t layers = run.spectra.back().layers.size();
    out += fmt::format("<details class=\"run r{}\"{}><summary>{}{}</summary>", r, r < few_runs ? " open" : "", key_of(r), escape(run.name));
    out += fmt::format("<p class=\"caption\">{} layers of {} {}s. {}</p>", layers, heads_of(run), unit_of(run), ranks(run));
    out += over_training(run, int(r), y, records) + maps(run, low, high) + table(run) + "</details>\n";
  }
  return out + "</section>\n";
}

}  // namespace taper
