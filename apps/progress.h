// Progress: what a person sees of a run. On a terminal one line that changes in place, elsewhere one
// plain line per log interval; always on stderr. Its times are never part of the metrics.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace taper {

struct StepNumbers {
  int64_t step = 0;  // steps done
  double loss = 0, norm = 0, lr = 0;
};

class Progress {
 public:
  // terminal, color: see terminal_stderr() and color_stderr().
  Progress(int64_t first_step, int64_t steps, int64_t tokens_per_step, bool terminal, bool color);
  ~Progress() { finish(); }

  void stepping();                      // before every step: what lies between steps is not counted
  void stepped(int64_t step);           // after every step; redraws the line at most ten times a second
  void logged(const StepNumbers& now);  // at each log interval
  void note(std::string_view text);     // a line of its own: evaluations, checkpoints
  void finish();                        // leaves the line in place

  double tokens_per_second() const;     // over the steps of this process but its first
  double seconds() const;               // in steps, the first included
  std::string line() const;             // "step   12/400 | loss 2.3410 | norm 0.812 | lr 1.20e-03 | 5321 tok/s | eta 1m12s"

 private:
  using Clock = std::chrono::steady_clock;
  void draw();
  int64_t first_, steps_, tokens_per_step_, done_;
  bool terminal_, color_, drawn_ = false;
  StepNumbers numbers_;
  Clock::time_point begin_ = {}, last_draw_ = {};
  double seconds_ = 0, first_seconds_ = 0;  // in all steps; in the first
};

std::string duration_text(double seconds);  // "45s" "3m20s" "5h02m" "2d03h"

// NO_COLOR (set and not empty) beats CLICOLOR_FORCE and FORCE_COLOR; TERM=dumb: neither color nor in-place lines.
bool terminal_stderr();
bool color_stderr();

}  // namespace taper
