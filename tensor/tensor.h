// Tensor: a typed, contiguous window on a device's memory. A value; it knows nothing of gradients.
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/shape.h"
#include "tensor/storage.h"

namespace taper {

class Tensor {
 public:
  Tensor() = default;  // absent: converts to false
  Tensor(Device& device, const Shape& shape, Dtype dtype);  // contents undefined

  explicit operator bool() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t size(int i) const { return shape_[i]; }
  int64_t numel() const { return shape_.numel(); }
  Dtype dtype() const { return dtype_; }
  size_t bytes() const { return size_t(numel()) * size_of(dtype_); }
  Device& device() const { return storage_->device; }
  bool unique() const { return storage_.use_count() == 1; }  // nobody else holds it: safe in place

  // Device memory. T must be the dtype's type (or void). Only kernels dereference it.
  template <class T>
  T* data() const {
    if constexpr (!std::is_void_v<T>)
      if (dtype_of<std::remove_const_t<T>>() != dtype_) wrong_type(dtype_of<std::remove_const_t<T>>());
    return storage_ ? reinterpret_cast<T*>(static_cast<char*>(storage_->data) + offset_) : nullptr;
  }

  // Views, where the bytes stay contiguous. One size may be -1: what is left.
  Tensor reshape(const std::vector<int64_t>& sizes) const;
  Tensor reshape(const Shape& shape) const;
  Tensor rows(int64_t begin, int64_t end) const;  // along the first dimension

 private:
  [[noreturn]] void wrong_type(Dtype asked) const;
  std::shared_ptr<Storage> storage_;
  size_t offset_ = 0;
  Shape shape_;
  Dtype dtype_ = Dtype::f32;
};

inline Tensor empty_like(const Tensor& t) { return {t.device(), t.shape(), t.dtype()}; }
Tensor zeros(Device& device, const Shape& shape, Dtype dtype);
inline Tensor zeros_like(const Tensor& t) { return zeros(t.device(), t.shape(), t.dtype()); }
Tensor full(Device& device, const Shape& shape, Dtype dtype, double value);
Tensor clone(const Tensor& t);
void copy_into(const Tensor& to, const Tensor& from);  // same device, shape and dtype

// Host to device, element type by T. The shape must hold exactly values.size() elements.
template <class T>
Tensor from_host(Device& device, const Shape& shape, std::span<const T> values);
template <class T>
Tensor from_host(Device& device, const Shape& shape, const std::vector<T>& values) {
  return from_host<T>(device, shape, std::span<const T>(values));
}
template <class T>
void copy_into(const Tensor& to, std::span<const T> values);  // host to a tensor that exists; T must be the dtype's type
// Any float values to a tensor of any float dtype.
Tensor from_doubles(Device& device, const Shape& shape, Dtype dtype, std::span<const double> values);

// The three functions that wait for the device, and say so: to_host, item, Device::synchronize.
template <class T>
std::vector<T> to_host(const Tensor& t);             // T must be the dtype's type
std::vector<double> to_doubles(const Tensor& t);     // any dtype
double item(const Tensor& t);                        // one element, any dtype

}  // namespace taper
