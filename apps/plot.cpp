// Plot: charts of curves. Numbers as text and axes stand in apps/plot_axis.cpp, heat maps in apps/plot_heat.cpp.
#include "apps/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace taper::plot {
namespace {

constexpr double width = 20000;  // of the grid

// A path of whole numbers, each point relative to the one before.
class Path {
 public:
  void add(int64_t x, int64_t y) {
    if (pen_down_ && x == x_ && y == y_) return;
    if (!pen_down_) text_ += "m";
    number(x - x_, pen_down_ && drawn_);
    number(y - y_, true);
    drawn_ = true;
    single_ = !pen_down_;
    pen_down_ = true, x_ = x, y_ = y;
  }
  void lift() {
    if (pen_down_ && single_) text_ += "h0";  // a dot, where a line would be nothing
    pen_down_ = drawn_ = single_ = false;
  }
  std::string text() {
    lift();
    return text_;
  }

 private:
  void number(int64_t n, bool after) {
    if (after && n >= 0) text_ += ' ';
    text_ += fmt::format("{}", n);
  }
  std::string text_;
  int64_t x_ = 0, y_ = 0;
  bool pen_down_ = false, drawn_ = false, single_ = false;
};

bool shown(const Point& p, const Axis& x, const Axis& y) {
  return std::isfinite(p.y) && std::isfinite(p.x) && (!x.logarithmic || p.x > 0) && (!y.logarithmic || p.y > 0);
}

std::string curve(const Points& points, const Chart& c) {
  Path path;
  for (const Point& p : points) {
    if (!shown(p, c.x, c.y)) {
      path.lift();
      continue;
    }
    const double y = std::clamp(1 - c.y.place(p.y), -20.0, 20.0);  // far outside the frame is outside
    path.add(std::llround(c.x.place(p.x) * width), std::llround(y * c.height * 100));
  }
  return path.text();
}

const char* name_of(Stroke stroke) {
  return stroke == Stroke::faint ? " faint" : stroke == Stroke::dashed ? " dashed" : "";
}

size_t code_points(std::string_view text) {
  return size_t(std::ranges::count_if(text, [](char b) { return (uint8_t(b) & 0xc0) != 0x80; }));
}

// At most 24 letters of a name: the rest of the width is the curves'.
std::string shortened(std::string_view name) {
  constexpr size_t most = 24;
  if (code_points(name) <= most) return std::string(name);
  size_t end = 0;
  for (size_t letters = 0; letters < most - 1; ++letters)
    for (++end; end < name.size() && (uint8_t(name[end]) & 0xc0) == 0x80;) ++end;
  return std::string(name.substr(0, end)) + "…";
}

// Names at the ends of their curves: beside the frame, moved apart where they would overlap, or, of a curve that ends early, where
// it ends.
std::string end_labels(const Chart& c) {
  struct Label {
    double y, share;  // px; of the axis
    const Series* series;
  };
  std::vector<Label> beside, inside;
  for (const Series& s : c.series)
    for (auto p = s.points.rbegin(); s.labelled && p != s.points.rend(); ++p)
      if (shown(*p, c.x, c.y)) {
        const double share = c.x.place(p->x), y = (1 - c.y.place(p->y)) * c.height;
        (share > 0.8 ? beside : inside).push_back({y, share, &s});
        break;
      }
  std::ranges::stable_sort(beside, {}, &Label::y);
  constexpr double apart = 16;
  for (size_t i = 0; i < beside.size(); ++i) beside[i].y = std::max(beside[i].y, i ? beside[i - 1].y + apart : 2.0);
  double floor = c.height - 2.0;
  for (size_t i = beside.size(); i-- > 0; floor -= apart) beside[i].y = std::min(beside[i].y, floor);
  std::string out;
  for (const Label& l : beside)
    out += fmt::format("<g class=\"end r{}\"><svg x=\"100%\" y=\"{:.1f}\" overflow=\"visible\">"
                       "<path class=\"s{}\" d=\"m7 0h14\"/><text x=\"26\" y=\"4\">{}</text></svg></g>",
                       l.series->owner, l.y, l.series->look, escape(shortened(l.series->name)));
  for (const Label& l : inside)
    out += fmt::format("<g class=\"end r{}\"><text class=\"halo\" x=\"{:.5g}%\" dx=\"8\" y=\"{:.1f}\">{}</text></g>", l.series->owner, l.share * 100,
                       std::clamp(l.y, 4.0, c.height - 4.0) + 4, escape(shortened(l.series->name)));
  return out;
}

}  // namespace

Points decimate(const Points& points, const Axis& x, size_t buckets) {
  if (points.size() <= 4 * buckets) return points;
  Points kept;
  const auto bucket_of = [&](const Point& p) { return int64_t(std::floor(x.place(p.x) * double(buckets))); };
  for (size_t begin = 0; begin < points.size();) {
    const int64_t bucket = bucket_of(points[begin]);
    size_t end = begin, low = begin, high = begin, gap = points.size();
    for (; end < points.size() && bucket_of(points[end]) == bucket; ++end) {
      const double y = points[end].y;
      if (!std::isfinite(y)) gap = std::min(gap, end);
      else if (!std::isfinite(points[low].y)) low = high = end;
      else if (y < points[low].y) low = end;
      else if (y > points[high].y) high = end;
    }
    std::vector<size_t> chosen{begin, low, high, end - 1};
    if (gap < points.size()) chosen.push_back(gap);
    std::ranges::sort(chosen);
    const auto repeated = std::ranges::unique(chosen);
    chosen.erase(repeated.begin(), repeated.end());
    for (const size_t i : chosen) kept.push_back(points[i]);
    begin = end;
  }
  return kept;
}

