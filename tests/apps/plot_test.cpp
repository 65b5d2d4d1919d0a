// Plots: ticks, numbers as text, thinning, smoothing, and the coordinates of what is drawn.
#include "apps/plot.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

using namespace taper::plot;

namespace {

constexpr double missing = std::numeric_limits<double>::quiet_NaN();

std::vector<std::string> texts(const Axis& a, bool fine = false) {
  std::vector<std::string> out;
  for (const Tick& t : a.ticks)
    if (t.fine == fine) out.push_back(t.text);
  return out;
}
using Texts = std::vector<std::string>;

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("plot: ticks are 1, 2 or 5 times a power of ten, with text as short as it can be") {
  CHECK(texts(linear_axis("", 0, 300)) == Texts{"0", "50", "100", "150", "200", "250", "300"});
  CHECK(texts(linear_axis("", 0, 300), true) == Texts{"25", "75", "125", "175", "225", "275"});
  CHECK(texts(linear_axis("", 2.31, 4.87)) == Texts{"2.5", "3.0", "3.5", "4.0", "4.5"});
  CHECK(texts(linear_axis("", 0, 0.004)) == Texts{"0", "0.001", "0.002", "0.003", "0.004"});
  CHECK(texts(linear_axis("", 0, 6e-4)) == Texts{"0", "1×10⁻⁴", "2×10⁻⁴", "3×10⁻⁴", "4×10⁻⁴", "5×10⁻⁴", "6×10⁻⁴"});
  CHECK(texts(linear_axis("", 0, 4.3e9)) == Texts{"0", "1B", "2B", "3B", "4B"});
  CHECK(texts(linear_axis("", 0, 24000)) == Texts{"0", "5k", "10k", "15k", "20k"});
  CHECK(texts(linear_axis("", 0, 24000), true).empty());  // 2.5k is no better than nothing
  CHECK(texts(linear_axis("", 0, 40)) == Texts{"0", "10", "20", "30", "40"});
  CHECK(texts(linear_axis("", 0, 40), true) == Texts{"5", "15", "25", "35"});
  CHECK(texts(linear_axis("", 0, 9000)) == Texts{"0", "2000", "4000", "6000", "8000"});
  CHECK(texts(linear_axis("", -1, 1)) == Texts{"−1.0", "−0.5", "0", "0.5", "1.0"});
  CHECK(texts(linear_axis("", 3, 3)) == Texts{"2.7", "2.8", "2.9", "3.0", "3.1", "3.2", "3.3"});  // there is room around one value
  CHECK(linear_axis("", missing, 5).high == 1);

  CHECK(texts(log_axis("", 1, 1e6)) == Texts{"1", "10", "100", "1000", "10k", "100k", "1M"});
  CHECK(texts(log_axis("", 1e-4, 10)) == Texts{"10⁻⁴", "10⁻³", "0.01", "0.1", "1", "10"});
  CHECK(texts(log_axis("", 1, 256)) == Texts{"1", "10", "100"});
  CHECK(texts(log_axis("", 1, 256), true) == Texts{"2", "5", "20", "50", "200"});
  CHECK(texts(log_axis("", 3, 30)) == Texts{"5", "10", "20"});
  CHECK(texts(log_axis("", 1e-6, 1e6)) == Texts{"10⁻⁶", "10⁻⁴", "0.01", "1", "100", "10k", "1M"});

  const Axis wide = widened(linear_axis("", 2.31, 4.87));
  CHECK(wide.low == 2.25);
  CHECK(wide.high == 5.0);
  CHECK(log_axis("", 1, 100).place(10) == doctest::Approx(0.5));
  CHECK(linear_axis("", 2, 4).place(2.5) == doctest::Approx(0.25));
}

TEST_CASE("plot: numbers as text") {
  CHECK(short_number(0) == "0");
  CHECK(short_number(2.3456) == "2.35");
  CHECK(short_number(-0.5) == "−0.5");
  CHECK(short_number(999.6) == "1000");
  CHECK(short_number(12345) == "12.3k");
  CHECK(short_number(999960) == "1M");
  CHECK(short_number(1.5e9) == "1.5B");
  CHECK(short_number(4e-5) == "4×10⁻⁵");
  CHECK(short_number(9.999e-4) == "1×10⁻³");
  CHECK(short_number(missing) == "–");
  CHECK(short_number(1234567, 6) == "1.23457M");
  CHECK(grouped(0) == "0");
  CHECK(grouped(999) == "999");
  CHECK(grouped(1000) == "1,000");
  CHECK(grouped(-123456) == "-123,456");
  CHECK(grouped(4300000000) == "4,300,000,000");
}

TEST_CASE("plot: text is inert in elements and attributes, whatever its bytes") {
  CHECK(escape("<script>alert('a & \"b\"')</script>") == "&lt;script&gt;alert(&#39;a &amp; &quot;b&quot;&#39;)&lt;/script&gt;");
  CHECK(escape("α β 𝛼 ü") == "α β 𝛼 ü");
  const std::string unknown = "\xef\xbf\xbd";
  CHECK(escape("a\xff" "b") == "a" + unknown + "b");
  CHECK(escape("\xc0\xbc") == unknown + unknown);              // '<' in too many bytes
  CHECK(escape("\xed\xa0\x80") == unknown + unknown + unknown);  // half of a surrogate pair
  CHECK(escape("\xf4\x90\x80\x80").find(unknown) == 0);
  CHECK(escape("\xe2\x82") == unknown + unknown);              // cut off
  CHECK(escape(std::string("\0\x1b[1m\x7f\n", 7)) == unknown + unknown + "[1m" + unknown + "\n");
}

TEST_CASE("plot: thinned curves keep each piece's first, lowest, highest and last point, and its gap") {
  Points points;
  for (int i = 0; i < 100000; ++i) points.push_back({double(i), std::sin(i * 0.001) + (i % 7) * 0.01});
  points[31234].y = 9;   // one step up, one down: both must be seen
  points[77777].y = -9;
  points[50000].y = missing;
  const Axis x = linear_axis("", 0, 99999);
  const Points thin = decimate(points, x, 100);
  CHECK(thin.size() <= 401);
  CHECK(thin.size() >= 300);
  double low = 0, high = 0;
  int gaps = 0;
  for (size_t i = 0; i < thin.size(); ++i) {
    if (i > 0) CHECK(thin[i].x > thin[i - 1].x);
    if (std::isnan(thin[i].y)) {
      ++gaps;
      continue;
    }
    low = std::min(low, thin[i].y), high = std::max(high, thin[i].y);
    CHECK(thin[i] == points[size_t(thin[i].x)]);
  }
  CHECK(low == -9);
  CHECK(high == 9);
  CHECK(gaps == 1);
  CHECK(thin.front() == points.front());
  CHECK(thin.back() == points.back());
  const Points few(points.begin(), points.begin() + 400);
  CHECK(decimate(few, x, 100) == few);
}

TEST_CASE("plot: a mean over a window, symmetric at the beginning, one-sided at the end, gaps left out") {
  const Points points{{1, 8}, {2, 6}, {3, 1}, {4, 3}, {5, 5}, {6, 10}};
  const Points mean = smoothed(points, 2);
  CHECK(mean[0].y == 8);
  CHECK(mean[1].y == 5);                           // (8 + 6 + 1) / 3
  CHECK(mean[2].y == doctest::Approx(4.6));        // all but the last
  CHECK(mean[4].y == doctest::Approx(19.0 / 4));   // 1, 3, 5, 10
  CHECK(mean[5].y == doctest::Approx(6));          // 3, 5, 10
  CHECK(smoothed(points, 0) == points);
  Points holes = points;
  holes[2].y = missing;
  const Points around = smoothed(holes, 1);
  CHECK(std::isnan(around[2].y));
  CHECK(around[1].y == 7);
  CHECK(around[3].y == 4);
}

TEST_CASE("plot: a chart's paths are whole numbers of 20000 x 100 height, each relative to the one before") {
  Chart c{.title = "Loss & more", .x = linear_axis("step", 0, 4), .y = linear_axis("loss", 0, 2, 4), .height = 100, .series = {}};
  c.series.push_back({.name = "a", .owner = 3, .look = 5, .points = {{0, 2}, {1, 1}, {2, missing}, {3, 0.5}, {4, 0.505}}, .dots = true, .labelled = true});
  c.series.push_back({.name = "faint", .owner = 1, .look = 1, .stroke = Stroke::faint, .points = {{2, 1}}});
  c.series.push_back({.name = "<b>", .look = 0, .stroke = Stroke::dashed, .points = {{0, 7}, {4, 0}}});
  c.rules.push_back({0.5, "half"});
  c.marks = {{1, "one <"}, {3, "three"}, {5, "outside"}};
  const std::string s = svg(c);
  CAPTURE(s);
  CHECK(has(s, "<path class=\"r3 s5\" data-name=\"a\" d=\"m0 0 5000 5000m10000 2500 5000-25\"/>"));
  CHECK(has(s, "<path class=\"r1 s1 faint\" data-name=\"faint\" d=\"m10000 5000h0\"/>"));  // one point is a dot
  CHECK(has(s, "<path class=\"r0 s0 dashed\" data-name=\"&lt;b&gt;\" d=\"m0-25000 20000 35000\"/>"));  // out of the frame, which cuts it
  CHECK(has(s, "viewBox=\"0 0 20000 10000\" preserveAspectRatio=\"none\""));
  CHECK(has(s, "aria-label=\"Loss &amp; more\" data-x=\"0 4 0\" data-y=\"0 2 0\" data-xn=\"step\" data-yn=\"loss\""));
  CHECK(has(s, "<circle class=\"r3 s5\" cx=\"25%\" cy=\"50.0\" r=\"3.2\"/>"));
  CHECK(has(s, "<text class=\"y\" x=\"-8\" y=\"29.0\">1.5</text>"));
  CHECK(has(s, "<text class=\"x\" x=\"50%\" y=\"117\">2</text>"));
  CHECK(has(s, "<g class=\"rule\"><line x2=\"100%\" y1=\"75.0\" y2=\"75.0\"/>"));
  CHECK(has(s, "<g class=\"rule\"><line x1=\"25%\" x2=\"25%\" y2=\"100\"/><text class=\"after\" x=\"25%\" dx=\"5\" y=\"12.0\">one &lt;</text></g>"));
  CHECK(has(s, "<line x1=\"75%\" x2=\"75%\" y2=\"100\"/><text x=\"75%\" dx=\"-5\" y=\"27.0\">three</text></g>"));  // below the first
  CHECK(!has(s, "outside"));
  CHECK(has(s, "<div class=\"plot ends\" style=\"--n:1\">"));
  CHECK(has(s, "<g class=\"end r3\"><svg x=\"100%\" y=\"74.8\""));
  CHECK(!has(s, "NaN"));
  CHECK(!has(s, "nan"));

  c.x = log_axis("step", 1, 100);
  c.y = log_axis("loss", 0.1, 10);
  c.series = {{.name = "log", .points = {{0, 1}, {1, 0.1}, {10, 1}, {100, 10}, {100, -1}}}};  // what has no logarithm is a gap
  CHECK(has(svg(c), "d=\"m0 10000 10000-5000 10000-5000\""));
}

TEST_CASE("plot: names at the ends of curves do not overlap, and stay in the frame") {
  Chart c{.title = "t", .x = linear_axis("x", 0, 1), .y = linear_axis("y", 0, 1), .height = 100, .series = {}};
  for (int i = 0; i < 4; ++i)
    c.series.push_back({.name = std::string(1, char('a' + i)), .owner = i, .look = i, .points = {{0, 0}, {1, 0.01 * i}}, .labelled = true});
  c.series.push_back({.name = "early", .owner = 4, .points = {{0, 0}, {0.5, 0.5}}, .labelled = true});
  const std::string s = svg(c);
  CHECK(has(s, "<g class=\"end r3\"><svg x=\"100%\" y=\"50.0\""));
  CHECK(has(s, "<g class=\"end r2\"><svg x=\"100%\" y=\"66.0\""));
  CHECK(has(s, "<g class=\"end r1\"><svg x=\"100%\" y=\"82.0\""));
  CHECK(has(s, "<g class=\"end r0\"><svg x=\"100%\" y=\"98.0\""));
  CHECK(has(s, "<div class=\"plot ends\" style=\"--n:5\">"));
  CHECK(has(s, "<g class=\"end r4\"><text class=\"halo\" x=\"50%\" dx=\"8\" y=\"54.0\">early</text></g>"));
  c.series = {{.name = "ααααααααααααααααααααααααα", .points = {{0, 0}, {1, 1}}, .labelled = true}};  // 25 letters
  CHECK(has(svg(c), "--n:24\">"));
  CHECK(has(svg(c), ">ααααααααααααααααααααααα…</text>"));
}

TEST_CASE("plot: heat maps: cells of one colour are one path, many columns are means of neighbours") {
  HeatMap map{.title = "α", .row_name = "layer", .column_name = "head", .rows = {{0, 0.5}, {1, missing}}};
  const std::string s = svg(map);
  CHECK(has(s, "data-size=\"2 2 2 0\" data-names=\"layer head\" data-values=\"0,0.5;1,nan\""));
  CHECK(has(s, "<path fill=\"" + colour(0) + "\" d=\"M0 0h1v1h-1z\"/>"));
  CHECK(has(s, "<path fill=\"" + colour(1) + "\" d=\"M0 1h1v1h-1z\"/>"));
  CHECK(has(s, "<text class=\"light\" x=\"25%\" y=\"17\">0.00</text>"));
  CHECK(has(s, "<text class=\"dark\" x=\"25%\" y=\"43\">1.00</text>"));
  CHECK(colour(0) == "#301259");
  CHECK(colour(1) == "#fde739");

  map.rows = {{1, 3, 100, 300, 7, 7}};
  map.columns = 3;
  map.low = 1, map.high = 400;
  CHECK(has(svg(map), "data-size=\"1 3 6 0\" data-names=\"layer head\" data-values=\"2,200,7\""));
  map.logarithmic = true;
  CHECK(has(svg(map), "data-values=\"1.732,173.2,7\""));
  map.rows = {{5, 5}};
  map.low = map.high = 5;  // nothing differs: the cells are there all the same
  CHECK(has(svg(map), "<path fill=\"" + colour(0.5) + "\" d=\"M0 0h1v1h-1zM1 0h1v1h-1z\"/>"));
  map.logarithmic = false;
  CHECK(has(svg(map), "<path fill=\"" + colour(0.5) + "\""));
  map.rows = {};
  CHECK(svg(map).empty());
}
