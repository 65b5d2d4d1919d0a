// Plot: heat maps, and colours for ordered numbers.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "apps/plot.h"

namespace taper::plot {
namespace {

struct Rgb {
  double r, g, b;  // 0 .. 255
};

template <size_t N>
Rgb between(const std::array<Rgb, N>& anchors, double share) {
  const double at = std::clamp(std::isfinite(share) ? share : 0.0, 0.0, 1.0) * double(N - 1);
  const size_t i = std::min(size_t(at), N - 2);
  const double t = at - double(i);
  const auto mix = [&](double a, double b) { return a + (b - a) * t; };
  return {mix(anchors[i].r, anchors[i + 1].r), mix(anchors[i].g, anchors[i + 1].g), mix(anchors[i].b, anchors[i + 1].b)};
}

std::string hex(const Rgb& c) { return fmt::format("#{:02x}{:02x}{:02x}", int(std::lround(c.r)), int(std::lround(c.g)), int(std::lround(c.b))); }

constexpr std::array<Rgb, 7> dark_to_light{{{48, 18, 89}, {60, 67, 140}, {42, 112, 142}, {33, 149, 136}, {67, 185, 112}, {160, 214, 62}, {253, 231, 57}}};
constexpr std::array<Rgb, 5> slow_to_fast{{{125, 92, 214}, {58, 127, 204}, {22, 146, 126}, {150, 130, 10}, {217, 102, 20}}};

bool is_light(const Rgb& c) {  // black text on it reads better than white
  const auto linear = [](double v) { return std::pow(v / 255, 2.2); };
  return 0.2126 * linear(c.r) + 0.7152 * linear(c.g) + 0.0722 * linear(c.b) > 0.18;
}

std::vector<double> binned(const std::vector<double>& row, size_t columns, bool logarithmic) {
  if (row.size() <= columns) return row;
  std::vector<double> out;
  for (size_t c = 0; c < columns; ++c) {
    const size_t begin = c * row.size() / columns, end = (c + 1) * row.size() / columns;
    double sum = 0;
    for (size_t i = begin; i < end; ++i) sum += logarithmic ? std::log(row[i]) : row[i];
    out.push_back(logarithmic ? std::exp(sum / double(end - begin)) : sum / double(end - begin));
  }
  return out;
}

}  // namespace

std::string colour(double share) { return hex(between(dark_to_light, share)); }
std::string rank_colour(double share) { return hex(between(slow_to_fast, share)); }

std::string svg(const HeatMap& map) {
  std::vector<std::vector<double>> rows;
  size_t columns = 0, cells = 0;
  for (const auto& row : map.rows) {
    rows.push_back(binned(row, map.columns, map.logarithmic));
    columns = std::max(columns, rows.back().size());
    cells = std::max(cells, row.size());
  }
  if (columns == 0) return "";
  const auto share_of = [&](double v) {
    if (map.low == map.high && std::isfinite(v)) return 0.5;  // all cells are alike
    return map.logarithmic ? std::log(v / map.low) / std::log(map.high / map.low) : (v - map.low) / (map.high - map.low);
  };
  constexpr int levels = 48;
  std::array<std::string, levels + 1> paths;  // of the cells of one colour
  std::string values, words;
  const int cell = std::clamp(int(220 / rows.size()), 7, 26), height = cell * int(rows.size());
  for (size_t r = 0; r < rows.size(); ++r) {
    values += r ? ";" : "";
    for (size_t c = 0; c < rows[r].size(); ++c) {
      const double v = rows[r][c], share = share_of(v);
      values += fmt::format("{}{:.4g}", c ? "," : "", v);
      if (!std::isfinite(share)) continue;
      const int level = int(std::lround(std::clamp(share, 0.0, 1.0) * levels));
      paths[size_t(level)] += fmt::format("M{} {}h1v1h-1z", c, r);
      if (columns > 8 || cell < 14) continue;
      const bool on_light = is_light(between(dark_to_light, double(level) / levels));
      words += fmt::format("<text class=\"{}\" x=\"{:.4g}%\" y=\"{}\">{}</text>", on_light ? "dark" : "light", (double(c) + 0.5) * 100 / double(columns),
                           int(r) * cell + cell / 2 + 4, map.logarithmic ? short_number(v) : fmt::format("{:.2f}", v));
    }
  }
  std::string out = fmt::format("<div class=\"plot heat\"><svg class=\"cells\" width=\"100%\" height=\"{}\" role=\"img\" aria-label=\"{}\" ",
                                height, escape(map.title));
  out += fmt::format("data-size=\"{} {} {} {}\" data-names=\"{} {}\" data-values=\"{}\">\n", rows.size(), columns, cells, map.first_column,
                     escape(map.row_name), escape(map.column_name), values);
  out += fmt::format("<svg width=\"100%\" height=\"{}\" viewBox=\"0 0 {} {}\" preserveAspectRatio=\"none\">", height, columns, rows.size());
  for (int level = 0; level <= levels; ++level)
    if (const std::string& d = paths[size_t(level)]; !d.empty()) out += fmt::format("<path fill=\"{}\" d=\"{}\"/>", colour(double(level) / levels), d);
  out += "</svg>\n" + words + "<g class=\"ticks\">";
  const size_t every_row = std::max<size_t>(1, size_t(std::ceil(14.0 / cell)));
  for (size_t r = 0; r < rows.size(); r += every_row) out += fmt::format("<text class=\"y\" x=\"-7\" y=\"{}\">{}</text>", int(r) * cell + cell / 2 + 4, r);
  const size_t shown = std::min<size_t>(cells, 8);  // evenly spaced, the ends among them
  for (size_t i = 0; i < shown; ++i) {
    const size_t c = shown > 1 ? i * (cells - 1) / (shown - 1) : 0;
    out += fmt::format("<text class=\"x\" x=\"{:.4g}%\" y=\"{}\">{}</text>", (double(c) + 0.5) * 100 / double(cells), height + 15, c + map.first_column);
  }
  out += fmt::format("<text class=\"title\" x=\"-30\" y=\"-8\">{}</text>", escape(map.row_name));
  out += fmt::format("<text class=\"title end-x\" x=\"100%\" y=\"{}\">{}</text></g></svg>\n", height + 30, escape(map.column_name));
  std::string gradient;
  for (int i = 0; i <= 12; ++i) gradient += fmt::format("{}{}", i ? "," : "", colour(i / 12.0));
  const double middle = map.logarithmic ? std::sqrt(map.low * map.high) : (map.low + map.high) / 2;
  out += fmt::format("<div class=\"bar\"><i style=\"background:linear-gradient(90deg,{})\"></i>", gradient);
  for (const double v : {map.low, middle, map.high}) out += fmt::format("<span>{}</span>", short_number(v));
  out += "</div></div>\n";
  return out;
}

}  // namespace taper::plot