Points smoothed(const Points& points, size_t half) {
  Points out = points;
  std::vector<double> sums{0};  // before each point
  std::vector<size_t> counts{0};
  for (const Point& p : points) {
    const bool there = std::isfinite(p.y);
    sums.push_back(sums.back() + (there ? p.y : 0));
    counts.push_back(counts.back() + there);
  }
  for (size_t i = 0; i < points.size(); ++i) {
    if (!std::isfinite(points[i].y)) continue;
    const size_t h = std::min(half, i), end = std::min(points.size(), i + h + 1);
    out[i].y = (sums[end] - sums[i - h]) / double(counts[end] - counts[i - h]);
  }
  return out;
}

std::string svg(const Chart& c) {
  const auto percent = [](double share) { return fmt::format("{:.5g}%", share * 100); };
  const auto inside = [](double share) { return share >= -1e-9 && share <= 1 + 1e-9; };
  size_t longest = 0;
  for (const Series& s : c.series)
    if (s.labelled) longest = std::max(longest, code_points(shortened(s.name)));
  std::string out = longest ? fmt::format("<div class=\"plot ends\" style=\"--n:{}\">", longest) : "<div class=\"plot\">";
  const auto range = [](const Axis& a) { return fmt::format("{:.12g} {:.12g} {}", a.low, a.high, int(a.logarithmic)); };
  out += fmt::format("<svg class=\"chart\" width=\"100%\" height=\"{}\" role=\"img\" aria-label=\"{}\" "
                     "data-x=\"{}\" data-y=\"{}\" data-xn=\"{}\" data-yn=\"{}\">\n",
                     c.height, escape(c.title), range(c.x), range(c.y), escape(c.x.title), escape(c.y.title));
  std::string grid, text;
  for (const Tick& t : c.y.ticks) {
    const double share = c.y.place(t.at), y = std::max(0.0, (1 - share) * c.height);
    if (!inside(share) || t.fine) continue;
    grid += fmt::format("<line x2=\"100%\" y1=\"{0:.1f}\" y2=\"{0:.1f}\"/>", y);
    text += fmt::format("<text class=\"y\" x=\"-8\" y=\"{:.1f}\">{}</text>", y + 4, t.text);
  }
  for (const Tick& t : c.x.ticks) {
    const double share = c.x.place(t.at);
    if (!inside(share)) continue;
    if (!t.fine) grid += fmt::format("<line x1=\"{0}\" x2=\"{0}\" y2=\"{1}\"/>", percent(share), c.height);
    text += fmt::format("<text class=\"x{}\" x=\"{}\" y=\"{}\">{}</text>", t.fine ? " fine" : "", percent(share), c.height + 17, t.text);
  }
  out += fmt::format("<g class=\"grid\">{0}</g><line class=\"base\" x2=\"100%\" y1=\"{1}\" y2=\"{1}\"/>\n<g class=\"ticks\">{2}", grid, c.height, text);
  out += fmt::format("<text class=\"title\" x=\"-40\" y=\"-11\">{}</text><text class=\"title end-x\" x=\"100%\" y=\"{}\">{}</text></g>\n",
                     escape(c.heading.empty() ? c.y.title : c.heading), c.height + 34, escape(c.x.title));

  std::string curves, dots;
  for (const Series& s : c.series) {
    const Points points = decimate(s.points, c.x, c.buckets);
    const std::string colour = s.colour.empty() ? "" : fmt::format(" style=\"stroke:{}\"", s.colour);
    curves += fmt::format("<path class=\"r{} s{}{}\"{} data-name=\"{}\" d=\"{}\"/>\n", s.owner, s.look, name_of(s.stroke), colour, escape(s.name),
                          curve(points, c));
    if (!s.dots || points.size() > 100) continue;
    for (const Point& p : points)
      if (shown(p, c.x, c.y) && inside(c.y.place(p.y)))
        dots += fmt::format("<circle class=\"r{} s{}\" cx=\"{}\" cy=\"{:.1f}\" r=\"3.2\"/>", s.owner, s.look, percent(c.x.place(p.x)),
                            (1 - c.y.place(p.y)) * c.height);
  }
  out += fmt::format("<svg class=\"curves\" width=\"100%\" height=\"{}\" viewBox=\"0 0 20000 {}\" preserveAspectRatio=\"none\">\n{}</svg>\n",
                     c.height, c.height * 100, curves);
  if (!dots.empty()) out += dots + "\n";
  for (const Rule& r : c.rules)
    if (const double share = c.y.place(r.y); inside(share))
      out += fmt::format("<g class=\"rule\"><line x2=\"100%\" y1=\"{0:.1f}\" y2=\"{0:.1f}\"/><text x=\"100%\" dx=\"-4\" y=\"{1:.1f}\">{2}</text></g>\n",
                         (1 - share) * c.height, (1 - share) * c.height - 4, escape(r.text));
  double top = 12;
  for (const Mark& m : c.marks)
    if (const double share = c.x.place(m.x); inside(share)) {
      out += fmt::format("<g class=\"rule\"><line x1=\"{0}\" x2=\"{0}\" y2=\"{1}\"/><text{2} x=\"{0}\" dx=\"{3}\" y=\"{4:.1f}\">{5}</text></g>\n",
                         percent(share), c.height, share < 0.5 ? " class=\"after\"" : "", share < 0.5 ? 5 : -5, top, escape(m.text));
      top += 15;
    }
  return out + end_labels(c) + "</svg></div>\n";
}

}  // namespace taper::plot
