// Progress: the line, its estimate of the time left, and when it may be drawn.
#include "apps/progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>

namespace taper {
namespace {

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value && *value;
}
bool is_on(const char* name) { return is_set(name) && std::string_view(std::getenv(name)) != "0"; }
bool dumb() {
  const char* term = std::getenv("TERM");
  return term && std::string_view(term) == "dumb";
}

}  // namespace

bool terminal_stderr() { return isatty(STDERR_FILENO) && !dumb(); }

bool color_stderr() {
  if (is_set("NO_COLOR")) return false;
  if (is_on("CLICOLOR_FORCE") || is_on("FORCE_COLOR")) return true;
  return terminal_stderr();
}

std::string duration_text(double seconds) {
  const int64_t s = std::isfinite(seconds) ? int64_t(seconds + 0.5) : 0;
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d{:02}h", s / 86400, s / 3600 % 24);
}

Progress::Progress(int64_t first_step, int64_t steps, int64_t tokens_per_step, bool terminal, bool color)
    : first_(first_step), steps_(steps), tokens_per_step_(tokens_per_step), done_(first_step), terminal_(terminal), color_(color) {}

void Progress::stepping() { begin_ = Clock::now(); }

void Progress::stepped(int64_t step) {
  const auto now = Clock::now();
  seconds_ += std::chrono::duration<double>(now - begin_).count();
  if (step == first_ + 1) first_seconds_ = seconds_;
  done_ = step;
  if (terminal_ && drawn_ && now - last_draw_ > std::chrono::milliseconds(100)) draw();
}

void Progress::logged(const StepNumbers& now) {
  numbers_ = now;
  if (terminal_) return draw();
  fmt::print(stderr, "{}\n", line());
}

void Progress::note(std::string_view text) {
  fmt::print(stderr, "{}{}\n", terminal_ && drawn_ ? "\r\x1b[K" : "", text);
  if (terminal_ && drawn_) draw();
}

void Progress::finish() {
  if (terminal_ && drawn_) fmt::print(stderr, "\n");
  drawn_ = false;
}

double Progress::tokens_per_second() const {
  const double s = seconds_ - first_seconds_;
  const int64_t counted = done_ - first_ - 1;
  return counted > 0 && s > 0 ? double(counted * tokens_per_step_) / s : 0;
}

double Progress::seconds() const { return seconds_; }

std::string Progress::line() const {
  const int width = int(fmt::formatted_size("{}", steps_));
  const char *bold = color_ ? "\x1b[1m" : "", *plain = color_ ? "\x1b[0m" : "";
  std::string text = fmt::format("step {:>{}}/{} | loss {}{:.4f}{} | norm {:.3f} | lr {:.2e}", done_, width, steps_, bold, numbers_.loss,
                                 plain, numbers_.norm, numbers_.lr);
  const double rate = tokens_per_second();
  if (rate > 0)
    text += fmt::format(" | {:.0f} tok/s | eta {}", rate, duration_text(double((steps_ - done_) * tokens_per_step_) / rate));
  return text;
}

void Progress::draw() {
  fmt::print(stderr, "\r{}\x1b[K", line());
  last_draw_ = Clock::now();
  drawn_ = true;
}

}  // namespace taper
