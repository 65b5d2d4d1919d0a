// Parameters: how they become leaves, which of them decay, and how new ones are drawn.
#include "nn/parameter.h"

#include <algorithm>
#include <vector>

#include "nn/orthogonal.h"
#include "tensor/error.h"
#include "tensor/parallel.h"
#include "tensor/random.h"

namespace taper {

bool Parameter::decays() const {
  int dimensions = 0;
  for (int64_t size : value.shape()) dimensions += size != 1;
  return dimensions >= 2 && name.find(".weight") != name.npos && lr_scale == 1;
}

Var leaf(Tape& tape, const Parameter& p) {
  check(!p.name.empty() && p.value, "parameter: a leaf wants a name and a value; got name '{}'", p.name);
  return p.trainable ? tape.leaf(p.name, p.value) : constant(p.value);
}

Draw fill_constant(double value) {
  return [value](const Random&, uint64_t) { return value; };
}
Draw fill_normal(double deviation) {
  return [deviation](const Random& random, uint64_t i) { return deviation * random.normal(i); };
}
Draw fill_uniform(double low, double high) {
  return [low, high](const Random& random, uint64_t i) { return low + (high - low) * random.uniform(i); };
}

Init Init::in(std::string_view name) const {
  Init inner = *this;
  inner.prefix_ += std::string(name) + ".";
  return inner;
}

Parameter Init::make(std::string_view name, const Shape& shape, const Draw& draw) const {
  Parameter p;
  p.name = prefix_ + std::string(name);
  p.value = Tensor(*device_, shape, dtype_);
  if (device_->kind() == DeviceKind::plan) return p;
  const Random random(seed_, p.name);
  visit<float, double, bf16>("init", dtype_, [&]<class T>() {
    // In pieces: a parameter may be large, and a second copy of it need not exist.
    const int64_t n = p.value.numel(), piece = 1 << 20;
    std::vector<T> values(size_t(std::min(n, piece)));
    for (int64_t at = 0; at < n; at += piece) {
      const int64_t count = std::min(piece, n - at);
      parallel_for(count, 1 << 12, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) values[size_t(i)] = T(Acc<T>(draw(random, uint64_t(at + i))));
      });
      device_->upload(p.value.data<T>() + at, values.data(), size_t(count) * sizeof(T));
    }
  });
  return p;
}

Parameter Init::make_orthogonal(std::string_view name, int64_t rows, int64_t columns, double gain) const {
  Parameter p;
  p.name = prefix_ + std::string(name);
  p.value = Tensor(*device_, {rows, columns}, dtype_);
  if (device_->kind() == DeviceKind::plan) return p;
  const Random random(seed_, p.name);
  std::vector<double> values(size_t(rows * columns));
  parallel_for(int64_t(values.size()), 1 << 12, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) values[size_t(i)] = random.normal(uint64_t(i));
  });
  orthogonalize(values, rows, columns);
  for (double& x : values) x *= gain;
  copy_into(p.value, from_doubles(*device_, {rows, columns}, dtype_, values));
  return p;
}

}  // namespace taper
