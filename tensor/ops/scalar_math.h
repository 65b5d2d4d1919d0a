// Scalar math: each elementwise function next to its derivative, once for host and device.
//
//   one argument    value(x)       slope(x, y)      y = value(x), at hand in backward
//   two arguments   value(a, b)    slope_a(a, b)    slope_b(a, b)
//
// A is float or double. Functions with a factor hold it; the others are empty.
#pragma once
#include "tensor/vector_math.h"

namespace taper::scalar {

struct Silu {
  static constexpr const char* name = "silu";
  template <class A> HOST_DEVICE A value(A x) const { return x * math::sigmoid(x); }
  template <class A> HOST_DEVICE A slope(A x, A) const {
    const A s = math::sigmoid(x);
    return s * (1 + x * (1 - s));
  }
};

struct Sigmoid {
  static constexpr const char* name = "sigmoid";
  template <class A> HOST_DEVICE A value(A x) const { return math::sigmoid(x); }
  template <class A> HOST_DEVICE A slope(A, A y) const { return y * (1 - y); }
};

struct Tanh {
  static constexpr const char* name = "tanh";
  template <class A> HOST_DEVICE A value(A x) const { return math::tanh(x); }
  template <class A> HOST_DEVICE A slope(A, A y) const { return (1 - y) * (1 + y); }
};

struct Relu {
  static constexpr const char* name = "relu";
  template <class A> HOST_DEVICE A value(A x) const { return x < 0 ? A(0) : x; }  // NaN stays NaN
  template <class A> HOST_DEVICE A slope(A x, A) const { return x > 0 ? A(1) : A(0); }
};

struct ReluSquared {
  static constexpr const char* name = "relu_squared";
  template <class A> HOST_DEVICE A value(A x) const { return x < 0 ? A(0) : x * x; }  // NaN stays NaN
  template <class A> HOST_DEVICE A slope(A, A y) const { return 2 * std::sqrt(y); }  // of y alone: products keep no x
};

struct Exp {
  static constexpr const char* name = "exp";
  template <class A> HOST_DEVICE A value(A x) const { return math::exp(x); }
  template <class A> HOST_DEVICE A slope(A, A y) const { return y; }
};

struct Log {
  static constexpr const char* name = "log";
  template <class A> HOST_DEVICE A value(A x) const { return math::log(x); }
  template <class A> HOST_DEVICE A slope(A x, A) const { return 1 / x; }
};

struct Softplus {  // log(1 + e^x), linear above 20
  static constexpr const char* name = "softplus";
  template <class A> HOST_DEVICE A value(A x) const { return math::softplus(x); }
  template <class A> HOST_DEVICE A slope(A x, A) const {
    const A s = math::sigmoid(x);
    return x > 20 ? A(1) : s;
  }
};

struct Negate {
  static constexpr const char* name = "negate";
  template <class A> HOST_DEVICE A value(A x) const { return -x; }
  template <class A> HOST_DEVICE A slope(A, A) const { return -1; }
};

struct Square {
  static constexpr const char* name = "square";
  template <class A> HOST_DEVICE A value(A x) const { return x * x; }
  template <class A> HOST_DEVICE A slope(A x, A) const { return 2 * x; }
};

struct Scale {
  static constexpr const char* name = "scale";
  double factor = 1;
  template <class A> HOST_DEVICE A value(A x) const { return A(factor) * x; }
  template <class A> HOST_DEVICE A slope(A, A) const { return A(factor); }
};

struct Add {
  static constexpr const char* name = "add";
  template <class A> HOST_DEVICE A value(A a, A b) const { return a + b; }
  template <class A> HOST_DEVICE A slope_a(A, A) const { return 1; }
  template <class A> HOST_DEVICE A slope_b(A, A) const { return 1; }
};

struct Subtract {
  static constexpr const char* name = "subtract";
  template <class A> HOST_DEVICE A value(A a, A b) const { return a - b; }
  template <class A> HOST_DEVICE A slope_a(A, A) const { return 1; }
  template <class A> HOST_DEVICE A slope_b(A, A) const { return -1; }
};

struct Multiply {
  static constexpr const char* name = "multiply";
  template <class A> HOST_DEVICE A value(A a, A b) const { return a * b; }
  template <class A> HOST_DEVICE A slope_a(A, A b) const { return b; }
  template <class A> HOST_DEVICE A slope_b(A a, A) const { return a; }
};

struct Divide {
  static constexpr const char* name = "divide";
  template <class A> HOST_DEVICE A value(A a, A b) const { return a / b; }
  template <class A> HOST_DEVICE A slope_a(A, A b) const { return 1 / b; }
  template <class A> HOST_DEVICE A slope_b(A a, A b) const { return -(a / b) / b; }
};

struct SwiGlu {  // silu(a) b
  static constexpr const char* name = "swiglu";
  template <class A> HOST_DEVICE A value(A a, A b) const { return a * math::sigmoid(a) * b; }
  template <class A> HOST_DEVICE A slope_a(A a, A b) const {
    const A s = math::sigmoid(a);
    return s * (1 + a * (1 - s)) * b;
  }
  template <class A> HOST_DEVICE A slope_b(A a, A) const { return a * math::sigmoid(a); }
};

}  // namespace taper::scalar
