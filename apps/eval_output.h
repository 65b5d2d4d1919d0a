// Where `taper eval` leaves what it found, so that `taper report RUN` shows it:
//
//   results_<time>.json      tasks, in the harness's form (apps/results.h), and samples_<task>_<time>.jsonl
//   by_position_<time>.json  length behaviour
//   held_out_<time>.json     loss, or MQAR's accuracy, at each length
//
// With --output DIR these go into DIR/<model>, and what cannot be written ends the command (73, 74). Without, they go into the
// run's directory RUN/evaluations: a run that cannot be written to is evaluated all the same, and one line says so. A checkpoint
// that belongs to no run leaves nothing.
#pragma once
#include <string>
#include <string_view>

#include "tensor/file.h"

namespace taper {

class EvalOutput {
 public:
  EvalOutput() = default;  // nothing is kept
  // checkpoint: the directory that was evaluated; model: its name, as the user gave it; output: --output, or empty.
  EvalOutput(const Path& checkpoint, const std::string& model, const Path& output);

  bool kept() const { return !directory_.empty(); }
  const Path& directory() const { return directory_; }
  void write(const std::string& name, std::string_view text);
  void say(const std::string& name) const;  // on stderr, where a file lies that was not asked for

 private:
  void give_up(const std::string& why);
  Path directory_;
  bool asked_ = false;  // by --output
};

std::string sanitized(std::string_view model);  // a name for a directory
double seconds_now();                           // of the clock, since 1970
std::string file_time(double seconds);          // "2026-01-31T23-59-59.000123", UTC

}  // namespace taper
