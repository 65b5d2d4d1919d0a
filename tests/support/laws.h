// Laws: what every op must obey. hold() tries them on each example of a case and returns records;
// it never warns.
//
//   gradcheck    f64, 4-point differences, every input, several directions: error <= 1e-6
//   definition   equal to the plainer computation in f64 (1e-10), and f32 (and this device) to f64
//                within the case's tolerance; forward and every gradient
//   bf16         on a GPU, inputs rounded to bf16: equal to the f64 definition of the same numbers, within the case's
//                tolerance; forward and every gradient
//   plain        on a GPU, in bf16: an output or gradient is off by no more than twice what a plain bf16 computation is, one that
//                stores every number in bf16 and a recurrence's state after each token; or by no more than f32 may be
//   poison       same bits when new memory holds NaN; inputs unchanged
//   repeat       two runs, and runs with 1 and 3 threads, have the same bits
//   linear       backward(2d) = 2 backward(d) in every bit; backward(0) = 0
//   alive        every input carries a nonzero gradient in some example, or the case says why not
//   huge         on a GPU, when asked for: more than 2^31 elements at once have the values of two halves
//   packing      a packed batch equals its documents run alone: f64 1e-12, f32 by tolerance
//   check        the case's own named truths
#pragma once
#include <cstdint>

#include "tests/support/op_case.h"

namespace taper::test {

struct LawRecord {
  std::string law, example, subject;  // subject: an edge or output
  double value = 0, limit = 0;        // the measured error and what it may be
  int64_t tries = 1;
  bool pass = false;
  std::string detail;                 // for a failure
};

struct HoldOptions {
  std::vector<std::string> laws = {};  // only these; empty: all but huge
  size_t examples = SIZE_MAX;          // the first so many of a case
};
std::vector<LawRecord> hold(const OpCase& c, Device& device, const HoldOptions& options = {});

// The laws a case must have records for.
std::vector<std::string> laws_of(const OpCase& c, const Device& device);

// Draws the example's inputs; in f32 and f64 they are the same numbers, in bf16 those rounded (wide inputs: f32).
std::vector<Tensor> draw(const OpCase& c, const Example& e, Device& device, Dtype dtype);

}  // namespace taper::test
