// Run: the directory of one training run, and what may change when it goes on.
//
//   config.toml     resolved, complete
//   tokenizer.json  or vocab.txt: the data's tokenizer, where it is made from a file
//   metrics.jsonl   reproducible values only: equal bytes for equal runs, however often interrupted
//   timings.jsonl   wall clock, tokens/s, memory: of this machine and this time
//   checkpoints/    step-000200/ ...
#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "apps/config.h"
#include "tensor/file.h"

namespace taper {

// The lock of the process that trains in a directory; it ends with the process.
class DirectoryLock {
 public:
  explicit DirectoryLock(const Path& dir);  // 73: another process has it
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;

 private:
  int fd_;
};

class Run {
 public:
  // Creates the directory, or, to resume, takes it up again. Errors: it exists and is not to be
  // resumed, cannot be created, or another process has it (73); the configuration has changed (78).
  Run(const Config& resolved, bool resume);

  const Path& dir() const { return dir_; }
  Path checkpoints() const { return dir_ / "checkpoints"; }
  Path metrics_path() const { return dir_ / "metrics.jsonl"; }

  void metrics(std::string_view json) { append_line(metrics_path(), json); }
  void timings(std::string_view json) { append_line(dir_ / "timings.jsonl", json); }

  uint64_t settle_metrics() const;             // makes metrics.jsonl durable; its length
  void rewind_metrics(uint64_t bytes) const;   // to what it was at a checkpoint

 private:
  Path dir_;
  std::optional<DirectoryLock> lock_;
};

// May this key differ when a run is resumed? True for what changes neither weights nor data order:
// run.dir, run.device, checkpoint.*, log.*, eval.*. train.steps may not: the schedule depends on it.
bool may_change(std::string_view key);

// "null" for what JSON cannot say.
std::string json_number(double x);

}  // namespace taper
