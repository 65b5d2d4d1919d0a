// Eval's length behaviour: `taper eval RUN --by-position`.
#pragma once
#include <string>
#include <vector>

#include "apps/commands.h"

namespace taper {

struct EvalLengthOptions {
  bool chosen = false;  // --by-position
  std::string path, data, device = "auto", documents = "carry", output;
  std::vector<int64_t> lengths, contexts;  // lengths: one, or none
  int64_t tokens = -1, targets = 128, passage = 32, batch = 0;
};

void eval_length_options(CLI::App& app, EvalLengthOptions& options);  // all that eval has not anyway
int eval_length(const EvalLengthOptions& options, const Common& common);

}  // namespace taper
