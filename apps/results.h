// Results: what evaluations found, as the published harness's results file and as a table for people.
//
// The file is results_<time>.json, written again, whole, after every task: a job that dies keeps what it had finished.
// Samples, where they are wanted, are samples_<task>_<time>.jsonl beside it. apps/eval_output.h says where. Resumed, the
// newest file of the same model, settings and data goes on: what it holds need not be evaluated again.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "apps/eval_output.h"
#include "tensor/file.h"

namespace taper {

struct Metric {
  std::string name;
  double value = 0;
  std::optional<double> error = {};  // standard error; absent: N/A
  bool higher_is_better = true;
};

struct TaskResult {
  std::string task, kind;  // kind: the harness's output_type
  double version = 1;
  std::vector<Metric> metrics;
  int64_t all = 0, used = 0;  // documents: of the task, and evaluated
  std::vector<std::pair<std::string, std::string>> notes = {};  // into configs: key, JSON
  std::vector<std::string> samples = {};  // one JSON object each
  std::string hash = {};                  // of the samples
};

struct EvaluationFacts {  // of the model and the way it was asked
  std::string model, checkpoint, weights, dtype, device, softmax, tokenizer, bos, data;
  int64_t step = 0, parameters = 0, batch = 0, max_length = 0, limit = 0, bootstrap = 0;
};

class Results {
 public:
  Results(EvaluationFacts facts, EvalOutput output, bool samples, bool resume);
  void add(TaskResult result);       // or what is known of it so far; writes
  std::string json() const;          // one object
  static std::string head();         // of the table
  std::string rows(const std::string& task) const;  // a line per metric
  const TaskResult* find(const std::string& task) const;  // null: not evaluated yet
  Path file() const { return output_.directory() / name_; }  // of the results; where nothing is kept, of no meaning
  void say() const { output_.say(name_); }

 private:
  bool resume(const Path& file);  // true: it is of the same settings, and was taken over
  EvaluationFacts facts_;
  std::string date_;
  std::string name_;  // of the file
  EvalOutput output_;
  bool samples_;
  double begin_;  // seconds
  std::vector<TaskResult> results_;
};

}  // namespace taper
