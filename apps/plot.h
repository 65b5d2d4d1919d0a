// Plot: numbers as inline SVG for a page that is read on screens of any width, in light and dark, and on paper.
//
// A chart's curves are drawn on a grid of 20000 x 100 height units that the page stretches to its width; strokes, dots and text keep
// their size. Curves are paths of integers, relative to the point before ("m100 2600 20-13 20 7"), so equal numbers give equal
// bytes and a reader gets them back to 1/20000 of the axis. Colours, dashes and fonts are the page's (apps/report_style.cpp):
// class s0, s1, ... is the look of series 0, 1, ..., class r0, r1, ... whose it is, so that a page can hide it.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace taper::plot {

struct Point {
  double x = 0, y = 0;  // y not finite: a gap
  bool operator==(const Point&) const = default;
};
using Points = std::vector<Point>;

// Text inside an element or a quoted attribute. What is no UTF-8, and control characters, become U+FFFD.
std::string escape(std::string_view text);

// "2.35" "12.3k" "1.5M" "4×10⁻⁵" "0": about `digits` digits, for a label. Not finite: "–".
std::string short_number(double x, int digits = 3);
std::string grouped(int64_t n);  // "307,200"

struct Tick {
  double at = 0;
  std::string text;
  bool fine = false;  // between the others: shown where there is room
};

struct Axis {
  std::string title;  // with its unit
  double low = 0, high = 1;
  bool logarithmic = false;
  std::vector<Tick> ticks = {};
  double place(double v) const;  // low -> 0, high -> 1
};

// From low to high as they are, with ticks at 1, 2 or 5 times a power of ten: about `about` of them, and fine ones between.
// low = high, or neither finite: a range around what there is.
Axis linear_axis(std::string title, double low, double high, int about = 5);
// Ticks at powers of ten, where there are few also at 2 and 5 times them. low and high > 0.
Axis log_axis(std::string title, double low, double high);
Axis widened(Axis axis);  // to the next tick outside, or half way to it, so that curves do not touch the frame

// At most about 4 * buckets points that look the same: of each of `buckets` equal pieces of the axis the first, the lowest, the
// highest and the last, in order, and one gap where there are some.
Points decimate(const Points& points, const Axis& x, size_t buckets);

// The mean over a window of 2 half + 1 points, symmetric at the beginning, one-sided at the end. Gaps are left out, and stay.
Points smoothed(const Points& points, size_t half);

enum class Stroke { plain, faint, dashed };

struct Series {
  std::string name;      // of one run's curve; escaped here
  int owner = 0;         // r<owner>
  int look = 0;          // s<look>
  Stroke stroke = Stroke::plain;
  Points points;
  bool dots = false;     // at its points, where they are few
  bool labelled = false; // its name stands at its end
  std::string colour = {};  // instead of the look's
};

struct Rule {  // a horizontal line
  double y = 0;
  std::string text;
};

struct Mark {  // a vertical line, its text at the top
  double x = 0;
  std::string text;
};

struct Chart {
  std::string title;     // what a screen reader says
  Axis x, y;
  int height = 240;      // px
  std::string heading = {};  // above the frame, instead of y's title
  std::vector<Series> series;
  std::vector<Rule> rules = {};
  std::vector<Mark> marks = {};
  size_t buckets = 240;  // see decimate()
};
std::string svg(const Chart& chart);

// Rows of cells, row 0 at the top. More than `columns` cells in a row are drawn as means of neighbours.
struct HeatMap {
  std::string title, row_name, column_name;  // "layer", "head"
  std::vector<std::vector<double>> rows;
  double low = 0, high = 1;  // the ends of the colours; equal: one colour, of the middle
  bool logarithmic = false;
  size_t columns = 64;
  size_t first_column = 0;   // its number
};
std::string svg(const HeatMap& map);
std::string colour(double share);  // "#rrggbb" of 0 .. 1: dark blue to yellow, told apart by the colour-blind and in grey
std::string rank_colour(double share);  // for strokes of ordered curves, seen on white and on black

}  // namespace taper::plot
