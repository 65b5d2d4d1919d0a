// RawTensor: a stored tensor's bytes, wherever they lie, read a piece at a time and never converted unasked.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "tensor/shape.h"
#include "tensor/tensor.h"

namespace taper {

struct RawTensor {
  std::string name;
  std::string dtype;  // the word of the safetensors format: "F32"
  Shape shape;
  // Bytes [offset, offset + bytes) of the row-major data.
  std::function<void(uint64_t offset, void* into, size_t bytes)> read;

  uint64_t element_bytes() const;  // dtypes of whole bytes only, else an internal error
  uint64_t bytes() const { return uint64_t(shape.numel()) * element_bytes(); }
  bool is_float() const;  // F64 F32 BF16 F16
};

// The same values as F32 or BF16 (nearest, ties to even). t must be a float.
RawTensor converted(const RawTensor& t, const std::string& dtype);
// Part i of a tensor whose first dimension counts parts, under another name and shape.
RawTensor part(const RawTensor& t, int64_t i, const std::string& name, const Shape& shape);
// Every element 0 or 1.
RawTensor filled(const std::string& name, const std::string& dtype, const Shape& shape, bool one);

bool same_bytes(const RawTensor& a, const RawTensor& b);  // dtype, shape and data
bool all_zero(const RawTensor& t);                        // of a float; -0 is 0

// On a device. F16, which tensors have not, becomes f32 and loses nothing.
Tensor to_tensor(const RawTensor& t, Device& device);

float from_half(uint16_t half);  // exact

}  // namespace taper
