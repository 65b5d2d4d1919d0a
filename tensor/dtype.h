// Dtype: what one element is, its C++ type, and how code is chosen by it.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "tensor/host_device.h"
#include "tensor/raise.h"

namespace taper {

enum class Dtype : uint8_t { f32, f64, bf16, i32, i64 };

// The upper half of an f32. Storage only: arithmetic happens in f32. Rounds to nearest even.
struct bf16 {
  uint16_t bits = 0;
  bf16() = default;
  HOST_DEVICE explicit bf16(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x);
    // A NaN must stay one: rounding could carry its payload into infinity.
    bits = (u & 0x7fffffffu) > 0x7f800000u ? uint16_t((u >> 16) | 64)
                                           : uint16_t((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
  }
  HOST_DEVICE explicit operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
};

constexpr size_t size_of(Dtype t) {
  return t == Dtype::bf16 ? 2 : t == Dtype::f64 || t == Dtype::i64 ? 8 : 4;
}
constexpr const char* name(Dtype t) {
  switch (t) {
    case Dtype::f32: return "f32";
    case Dtype::f64: return "f64";
    case Dtype::bf16: return "bf16";
    case Dtype::i32: return "i32";
    case Dtype::i64: return "i64";
  }
  return "?";
}

template <class T>
constexpr Dtype dtype_of() {
  if constexpr (std::is_same_v<T, float>) return Dtype::f32;
  else if constexpr (std::is_same_v<T, double>) return Dtype::f64;
  else if constexpr (std::is_same_v<T, bf16>) return Dtype::bf16;
  else if constexpr (std::is_same_v<T, int32_t>) return Dtype::i32;
  else {
    static_assert(std::is_same_v<T, int64_t>, "not an element type");
    return Dtype::i64;
  }
}

// The type sums of T are kept in: f64 for f64, else f32.
template <class T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

// The same as a value: what statistics, weights of norms, decays and states of a bf16 computation are kept in.
constexpr Dtype wide(Dtype t) { return t == Dtype::bf16 ? Dtype::f32 : t; }

// visit<float, double>(who, dtype, [&]<class T>() { ... }) runs the body with the T of that dtype;
// a dtype outside the list is an error that names the list.
template <class... Ts, class F>
void visit(std::string_view who, Dtype t, F&& f) {
  const bool found = ((dtype_of<Ts>() == t ? (f.template operator()<Ts>(), true) : false) || ...);
  if (found) return;
  std::string wanted;
  ((wanted += std::string(wanted.empty() ? "" : " or ") + name(dtype_of<Ts>())), ...);
  raise(std::string(who) + ": dtype must be " + wanted + "; got " + name(t));
}

// f.operator()<T, U>() with the types of a residual stream and of what flows in and out of it: f32 f64 bf16, both the same,
// or bf16 beside a stream of f32.
template <class F>
void visit_stream(std::string_view who, Dtype stream, Dtype beside, F&& f) {
  visit<float, double, bf16>(who, stream, [&]<class T>() {
    if (beside == stream) f.template operator()<T, T>();
    else if constexpr (std::is_same_v<T, float>) visit<float, bf16>(who, beside, [&]<class U>() { f.template operator()<T, U>(); });
    else visit<T>(who, beside, [&]<class U>() { f.template operator()<T, U>(); });
  });
}

}  // namespace taper
