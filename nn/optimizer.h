// AdamW over named parameters, with clipping and the guard against steps that are not finite.
#pragma once
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "nn/parameter.h"

namespace taper {

// The sum of gradients of one update, over its micro-batches. Give backward `into = gradients.into()`
// or add what it returned.
class Gradients {
 public:
  explicit Gradients(const std::vector<Parameter*>& parameters);  // those that are trainable
  void add(const std::string& name, const Tensor& d);  // a name that is not among them is an error
  void clear();                                        // forgets the tensors: their memory is free
  // In the order of the parameters. Raises, naming it, if one has no gradient.
  const std::vector<Tensor>& complete() const;
  std::function<void(const Node&, const Tensor&)> into();  // for BackwardOptions::into

 private:
  std::vector<const Parameter*> parameters_;
  std::vector<Tensor> sums_;
  std::unordered_map<std::string, size_t> index_;
};

struct AdamWConfig {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0.1;  // for parameters that decay (Parameter::decays)
  double clip = 1;            // global norm; 0: no clipping
  int64_t max_bad_steps = 5;  // see AdamW; 0: no limit
};

struct StepResult {  // on the device; item() waits for them; the next step writes the same tensors
  Tensor norm;       // [] f64, before clipping
  Tensor finite;     // [] i32, 0: the step changed nothing
};

// A step whose loss or gradient norm is not finite changes no weight and no moment and does not count
// for the bias correction. After max_bad_steps of them in a row every later step is refused too, so
// the weights still are those the first bad step found when the host looks (bad_steps) and stops.
class AdamW {
 public:
  // Moments are zeros from the start, so that a memory plan sees them. Parameters must outlive it.
  AdamW(const AdamWConfig& config, const std::vector<Parameter*>& parameters);

  // One update with learning rate lr [] f64 (times each parameter's lr_scale). loss: [] or absent.
  StepResult step(const Gradients& gradients, const Tensor& lr, const Tensor& loss = {});
  StepResult step(const Gradients& gradients, double lr, const Tensor& loss = {});

  int64_t steps() const;      // updates that changed weights; waits for the device
  int64_t bad_steps() const;  // refused updates in a row, the last one included; waits for the device

  // All that a resumed run needs, under names that do not change: "moment1.NAME", "moment2.NAME",
  // "steps", "bad_steps".
  void each_state(const std::function<void(const std::string&, Tensor&)>& visit);

  const AdamWConfig config;

 private:
  struct Slot {
    Parameter* parameter;
    Tensor moment1, moment2;
  };
  std::vector<Slot> slots_;
  Tensor steps_, bad_steps_;  // [] i64
  Tensor scale_;              // [] f64
  StepResult result_;
};

}  // namespace taper
