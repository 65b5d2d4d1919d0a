// unary: y[i] = f(x[i]) for the functions of scalar_math.h
//
//   backward   d_x[i] = slope(x[i], y[i]) * d_y[i]
//
//   x, y   same shape; f32 f64 bf16 (computed in f32)
#pragma once
#include <array>
#include <string_view>

#include "tensor/kernel.h"
#include "tensor/ops/scalar_math.h"

namespace taper::kernels {

template <class F>
struct UnaryForward {
  F f = {};
  Tensor x = {}, y = {};
  Device& device() const { return x.device(); }
};
template <class F>
struct UnaryBackward {
  F f = {};
  Tensor x = {}, y = {}, d_y = {}, d_x = {};
  Device& device() const { return x.device(); }
};

// "silu" and ".forward" as one string, made by the compiler.
template <class F>
constexpr std::array<char, 32> kernel_name(std::string_view suffix) {
  std::array<char, 32> name = {};
  size_t n = 0;
  for (char c : std::string_view(F::name)) name[n++] = c;
  for (char c : suffix) name[n++] = c;
  return name;
}
template <class F>
inline constexpr auto forward_name = kernel_name<F>(".forward");
template <class F>
inline constexpr auto backward_name = kernel_name<F>(".backward");

template <class F>
inline constinit Kernel<UnaryForward<F>> unary_forward{forward_name<F>.data()};
template <class F>
inline constinit Kernel<UnaryBackward<F>> unary_backward{backward_name<F>.data()};

}  // namespace taper::kernels
