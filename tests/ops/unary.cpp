// unary: every elementwise function on three shapes, and its values against the C library's.
#include <algorithm>
#include <cmath>
#include <functional>
#include <string_view>

#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

using Op1 = std::function<Var(const Var&)>;
using Real = std::function<double(double)>;

struct Function {
  const char* name;
  Op1 op;
  Real real;             // the same in the C library's words
  Fill fill = normal(0, 2);
  double low = -30, high = 30;
};

double sigmoid_of(double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }

const std::vector<Function>& functions() {
  static const std::vector<Function> list = {
      {"silu", [](const Var& x) { return silu(x); }, [](double x) { return x * sigmoid_of(x); }},
      {"sigmoid", [](const Var& x) { return sigmoid(x); }, sigmoid_of},
      {"tanh", [](const Var& x) { return tanh(x); }, [](double x) { return std::tanh(x); }},
      {"relu", [](const Var& x) { return relu(x); }, [](double x) { return std::max(x, 0.0); }},
      {"relu_squared", [](const Var& x) { return relu_squared(x); }, [](double x) { return x > 0 ? x * x : 0.0; }},
      {"exp", [](const Var& x) { return exp(x); }, [](double x) { return std::exp(x); }, normal(0, 1)},
      {"log", [](const Var& x) { return log(x); }, [](double x) { return std::log(x); }, uniform(0.1, 4), 1e-3, 50},
      {"softplus", [](const Var& x) { return softplus(x); },
       [](double x) { return x > 20 ? x : std::log1p(std::exp(x)); }, normal(0, 8)},
      {"negate", [](const Var& x) { return negate(x); }, [](double x) { return -x; }},
      {"square", [](const Var& x) { return square(x); }, [](double x) { return x * x; }},
      {"scale", [](const Var& x) { return scale(x, -0.37); }, [](double x) { return x * -0.37; }},
  };
  return list;
}

Example example(const Function& f, const Shape& shape) {
  return {.name = std::string(f.name) + " " + shape.text(),
          .inputs = {{.edge = "x", .shape = shape, .fill = f.fill}},
          .build = [op = f.op](const std::vector<Var>& in, const Packing&) { return std::vector{op(in[0])}; }};
}

std::vector<Example> examples() {
  std::vector<Example> all;
  for (const Function& f : functions())
    for (const Shape& shape : {Shape{}, Shape{5, 7}, Shape{2, 3, 17}}) all.push_back(example(f, shape));
  return all;
}

std::vector<Bench> benches() {
  std::vector<Bench> all;
  const double n = 2048.0 * 1536;
  for (const Function& f : functions())
    all.push_back({.example = example(f, {2048, 1536}),
                   .forward_flops = n,
                   .forward_bytes = 8 * n,
                   .backward_flops = 2 * n,
                   .backward_bytes = 16 * n});
  for (std::string_view name : {"silu", "sigmoid", "relu_squared", "softplus"})  // a slope needs x or y, not both
    all.push_back({.example = example(*std::ranges::find(functions(), name, &Function::name), {8, 2048, 1536}),
                   .forward_flops = 8 * n,
                   .forward_bytes = 8 * 8 * n,
                   .backward_flops = 16 * n,
                   .backward_bytes = 8 * 12 * n,
                   .large = true});
  return all;
}

// On a grid longer than one block of the kernel: each dtype to its own precision.
void values_are_the_librarys() {
  Device& cpu = open_device("cpu");
  for (const Function& f : functions()) {
    std::vector<double> x, want;
    for (int i = 0; i <= 40000; ++i) x.push_back(float(bf16(float(f.low + (f.high - f.low) * i / 40000))));
    for (double v : x) want.push_back(f.real(v));
    for (auto [dtype, bound] : {std::pair{Dtype::f64, 1e-14}, {Dtype::f32, 4e-7}, {Dtype::bf16, 0x1p-8}}) {
      const auto y = to_doubles(f.op(constant(from_doubles(cpu, {int64_t(x.size())}, dtype, x))).value);
      for (size_t i = 0; i < x.size(); ++i)
        expect(std::abs(y[i] - want[i]) <= bound * std::abs(want[i]), "{} {} at {}: want {}; got {}", f.name, name(dtype),
               x[i], want[i], y[i]);
    }
  }
}

void extremes_hold() {
  Device& cpu = open_device("cpu");
  const double inf = INFINITY, nan = NAN;
  auto at = [&](const Op1& op, double x, Dtype t) { return item(op(constant(from_doubles(cpu, {}, t, {{x}}))).value); };
  for (Dtype t : {Dtype::f32, Dtype::f64}) {
    for (const Function& f : functions()) expect(std::isnan(at(f.op, nan, t)), "{}: a NaN must stay one", f.name);
    auto of = [](std::string_view name) { return *std::ranges::find(functions(), name, &Function::name); };
    auto expect_at = [&](std::string_view name, double x, double want) {
      const double y = at(of(name).op, x, t);
      expect(y == want, "{} {} at {}: want {}; got {}", name, taper::name(t), x, want, y);
    };
    for (auto [x, y] : {std::pair{inf, 1.0}, {-inf, 0.0}, {1e4, 1.0}, {-1e4, 0.0}}) expect_at("sigmoid", x, y);
    for (auto [x, y] : {std::pair{inf, 1.0}, {-inf, -1.0}, {1e30, 1.0}, {0.0, 0.0}}) expect_at("tanh", x, y);
    for (auto [x, y] : {std::pair{inf, inf}, {-inf, 0.0}, {1e30, inf}, {-1e30, 0.0}, {0.0, 1.0}}) expect_at("exp", x, y);
    for (auto [x, y] : {std::pair{inf, inf}, {0.0, -inf}, {1.0, 0.0}}) expect_at("log", x, y);
    expect(std::isnan(at(of("log").op, -1, t)), "log of a negative number must be NaN");
    for (auto [x, y] : {std::pair{inf, inf}, {-inf, 0.0}, {20.5, 20.5}, {-1e4, 0.0}}) expect_at("softplus", x, y);
  }
}

// The gradient passes through bf16 storage too.
void bf16_has_a_gradient() {
  Device& cpu = open_device("cpu");
  Tape tape;
  const Var x = tape.leaf("x", from_doubles(cpu, {2}, Dtype::bf16, {{1.5, -3.0}}));
  const auto d = backward(square(x), from_doubles(cpu, {2}, Dtype::bf16, {{1.0, 2.0}}));
  expect(to_doubles(d.at("x")) == std::vector<double>{3, -12}, "d square must be 2 x d_y");
}

void refuses_integers_and_nothing() {
  Device& cpu = open_device("cpu");
  expect_error([&] { silu(constant(zeros(cpu, {3}, Dtype::i32))); }, "silu: x must be f32, f64 or bf16; got i32 [3]");
  expect_error([] { exp(Var{}); }, "exp: x must be present; it is absent");
}

const RegisterCase registered{{
    .room = "unary",
    .ops = {"silu", "sigmoid", "tanh", "relu", "relu_squared", "exp", "log", "softplus", "negate", "square", "scale"},
    .examples = examples(),
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = benches(),
    .checks = {{"values are the library's", values_are_the_librarys},
               {"extremes hold", extremes_hold},
               {"bf16 has a gradient", bf16_has_a_gradient},
               {"refuses integers and nothing", refuses_integers_and_nothing}},
    .huge = {example(functions()[0], {huge_rows(1024), 1024})},
}};

}  // namespace
}  // namespace taper::test
