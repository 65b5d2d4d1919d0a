// Tape: the list of what happened, in order. Walking it backwards is the chain rule.
//
// The order of creation is a topological order, so backward is one loop and needs no recursion.
// There is no global mode: an op is recorded iff one of its inputs is on a tape. There is no double
// backward, no in-place op on a tracked value, and no hook.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace taper {

// The face of an op: its name and the names of its edges. One static object per op.
struct Op {
  const char* name;
  std::vector<const char*> inputs, outputs;
  Op(const char* name, std::vector<const char*> inputs, std::vector<const char*> outputs);
};
const std::vector<const Op*>& registered_ops();  // for the tests that demand a case for each

class Tape;

// A value and where it came from. No tape: a constant. No value: an absent optional input.
struct Var {
  Tensor value;
  Tape* tape = nullptr;
  int node = -1, output = 0;
  // Where the tape recomputes and the op is a cheap one: makes the value again, the same bits.
  std::function<Tensor()> again = {};
  bool tracked() const { return tape != nullptr; }
  explicit operator bool() const { return bool(value); }
  const Shape& shape() const { return value.shape(); }
  int64_t size(int i) const { return value.size(i); }
};
inline Var constant(Tensor value) { return {std::move(value)}; }

// What a rule keeps of an input for the backward pass: its value, or how to make it again there.
class Saved {
 public:
  explicit Saved(const Var& v) : again_(v.again) {
    if (!again_) value_ = v.value;
  }
  Tensor get() const { return again_ ? again_() : value_; }

 private:
  std::function<Tensor()> again_;
  Tensor value_;
};

struct Edge {  // whose output fed this input; -1: a constant or absent
  int node = -1, output = 0;
};

// What a rule sees: cotangents in, by output name; cotangents out, by input name. A name that the
// op does not have is an error. A wanted input that got neither to() nor none() is an error.
class Flow {
 public:
  virtual ~Flow() = default;
  virtual bool has(std::string_view output) const = 0;             // did a cotangent arrive?
  virtual const Tensor& from(std::string_view output) const = 0;   // d loss / d output
  virtual bool wants(std::string_view input) const = 0;            // is it on the way to a leaf?
  virtual void to(std::string_view input, Tensor d) = 0;           // adds to d loss / d input
  virtual void none(std::string_view input, std::string_view why) = 0;  // a true zero, said aloud
};
using Backward = std::function<void(Flow&)>;

struct Node {
  const Op* op = nullptr;
  std::string scope;          // "layers.3.mixer"; of a leaf: its full name
  int index = 0;              // how many nodes of this op this scope had before: names repeat
  std::vector<Edge> inputs;   // parallel to op->inputs
  std::vector<Shape> shapes;
  Dtype dtype = Dtype::f32;
  Backward backward;          // owns what the rule saved

  std::string label() const;                  // "layers.3.mixer/matmul#1"
  std::string edge_label(size_t input) const; // "layers.3.mixer/matmul#1.b"; "#0" is left out
};

class Tape {
 public:
  // A tape that records nothing: its leaves are constants. For evaluation.
  static Tape constants() { Tape t; t.recording_ = false; return t; }
  Tape() = default;
  Tape(Tape&&) = default;
  Tape(const Tape&) = delete;

  // A named input of the computation. The same name gives the same leaf (a tied weight is one).
  Var leaf(const std::string& name, const Tensor& value);
  int find_leaf(std::string_view name) const;  // node id, or -1
  bool recording() const { return recording_; }

  std::vector<Node> nodes;
  std::string scope;
  // Less memory for more time: values of cheap ops (norms, convolutions, gates) are not kept for the backward pass but made
  // again in it, from what their own rules keep.
  bool recompute = false;
  // If set, called with each value as it is recorded ("layers.0.mixer/matmul.c"): for finding where a
  // number went bad. It sees; it cannot change anything.
  std::function<void(const std::string& value, const Tensor&)> watch;

  int number_in_scope(const Op& op);  // for record(): 0, 1, 2... for repeats of an op in one scope

 private:
  bool recording_ = true;
  std::map<std::string, int, std::less<>> leaves_;
  std::map<std::string, int, std::less<>> counts_;
};

// Names the part of a model that runs inside it: Scope scope(tape, "mixer");
class Scope {
 public:
  Scope(Tape& tape, std::string_view name);
  ~Scope() { tape_.scope = before_; }

 private:
  Tape& tape_;
  std::string before_;
};

// Called by an op after its forward ran: makes the node, or returns constants when no input is
// tracked. `inputs` are parallel to op.inputs; `backward` must capture what it needs.
Var record(const Op& op, std::vector<Var> inputs, const Tensor& out, Backward backward);
std::vector<Var> record(const Op& op, std::vector<Var> inputs, const std::vector<Tensor>& outs,
                        Backward backward);

// y, with how to make its value again, if its tape recomputes.
Var recomputed(Var y, std::function<Tensor()> again);

struct LedgerEntry {  // what one edge carried
  std::string edge;
  double norm, max;      // Euclidean norm, largest magnitude
  double zeros;          // share of elements that are exactly 0
  int64_t non_finite;
};

struct BackwardOptions {
  std::vector<std::string> cut = {};  // edges that carry nothing: "layers.0.mixer/position_taper.alpha"
  std::function<void(const LedgerEntry&)> ledger = {};  // called for each edge; waits for the device
  bool keep = false;  // keep what rules saved, so that backward can run again
  // Called as soon as a leaf's gradient is complete; default: gradients are only returned.
  std::function<void(const Node& leaf, const Tensor& d)> into = {};
};

// d loss / d leaf for every leaf the loss depends on, by leaf name. `seed` has the loss's shape.
// Errors: a cut that names no edge; a rule that leaves a wanted edge without a word.
std::map<std::string, Tensor> backward(const Var& loss, const Tensor& seed, const BackwardOptions& options = {});
// Several outputs at once, each with its seed.
std::map<std::string, Tensor> backward(const std::vector<Var>& outputs, const std::vector<Tensor>& seeds,
                                       const BackwardOptions& options = {});

}  // namespace taper
