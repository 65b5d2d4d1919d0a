// Gradcheck: holds analytic gradients to finite differences in f64, and returns a record.
//
//   loss(inputs)  = sum over outputs of <w, output>, w standard normal and fixed
//   numeric       = 4-point central difference of the loss along a random direction u, at a ladder of
//                   steps, each a quarter of the one before. A large step errs by curvature, told by its
//                   distance from the neighbour; a small one by rounding, eps * sum |w output| / step.
//                   The step with the least sum of the two is taken: the analytic gradient has no say
//   error         = |analytic - numeric| / (||gradient|| * ||u||), the worst over directions
//
// Source of the error measure: directional derivatives make one number of a whole tensor, and the
// scale cannot hide a wrong component that a random direction touches.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "autograd/tape.h"

namespace taper {

struct NamedTensor {
  std::string name;
  Tensor value;
};

// Builds the outputs from leaves (parallel to the inputs). Must be a pure function of them.
using Function = std::function<std::vector<Var>(Tape& tape, const std::vector<Var>& inputs)>;

struct GradcheckOptions {
  int directions = 4;     // per input
  double step = 6.4e-2;   // the ladder's first, of a direction with standard normal entries
  int steps = 8;          // at most; it ends where two neighbours agree to 1e-9
  uint64_t seed = 1;
};

struct EdgeRecord {       // one input's record
  std::string name;
  int directions = 0;
  double worst = 0;       // the error above; NaN if anything was not finite
  double analytic = 0, numeric = 0;  // of the worst direction
  double gradient_norm = 0;
};

struct GradcheckRecord {
  std::vector<EdgeRecord> edges;
  bool value_depends_on_recording = false;  // a function must not change when gradients are asked for
  double worst() const;                     // NaN if any edge's is
  int64_t checks() const;
  std::string text() const;                 // one line an edge
};

// Inputs must be f64.
GradcheckRecord gradcheck(const Function& f, const std::vector<NamedTensor>& inputs,
                          const GradcheckOptions& options = {});

}  // namespace taper
