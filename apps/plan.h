// Plan: what a training run will take, found by running one step on a device that runs nothing.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "apps/config.h"

namespace taper {

struct Plan {
  int64_t parameters = 0, trainable = 0;
  double flops_per_token = 0;  // forward and backward, the recurrence counted token by token
  // Bytes.
  int64_t weights = 0, moments = 0;  // held all the time
  int64_t step_peak = 0;             // the most that tensors take at once during a step, those included
  int64_t eval_peak = 0;             // the same during an evaluation
  int64_t host = 0;                  // the process and its data buffers
  int64_t resident() const;          // of the process on the CPU: the prediction
  int64_t on_gpu() const;            // of the process on a GPU: the most, predicted
  std::vector<std::pair<std::string, int64_t>> largest;  // tensors of a step, by name: bytes
  std::string table;                 // parameters by name, shape and size
};

Plan plan_run(const Config& config);

// What to do where a device's memory, this many bytes, was too small: the largest part of train.batch that is predicted
// to fit, and the train.accumulate with which a step keeps its tokens; and the largest tensors of a step, by name.
std::string advice_to_fit(const Config& config, size_t bytes);

int64_t peak_resident_bytes();  // of this process until now

}  // namespace taper
