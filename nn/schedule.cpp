// Schedule: linear warm-up, then half a cosine down to a floor, or stairs.
#include "nn/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "tensor/error.h"

namespace taper {

double learning_rate(const Schedule& s, int64_t step, int64_t steps) {
  check(steps > 0 && step >= 0, "schedule: steps > 0 and step >= 0 are wanted; got step {} of {}", step, steps);
  check(s.warmup >= 0 && s.warmup <= 1, Exit::bad_config, "schedule: warmup must be a fraction from 0 to 1; got {}",
        s.warmup);
  check(s.lr > 0, Exit::bad_config, "schedule: lr must be > 0; got {}", s.lr);
  // 0.07 * 100 is 7.000000000000001 and means 7.
  const int64_t warm = int64_t(std::ceil(s.warmup * double(steps) - 1e-9));
  if (step < warm) return s.lr * double(step) / double(warm);
  if (s.stairs > 0) {
    const int64_t stair = std::min(s.stairs - 1, (step - warm) * s.stairs / std::max<int64_t>(1, steps - warm));
    return s.lr * double(s.stairs - stair) / double(s.stairs);
  }
  const double p = std::min(1.0, double(step - warm) / double(std::max<int64_t>(1, steps - warm)));
  const double floor = s.final_lr / s.lr;  // as a factor, so that lr = final_lr is flat to the bit
  return s.lr * ((1 - floor) * 0.5 * (1 + std::cos(std::numbers::pi * p)) + floor);
}

}  // namespace taper
