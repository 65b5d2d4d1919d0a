// parameter: the weight decay rule, leaves, and initial values that depend on name and seed alone.
#include "nn/parameter.h"

#include <algorithm>
#include <cmath>

#include "tensor/parallel.h"
#include "tests/nn/support.h"

using namespace taper;

namespace {

Device& cpu() { return open_device("cpu"); }

Parameter shaped(const std::string& name, const Shape& shape, double lr_scale = 1) {
  Parameter p;
  p.name = name;
  p.value = zeros(cpu(), shape, Dtype::f32);
  p.lr_scale = lr_scale;
  return p;
}

}  // namespace

TEST_CASE("weight decay goes to matrices called weight, at the plain learning rate") {
  CHECK(shaped("embedding.weight", {257, 64}).decays());
  CHECK(shaped("layers.0.mixer.in_proj.weight", {8, 4}).decays());
  CHECK(shaped("layers.0.mixer.conv1d.weight", {8, 1, 4}).decays());
  CHECK_FALSE(shaped("layers.0.norm.weight", {64}).decays());
  CHECK_FALSE(shaped("layers.0.mixer.conv1d.bias", {8}).decays());
  CHECK_FALSE(shaped("layers.0.mixer.x.weight", {1, 1, 64}).decays());
  CHECK_FALSE(shaped("layers.0.mixer.r_k", {8, 64}).decays());
  CHECK_FALSE(shaped("layers.0.mixer.A_log_base", {}).decays());
  CHECK_FALSE(shaped("layers.0.mixer.in_proj.weight", {8, 4}, 2).decays());
}

TEST_CASE("a frozen parameter is a constant, a trainable one is one leaf") {
  Tape tape;
  Parameter p = shaped("w", {2});
  const Var a = leaf(tape, p), b = leaf(tape, p);
  CHECK(a.tracked());
  CHECK(a.node == b.node);
  CHECK(tape.find_leaf("w") == a.node);
  p.trainable = false;
  CHECK_FALSE(leaf(tape, p).tracked());
  expect_error(Exit::internal, "parameter: a leaf wants a name and a value; got name ''",
               [&] { leaf(tape, Parameter{}); });
}

TEST_CASE("names nest") {
  const Init init(1, cpu(), Dtype::f32);
  CHECK(init.in("layers.0").in("mixer").make("D", {3}, fill_constant(1)).name == "layers.0.mixer.D");
  CHECK(init.make("embedding.weight", {3}, fill_constant(1)).name == "embedding.weight");
}

TEST_CASE("initial values depend on seed and name, not on order, dtype or threads") {
  const Init init(42, cpu(), Dtype::f32);
  const auto make = [&](const Init& i, const char* name) {
    return bytes_of(i.make(name, {3, 5000}, fill_normal(0.02)).value);
  };
  const std::string first = make(init, "a");
  CHECK(make(init, "b") != first);
  CHECK(make(init, "a") == first);
  CHECK(make(init.in("x"), "a") != first);
  CHECK(make(Init(43, cpu(), Dtype::f32), "a") != first);
  const int before = thread_count();
  for (int threads : {1, 3}) {
    set_thread_count(threads);
    CHECK(make(init, "a") == first);
  }
  set_thread_count(before);
  // The f32 values are the f64 ones, rounded.
  const std::vector<double> exact =
      to_doubles(Init(42, cpu(), Dtype::f64).make("a", {3, 5000}, fill_normal(0.02)).value);
  CHECK(bytes_of(from_doubles(cpu(), {3, 5000}, Dtype::f32, exact)) == first);
}

TEST_CASE("fills have the moments they promise") {
  const Init init(7, cpu(), Dtype::f64);
  const int64_t n = 1200000;  // more than one piece
  const auto moments = [](const std::vector<double>& x) {
    double mean = 0, square = 0;
    for (double v : x) mean += v / double(x.size());
    for (double v : x) square += (v - mean) * (v - mean) / double(x.size());
    return std::pair(mean, std::sqrt(square));
  };
  const auto [normal_mean, normal_deviation] = moments(to_doubles(init.make("n", {n}, fill_normal(0.02)).value));
  CHECK(std::abs(normal_mean) < 1e-4);
  CHECK(std::abs(normal_deviation - 0.02) < 1e-4);
  const std::vector<double> u = to_doubles(init.make("u", {n}, fill_uniform(-3, 1)).value);
  const auto [uniform_mean, uniform_deviation] = moments(u);
  CHECK(std::abs(uniform_mean + 1) < 0.01);
  CHECK(std::abs(uniform_deviation - 4 / std::sqrt(12.0)) < 0.01);
  CHECK(std::ranges::all_of(u, [](double v) { return v > -3 && v < 1; }));
  for (double v : to_doubles(init.make("c", {5}, fill_constant(-2.5)).value)) CHECK(v == -2.5);
}

TEST_CASE("every element is drawn from its own index, across pieces") {
  const Parameter p =
      Init(5, cpu(), Dtype::f64).make("i", {(1 << 20) + 7}, fill_each([](const Random&, uint64_t i) { return double(i); }));
  const std::vector<double> x = to_doubles(p.value);
  bool all = true;
  for (size_t i = 0; i < x.size(); ++i) all = all && x[i] == double(i);
  CHECK(all);
}

TEST_CASE("a plan draws nothing") {
  int64_t calls = 0;
  const Draw counting = fill_each([&](const Random&, uint64_t) { return double(++calls); });
  const Parameter p = Init(1, open_device("plan"), Dtype::f32).make("w", {1 << 20, 1 << 20}, counting);
  CHECK(calls == 0);
  CHECK(p.value.numel() == int64_t(1) << 40);
}
