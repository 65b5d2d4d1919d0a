// OpCase: one description of an op, held to the laws (laws.h) and benchmarked (taper bench). It is
// data and named checks; it knows no test framework.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "autograd/ops.h"

namespace taper::test {

struct Fill {  // how an input is drawn
  enum Kind { normal_, uniform_, whole_ } kind = normal_;
  double low = 0, high = 1;  // normal: mean and deviation; uniform: the interval; whole: the least and the greatest
};
inline Fill normal(double mean = 0, double deviation = 1) { return {Fill::normal_, mean, deviation}; }
inline Fill uniform(double low, double high) { return {Fill::uniform_, low, high}; }
inline Fill whole_numbers(double low, double high) { return {Fill::whole_, low, high}; }  // their sums are exact

struct Input {
  std::string edge;    // the op's own name for it
  Shape shape;
  Fill fill = normal();
  int time_axis = -1;  // the axis that runs along T (law 7 cuts it at document starts); -1: none
                       // (axis 0 is then the batch)
  bool wide = false;     // stays f32 where the others are bf16: a norm's weight, a decay, a state
  bool carried = false;  // [B,...] handed over from before the window (a state, a history): it
                         // belongs to each row's first document; build gets an absent Var without it
};

// Inputs in, outputs out, in the order of Example::inputs. Integer inputs (ids, labels) are made by
// the function itself, on the device of in[0].
using Build = std::function<std::vector<Var>(const std::vector<Var>& in, const Packing& packing)>;

struct Example {
  std::string name;  // "T=7 H=3"
  std::vector<Input> inputs;
  Build build;
  Build definition = {};  // law 2: a plainer computation that must agree (recurrence, composition)
  Build plain = {};       // law plain, where the definition cannot do: in f64, with what it stores in between rounded to bf16
  // Outputs that have a time axis 1 (and batch axis 0): law 7 compares them. Default: output 0.
  std::vector<int> timed_outputs = {0};
};

struct Tolerance {  // relative L2 of f32 against f64
  double forward = 1e-5, backward = 5e-5;
};

struct Bench {
  Example example;
  double forward_flops = 0, forward_bytes = 0;    // what the computation must do at least; bytes: of f32
  double backward_flops = 0, backward_bytes = 0;
  bool large = false;  // for a GPU, in place of those that are not
};

struct Check {  // a truth of this op alone; raises when it does not hold (expect.h)
  std::string name;
  std::function<void()> run;
};

struct OpCase {
  std::string room;              // the stem: "position_taper"
  std::vector<std::string> ops;  // the registered ops it covers
  std::vector<Example> examples;
  bool looks_back = false;       // takes Packing: law 7 applies to every example with a time axis
  Tolerance f32 = {};
  std::optional<Tolerance> bf16 = {};  // runs in bf16 too; {{5e-3, 8e-3}} unless a reason stands beside it
  bool rounded_alone = false;  // law plain: the CPU has no bf16 of it, so the plain computation is the exact one, its results rounded
  std::map<std::string, std::string> dead = {};  // an edge that never carries a gradient -> the reason
  std::vector<Bench> bench = {};
  std::vector<Check> checks = {};
  // With more than 2^31 elements in a tensor, for a GPU: as a whole and in two halves the values are the same. Axis 0 of the
  // first input is cut, and of all inputs and timed outputs of that length; other outputs and gradients are the halves' sum.
  // Drawn in bf16 where the case has it, else in f32.
  std::vector<Example> huge = {};
};

// The least number of rows of `each` elements, two halves of an even number, that makes more than 2^31 elements.
constexpr int64_t huge_rows(int64_t each) { return ((int64_t(1) << 31) / each / 4 + 1) * 4; }

// For checks, which open their devices themselves: the one that is tested, which TAPER_TEST_DEVICE names, else the CPU; and the
// CPU with that one beside it where it is another.
Device& tested_device();
std::vector<Device*> cpu_and_tested_device();

const std::vector<OpCase>& all_cases();
struct RegisterCase {  // const RegisterCase registered{{.room = "position_taper", ...}};
  explicit RegisterCase(OpCase c);
};

}  // namespace taper::test
