// Tensor: allocation, views, and the copies between host and device.
#include "tensor/tensor.h"

#include <cstring>

#include "tensor/error.h"
#include "tensor/ops/fill.h"
#include "tensor/parallel.h"

namespace taper {

static constexpr int64_t grain = 1 << 16;  // elements that a thread converts at least

Tensor::Tensor(Device& device, const Shape& shape, Dtype dtype) : shape_(shape), dtype_(dtype) {
  int64_t bytes;
  check(!__builtin_mul_overflow(shape.numel(), int64_t(size_of(dtype)), &bytes),
        "tensor: the bytes of {} {} must fit in 63 bits", name(dtype), shape.text());
  storage_ = std::make_shared<Storage>(device, size_t(bytes));
}

void Tensor::wrong_type(Dtype asked) const {
  fail("tensor: data is {} {}; it was asked for as {}", name(dtype_), shape_.text(), name(asked));
}

Tensor Tensor::reshape(const Shape& shape) const {
  check(shape.numel() == numel(), "reshape: {} must hold the {} elements of {}; it holds {}", shape.text(),
        numel(), shape_.text(), shape.numel());
  Tensor t = *this;
  t.shape_ = shape;
  return t;
}

Tensor Tensor::reshape(const std::vector<int64_t>& sizes) const {
  int64_t known = 1, holes = 0;
  for (int64_t s : sizes) {
    if (s == -1) ++holes;
    else known *= s;
  }
  check(holes <= 1, "reshape: at most one size may be -1; got {}", holes);
  Shape shape;
  for (int64_t s : sizes) shape.push_back(s == -1 ? (known ? numel() / known : 0) : s);
  return reshape(shape);
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  check(rank() >= 1 && 0 <= begin && begin <= end && end <= size(0),
        "rows: want a range inside the first dimension of {}; got [{},{})", shape_.text(), begin, end);
  Tensor t = *this;
  Shape shape{end - begin};
  for (int i = 1; i < rank(); ++i) shape.push_back(size(i));
  t.shape_ = shape;
  t.offset_ += size_of(dtype_) * size_t(begin * (size(0) ? numel() / size(0) : 0));
  return t;
}

Tensor zeros(Device& device, const Shape& shape, Dtype dtype) {
  Tensor t(device, shape, dtype);
  device.fill(t.data<void>(), 0, t.bytes());
  return t;
}

Tensor full(Device& device, const Shape& shape, Dtype dtype, double value) {
  const Tensor t(device, shape, dtype);
  kernels::fill({.y = t, .value = value});
  return t;
}

void copy_into(const Tensor& to, const Tensor& from) {
  check(to.shape() == from.shape() && to.dtype() == from.dtype() && &to.device() == &from.device(),
        "copy: both sides must agree; got {} {} on {} from {} {} on {}", name(to.dtype()), to.shape().text(),
        to.device().name(), name(from.dtype()), from.shape().text(), from.device().name());
  to.device().copy(to.data<void>(), from.data<void>(), from.bytes());
}

Tensor clone(const Tensor& t) {
  Tensor copy = empty_like(t);
  copy_into(copy, t);
  return copy;
}

template <class T>
Tensor from_host(Device& device, const Shape& shape, std::span<const T> values) {
  check(shape.numel() == int64_t(values.size()), "from_host: {} wants {} values; got {}", shape.text(),
        shape.numel(), values.size());
  Tensor t(device, shape, dtype_of<T>());
  device.upload(t.data<void>(), values.data(), t.bytes());
  return t;
}

Tensor from_doubles(Device& device, const Shape& shape, Dtype dtype, std::span<const double> values) {
  Tensor t;
  visit<float, double, bf16>("from_doubles", dtype, [&]<class T>() {
    std::vector<T> cast(values.size());
    parallel_for(int64_t(values.size()), grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) cast[size_t(i)] = T(Acc<T>(values[size_t(i)]));
    });
    t = from_host<T>(device, shape, cast);
  });
  return t;
}

template <class T>
void copy_into(const Tensor& to, std::span<const T> values) {
  check(to.numel() == int64_t(values.size()), "copy: {} wants {} values; got {}", to.shape().text(), to.numel(), values.size());
  to.device().upload(to.data<T>(), values.data(), to.bytes());
}

template <class T>
std::vector<T> to_host(const Tensor& t) {
  t.data<T>();  // the type check
  std::vector<T> values(size_t(t.numel()));
  t.device().download(values.data(), t.data<void>(), t.bytes());
  return values;
}

std::vector<double> to_doubles(const Tensor& t) {
  std::vector<double> values(size_t(t.numel()));
  visit<float, double, bf16, int32_t, int64_t>("to_doubles", t.dtype(), [&]<class T>() {
    const std::vector<T> host = to_host<T>(t);
    parallel_for(int64_t(host.size()), grain, [&](int64_t begin, int64_t end) {
      for (size_t i = size_t(begin); i < size_t(end); ++i) {
        if constexpr (std::is_same_v<T, bf16>) values[i] = float(host[i]);
        else values[i] = double(host[i]);
      }
    });
  });
  return values;
}

double item(const Tensor& t) {
  check(t.numel() == 1, "item: want one element; got {}", t.shape().text());
  return to_doubles(t)[0];
}

template Tensor from_host(Device&, const Shape&, std::span<const float>);
template Tensor from_host(Device&, const Shape&, std::span<const double>);
template Tensor from_host(Device&, const Shape&, std::span<const bf16>);
template Tensor from_host(Device&, const Shape&, std::span<const int32_t>);
template Tensor from_host(Device&, const Shape&, std::span<const int64_t>);
template void copy_into(const Tensor&, std::span<const double>);
template void copy_into(const Tensor&, std::span<const int32_t>);
template void copy_into(const Tensor&, std::span<const int64_t>);
template std::vector<float> to_host(const Tensor&);
template std::vector<double> to_host(const Tensor&);
template std::vector<bf16> to_host(const Tensor&);
template std::vector<int32_t> to_host(const Tensor&);
template std::vector<int64_t> to_host(const Tensor&);

}  // namespace taper
