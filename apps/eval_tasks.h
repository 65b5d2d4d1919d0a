// Eval's tasks: `taper eval RUN --tasks a,b`, published questions instead of held-out tokens.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "apps/commands.h"

namespace taper {

struct TaskOptions {
  std::vector<std::string> tasks;
  std::string path, data, device = "auto", output /* a directory, or empty: the run's */, softmax = "fp32", bos = "auto";
  int64_t limit = 0, max_length = 2048, batch = 0, bootstrap = 100000, seed = 0;
  bool samples = false, compat = false, resume = false;
  std::vector<int64_t> lengths;  // RULER
  std::vector<std::string> haystack;
  std::string adjectives, nouns, verbs, squad, hotpot, templates;  // files, and a directory
};

void task_options(CLI::App& app, TaskOptions& options);  // all that eval has not anyway
int eval_tasks(const TaskOptions& options, const Common& common);

}  // namespace taper
