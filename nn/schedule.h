// Schedule: the learning rate of each update.
#pragma once
#include <cstdint>

namespace taper {

struct Schedule {
  double lr = 2e-3;        // the peak
  double warmup = 0.01;    // fraction of the steps, rounded up to whole steps
  double final_lr = 1e-5;  // what the cosine ends at
  int64_t stairs = 0;      // n > 0: after the warm-up no cosine but n equal stairs, lr (n-k)/n on the k-th from 0
};

// Step 0 is the first update. With w = ceil(warmup * steps):
//   step < w    lr * step / w                                               (the first update uses 0)
//   else        final_lr + (lr - final_lr) * (1 + cos(pi * p)) / 2,   p = (step - w) / (steps - w)
// From `steps` on: final_lr (stairs: the last). Source: specification 6, and 5.2 for the stairs.
double learning_rate(const Schedule& schedule, int64_t step, int64_t steps);

}  // namespace taper
