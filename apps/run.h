// Run: the directory of one training run, and what may change when it goes on.
//
//   config.toml     resolved, complete
//   tokenizer.json  or vocab.txt: the data's tokenizer, where it is made from a file
//   metrics.jsonl   reproducible values only: equal bytes for equal runs, however often interrupted
//   spectra.jsonl   what the heads forget by, as training goes: reproducible as metrics.jsonl is
//   timings.jsonl   wall clock, tokens/s, memory: of this machine and this time
//   events.out.tfevents.*  with log.tensorboard: metrics and speed for TensorBoard, a file each time training begins
//   checkpoints/    step-000200/ ...
//   evaluations/    what `taper eval` found (apps/eval_output.h)
//
// Lines of metrics.jsonl:  {"step":40,"tokens":5120,"loss":2.3,"norm":0.8,"lr":0.001}    each log.every steps
//                          {"step":40,"eval":{"tokens":500,"loss":2.4,"bits_per_byte":3.4,"by_position":[{"begin":1,"end":2,...}]}}
//                          {"step":40,"eval":[{"length":512,"pairs":128,"loss":0.1,"accuracy":0.98}]}    MQAR
// Lines of spectra.jsonl:  {"step":40,"tokens":5120,"layers":[{"rate":[...],"time_constant":[...],"alpha":[...]}]}
//   one number for each head (RWKV-7: channel), as nn/mixer.h's HeadSpectrum; at step 0, at each evaluation (each
//   checkpoint.every where eval.every is 0) and at the end. The gap below head k is log(rate[k] / rate[k-1]).
// A number that is not finite is null.
#pragma once
#include <map>
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

  void metrics(std::string_view json) { append_line(dir_ / "metrics.jsonl", json); }
  void spectra(std::string_view json) { append_line(dir_ / "spectra.jsonl", json); }
  void timings(std::string_view json) { append_line(dir_ / "timings.jsonl", json); }

  // The reproducible logs made durable, and their lengths, for a checkpoint's manifest: "metrics_bytes", "spectra_bytes".
  std::map<std::string, int64_t> settle() const;
  void rewind(const std::map<std::string, int64_t>& lengths) const;  // to what they were then; one that is not named is emptied

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
