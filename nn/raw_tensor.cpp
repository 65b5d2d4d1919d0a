// RawTensor: pieces of bytes, and the few conversions that may be asked for.
#include "nn/raw_tensor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "tensor/error.h"

namespace taper {
namespace {

constexpr uint64_t piece_bytes = uint64_t(4) << 20;

template <class F>
void each_piece(uint64_t bytes, F&& f) {
  for (uint64_t at = 0; at < bytes; at += piece_bytes) f(at, size_t(std::min(piece_bytes, bytes - at)));
}

double element(const std::string& dtype, const char* at) {
  const auto as = [&]<class T>(T x) {
    std::memcpy(&x, at, sizeof x);
    return x;
  };
  if (dtype == "F64") return as(double());
  if (dtype == "F32") return double(as(float()));
  if (dtype == "BF16") return double(float(as(bf16())));
  return double(from_half(as(uint16_t())));
}

}  // namespace

float from_half(uint16_t h) {
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  const float sign = h & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? std::nanf("") : sign * HUGE_VALF;
  return sign * (exponent ? std::ldexp(float(fraction + 1024), exponent - 25) : std::ldexp(float(fraction), -24));
}

uint64_t RawTensor::element_bytes() const {
  for (const auto& [word, bytes] : {std::pair{"64", 8}, {"32", 4}, {"BF16", 2}, {"16", 2}, {"8", 1}, {"BOOL", 1}})
    if (dtype.ends_with(word)) return uint64_t(bytes);
  fail("{}: a dtype of 1, 2, 4 or 8 bytes is wanted; got {}", name, dtype);
}

bool RawTensor::is_float() const { return dtype == "F64" || dtype == "F32" || dtype == "BF16" || dtype == "F16"; }

RawTensor converted(const RawTensor& t, const std::string& dtype) {
  check(t.is_float() && (dtype == "F32" || dtype == "BF16"), "{}: only floats become F32 or BF16; got {} to {}", t.name, t.dtype,
        dtype);
  if (t.dtype == dtype) return t;
  RawTensor c = t;
  c.dtype = dtype;
  c.read = [t, to = c.element_bytes(), from = t.element_bytes()](uint64_t offset, void* into, size_t bytes) {
    const size_t n = bytes / to;
    std::vector<char> piece(n * from);
    t.read(offset / to * from, piece.data(), piece.size());
    for (size_t i = 0; i < n; ++i) {
      const float x = float(element(t.dtype, &piece[i * from]));
      const bf16 half(x);
      std::memcpy(static_cast<char*>(into) + i * to, to == 4 ? static_cast<const void*>(&x) : &half, to);
    }
  };
  return c;
}

RawTensor part(const RawTensor& t, int64_t i, const std::string& name, const Shape& shape) {
  RawTensor p{.name = name, .dtype = t.dtype, .shape = shape, .read = {}};
  p.read = [read = t.read, begin = uint64_t(i) * p.bytes()](uint64_t offset, void* into, size_t bytes) {
    read(begin + offset, into, bytes);
  };
  return p;
}

RawTensor filled(const std::string& name, const std::string& dtype, const Shape& shape, bool one) {
  RawTensor t{.name = name, .dtype = dtype, .shape = shape, .read = {}};
  const uint64_t size = t.element_bytes(), bits = !one              ? 0
                                                  : dtype == "F64"  ? 0x3ff0000000000000
                                                  : dtype == "F32"  ? 0x3f800000
                                                  : dtype == "BF16" ? 0x3f80
                                                                    : 0x3c00;
  t.read = [=](uint64_t, void* into, size_t bytes) {
    for (size_t i = 0; i < bytes; i += size) std::memcpy(static_cast<char*>(into) + i, &bits, size);
  };
  return t;
}

bool same_bytes(const RawTensor& a, const RawTensor& b) {
  if (a.dtype != b.dtype || !(a.shape == b.shape)) return false;
  bool same = true;
  each_piece(a.bytes(), [&](uint64_t at, size_t bytes) {
    std::vector<char> x(bytes), y(bytes);
    a.read(at, x.data(), bytes);
    b.read(at, y.data(), bytes);
    same = same && x == y;
  });
  return same;
}

bool all_zero(const RawTensor& t) {
  bool zero = true;
  const uint64_t size = t.element_bytes();
  each_piece(t.bytes(), [&](uint64_t at, size_t bytes) {
    std::vector<char> x(bytes);
    t.read(at, x.data(), bytes);
    for (size_t i = 0; i < bytes; i += size) zero = zero && element(t.dtype, &x[i]) == 0;
  });
  return zero;
}

Tensor to_tensor(const RawTensor& given, Device& device) {
  const RawTensor t = given.dtype == "F16" ? converted(given, "F32") : given;
  check(t.is_float(), "{}: a float is wanted; got {}", t.name, t.dtype);
  Tensor to(device, t.shape, t.dtype == "F64" ? Dtype::f64 : t.dtype == "F32" ? Dtype::f32 : Dtype::bf16);
  each_piece(t.bytes(), [&](uint64_t at, size_t bytes) {
    std::vector<char> x(bytes);
    t.read(at, x.data(), bytes);
    device.upload(static_cast<char*>(to.data<void>()) + at, x.data(), bytes);
  });
  return to;
}

}  // namespace taper
