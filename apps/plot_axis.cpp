// Plot: numbers as text, and axes.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "apps/plot.h"

namespace taper::plot {
namespace {

std::string superscript(int n) {
  static constexpr std::array<const char*, 10> digits{"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string out = n < 0 ? "⁻" : "";
  for (const char d : std::to_string(std::abs(n))) out += digits[size_t(d - '0')];
  return out;
}

std::string minus_sign(std::string text) {  // "−", as wide as a digit
  return text.starts_with('-') ? "−" + text.substr(1) : text;
}

int exponent_of(double x) { return int(std::floor(std::log10(std::abs(x)) + 1e-9)); }

struct Suffix {
  double unit;
  const char* text;
};
Suffix suffix_of(double x) {
  x = std::abs(x);
  if (x >= 1e18 || x < 9999.5) return {1, ""};
  return x >= 999.95e9 ? Suffix{1e12, "T"} : x >= 999.95e6 ? Suffix{1e9, "B"} : x >= 999.95e3 ? Suffix{1e6, "M"} : Suffix{1e3, "k"};
}

// How many decimals ticks need that lie `step` apart, in this unit.
int decimals_for(double step, double unit) {
  const int decimals = std::clamp(-exponent_of(step / unit * 1.0000001), 0, 9);
  const double whole = step / unit * std::pow(10, decimals);
  return decimals + (std::abs(whole - std::round(whole)) > 1e-6);  // 2.5, 0.25
}

// A tick of an axis whose ticks lie `step` apart and reach up to `most`.
std::string tick_text(double x, double step, double most) {
  if (std::abs(x) < step * 1e-6) return "0";
  if (most < 1e-3 || most >= 1e18) {
    const int e = exponent_of(x);
    return minus_sign(fmt::format("{:.3g}", x / std::pow(10, e))) + "×10" + superscript(e);
  }
  const Suffix s = suffix_of(most);
  return minus_sign(fmt::format("{:.{}f}{}", x / s.unit, decimals_for(step, s.unit), s.text));
}

// Fine ticks only where they need no more decimals than the coarse ones.
void add_ticks(Axis& axis, double step, bool fine, double coarse) {
  const double most = std::max(std::abs(axis.low), std::abs(axis.high)), unit = suffix_of(most).unit;
  if (fine && decimals_for(step, unit) > decimals_for(coarse, unit)) return;
  const int64_t first = int64_t(std::ceil(axis.low / step - 1e-6)), last = int64_t(std::floor(axis.high / step + 1e-6));
  for (int64_t i = first; i <= last; ++i) {
    const double at = double(i) * step, of_coarse = at / coarse;
    if (fine && std::abs(of_coarse - std::round(of_coarse)) < 1e-6) continue;
    axis.ticks.push_back({.at = at, .text = tick_text(at, step, most), .fine = fine});
  }
}

double decade(int n) { return std::pow(10.0, n); }

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  static constexpr const char* unknown = "\xef\xbf\xbd";
  for (size_t i = 0; i < text.size();) {
    const uint8_t b = uint8_t(text[i]);
    const size_t length = b < 0x80 ? 1 : b >= 0xc2 && b < 0xe0 ? 2 : b >= 0xe0 && b < 0xf0 ? 3 : b >= 0xf0 && b < 0xf5 ? 4 : 0;
    bool whole = length > 0 && i + length <= text.size();
    for (size_t k = 1; whole && k < length; ++k) whole = (uint8_t(text[i + k]) & 0xc0) == 0x80;
    if (whole && length > 2) {  // too long for what they say, surrogates, beyond the last
      const uint8_t next = uint8_t(text[i + 1]);
      whole = !((b == 0xe0 && next < 0xa0) || (b == 0xed && next >= 0xa0) || (b == 0xf0 && next < 0x90) || (b == 0xf4 && next >= 0x90));
    }
    if (!whole || (b < 0x20 && b != '\n' && b != '\t') || b == 0x7f) {
      out += unknown;
      ++i;
      continue;
    }
    if (b == '&') out += "&amp;";
    else if (b == '<') out += "&lt;";
    else if (b == '>') out += "&gt;";
    else if (b == '"') out += "&quot;";
    else if (b == '\'') out += "&#39;";
    else out += text.substr(i, length);
    i += length;
  }
  return out;
}

std::string short_number(double x, int digits) {
  if (!std::isfinite(x)) return "–";
  if (x == 0) return "0";
  if (std::abs(x) < 1e-3 || std::abs(x) >= 1e18) {
    int e = exponent_of(x);
    std::string mantissa = fmt::format("{:.{}g}", x / std::pow(10, e), digits);
    if (mantissa == "10" || mantissa == "-10") mantissa.pop_back(), ++e;
    return minus_sign(mantissa) + "×10" + superscript(e);
  }
  const Suffix s = suffix_of(x);
  const double scaled = x / s.unit;
  if (std::abs(scaled) >= std::pow(10, digits) - 0.5) return minus_sign(fmt::format("{:.0f}{}", scaled, s.text));
  return minus_sign(fmt::format("{:.{}g}{}", scaled, digits, s.text));
}

std::string grouped(int64_t n) {
  std::string digits = fmt::format("{}", n);
  for (int64_t at = int64_t(digits.size()) - 3; at > (n < 0 ? 1 : 0); at -= 3) digits.insert(size_t(at), ",");
  return digits;
}

double Axis::place(double v) const {
  return logarithmic ? std::log(v / low) / std::log(high / low) : (v - low) / (high - low);
}

Axis linear_axis(std::string title, double low, double high, int about) {
  if (!std::isfinite(low) || !std::isfinite(high)) low = 0, high = 1;
  if (high < low) std::swap(low, high);
  if (!(high - low > 1e-9 * std::max(std::abs(low), std::abs(high)))) {
    const double room = low == 0 ? 1 : std::abs(low) * 0.1;
    low -= room, high += room;
  }
  Axis axis{.title = std::move(title), .low = low, .high = high};
  const double rough = (high - low) / about, unit = decade(exponent_of(rough)), share = rough / unit;
  const int times = share < 1.5 ? 1 : share < 3.5 ? 2 : share < 7.5 ? 5 : 10;
  const double step = times * unit;
  add_ticks(axis, step, false, step);
  add_ticks(axis, step / 2, true, step);
  std::ranges::sort(axis.ticks, {}, &Tick::at);
  return axis;
}

Axis log_axis(std::string title, double low, double high) {
  if (!(low > 0) || !std::isfinite(high)) low = 1, high = std::isfinite(high) && high > 1 ? high : 10;
  if (high < low) std::swap(low, high);
  if (high < low * 1.001) low /= 2, high *= 2;
  Axis axis{.title = std::move(title), .low = low, .high = high, .logarithmic = true};
  const double decades = std::log10(high / low);
  const int every = decades > 16 ? 4 : decades > 8 ? 2 : 1;
  for (int d = int(std::floor(std::log10(low))) - 1; d <= int(std::ceil(std::log10(high))) + 1; ++d)
    for (const int times : {1, 2, 5}) {
      const double at = times * decade(d);
      if (at < low * (1 - 1e-9) || at > high * (1 + 1e-9)) continue;
      if (times > 1 && decades > 3) continue;
      const bool fine = times == 1 ? (every > 1 && d % every != 0) : decades > 1.2;
      axis.ticks.push_back({.at = at, .text = times == 1 && d < -2 ? "10" + superscript(d) : short_number(at), .fine = fine});
    }
  return axis;
}

Axis widened(Axis axis) {
  if (axis.logarithmic) {
    const double room = std::pow(axis.high / axis.low, 0.04);
    return log_axis(std::move(axis.title), axis.low / room, axis.high * room);
  }
  double step = std::numeric_limits<double>::infinity(), before = std::numeric_limits<double>::quiet_NaN();
  for (const Tick& t : axis.ticks) {
    if (t.fine) continue;
    if (std::isfinite(before)) step = std::min(step, (t.at - before) / 2);
    before = t.at;
  }
  if (!std::isfinite(step)) return axis;
  return linear_axis(std::move(axis.title), std::floor(axis.low / step + 1e-6) * step, std::ceil(axis.high / step - 1e-6) * step);
}

}  // namespace taper::plot
