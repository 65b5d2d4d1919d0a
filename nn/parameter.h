// Parameter: a tensor that training changes, under the name its checkpoint uses. Init makes them.
#pragma once
#include <functional>
#include <span>
#include <string>

#include "autograd/tape.h"

namespace taper {

struct Parameter {
  std::string name;       // "layers.0.mixer.in_proj.weight"; how checkpoint, optimizer and audit know it
  Tensor value;
  bool trainable = true;  // false: saved and loaded, but a constant to the tape
  double lr_scale = 1;    // times the learning rate

  // Specification 1: decayed iff at least two dimensions remain after dropping sizes of 1, the name
  // contains ".weight", and the learning rate is not scaled.
  bool decays() const;
};

// The parameter as a leaf of the tape (one leaf however often it is used), or a constant.
Var leaf(Tape& tape, const Parameter& p);

// The same in another dtype: cast, so that the graph shows it, and no cast where it is of that dtype.
Var leaf_as(Tape& tape, const Parameter& p, Dtype dtype);

// How elements first, first + 1, ... of a new parameter are drawn; first is even. The stream depends on the seed and
// the parameter's name only, never on the order of construction.
using Draw = std::function<void(const class Random& random, uint64_t first, std::span<double> values)>;
Draw fill_each(std::function<double(const Random& random, uint64_t index)> value);
Draw fill_constant(double value);
Draw fill_normal(double deviation);
Draw fill_uniform(double low, double high);

// Where parameters are made: seed, device, dtype and the prefix of their names.
class Init {
 public:
  Init(uint64_t seed, Device& device, Dtype dtype) : seed_(seed), device_(&device), dtype_(dtype) {}
  Init in(std::string_view name) const;  // names below get "name." in front
  Parameter make(std::string_view name, const Shape& shape, const Draw& draw) const;
  // [rows,columns] with orthonormal columns (rows, where there are fewer), times gain: a Gaussian, orthogonalised.
  Parameter make_orthogonal(std::string_view name, int64_t rows, int64_t columns, double gain) const;
  Device& device() const { return *device_; }
  Dtype dtype() const { return dtype_; }

 private:
  uint64_t seed_;
  Device* device_;
  Dtype dtype_;
  std::string prefix_;
};

}  // namespace taper
