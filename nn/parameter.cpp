// Parameters: how they become leaves, which of them decay, and how new ones are drawn.
#include "nn/parameter.h"

#include <algorithm>
#include <vector>

#include "autograd/ops.h"
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

Var leaf_as(Tape& tape, const Parameter& p, Dtype dtype) {
  const Var v = leaf(tape, p);
  return v.value.dtype() == dtype ? v : cast(v, dtype);
}

Draw fill_each(std::function<double(const Random& random, uint64_t index)> value) {
  return [value](const Random& random, uint64_t first, std::span<double> values) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = value(random, first + i);
  };
}
Draw fill_constant(double value) {
  return [value](const Random&, uint64_t, std::span<double> values) { std::ranges::fill(values, value); };
}
Draw fill_normal(double deviation) {
  return [deviation](const Random& random, uint64_t first, std::span<double> values) {
    for (size_t i = 0; i < values.size(); i += 2) {
      const auto [a, b] = random.normal_pair((first + i) / 2);
      values[i] = deviation * a;
      if (i + 1 < values.size()) values[i + 1] = deviation * b;
    }
  };
}
Draw fill_uniform(double low, double high) {
  return fill_each([low, high](const Random& random, uint64_t i) { return low + (high - low) * random.uniform(i); });
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
        std::vector<double> drawn(size_t(end - begin));
        draw(random, uint64_t(at + begin), drawn);
        for (int64_t i = begin; i < end; ++i) values[size_t(i)] = T(Acc<T>(drawn[size_t(i - begin)]));
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
    fill_normal(1)(random, uint64_t(begin), std::span(values).subspan(size_t(begin), size_t(end - begin)));
  });
  orthogonalize(values, rows, columns);
  for (double& x : values) x *= gain;
  copy_into(p.value, from_doubles(*device_, {rows, columns}, dtype_, values));
  return p;
}

}  // namespace taper
