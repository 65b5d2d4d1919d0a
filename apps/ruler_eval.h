// RULER evaluation: samples of every length through a writer, and the share of answers found in what it wrote.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "apps/results.h"
#include "data/tasks/ruler.h"

namespace taper {

// Each prompt's continuation of at most so many tokens, greedily.
using Writer = std::function<std::vector<std::string>(const std::vector<std::string>& prompts, int64_t tokens)>;

struct RulerEvaluation {
  std::vector<int64_t> lengths;
  int64_t samples = 500, batch = 8;
  uint64_t seed = 0;
  bool compat = false;
  std::function<int64_t(std::string_view)> tokens;
  std::function<void(int64_t done, int64_t all)> progress = {};  // of one length
  std::function<void(const TaskResult&)> finished = {};          // after each length: all that is known so far
};

// The task at every length, fitted; the materials must outlive them.
std::vector<std::unique_ptr<RulerTask>> fit_ruler(const std::string& task, const RulerMaterials& materials, const RulerEvaluation& how);

// One metric per length, named by it: the mean score, with its error; for qa also <length>_any, the share with any answer. Lengths that `before`
// (of the same samples, or null) holds are taken over.
TaskResult evaluate_ruler(const Writer& writer, const std::string& task, const std::vector<std::unique_ptr<RulerTask>>& fitted, const RulerMaterials& materials,
                          const RulerEvaluation& how, const TaskResult* before = nullptr);

// An earlier result is of the same samples, at the lengths that it holds; it holds every length.
bool is_same(const TaskResult& before, const std::vector<std::unique_ptr<RulerTask>>& fitted, const RulerMaterials& materials, const RulerEvaluation& how);
bool is_finished(const TaskResult& before, const std::vector<std::unique_ptr<RulerTask>>& fitted, const RulerMaterials& materials, const RulerEvaluation& how);

}  // namespace taper
