// Plan: what a training run will take, found by running one step on a device that runs nothing.
#pragma once
#include <cstdint>
#include <string>

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
  std::string table;                 // parameters by name, shape and size
};

Plan plan_run(const Config& config);

int64_t peak_resident_bytes();  // of this process until now

}  // namespace taper
