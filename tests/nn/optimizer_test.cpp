// optimizer: groups, accumulation, the guard, and a resume that no bit can tell.
#include "nn/optimizer.h"

#include <cmath>
#include <map>

#include "tests/nn/support.h"

using namespace taper;

namespace {

Device& cpu() { return open_device("cpu"); }

struct Model {  // five parameters, one of each kind of group
  Parameter matrix, vector, fast, frozen, scalar;
  std::vector<Parameter*> all{&matrix, &vector, &fast, &frozen, &scalar};
  Model() {
    matrix.name = "in.weight", matrix.value = drawn({6, 4}, Dtype::f64, 1);
    vector.name = "norm.weight", vector.value = drawn({4}, Dtype::f64, 2);
    fast.name = "w0.weight", fast.value = drawn({3, 2}, Dtype::f64, 3), fast.lr_scale = 2;
    frozen.name = "dt_bias", frozen.value = drawn({3}, Dtype::f64, 4), frozen.trainable = false;
    scalar.name = "A_log_base", scalar.value = drawn({}, Dtype::f64, 5);
  }
  std::string bytes() const {
    std::string s;
    for (const Parameter* p : all) s += bytes_of(p->value);
    return s;
  }
};

void fill(Gradients& g, const Model& m, uint64_t seed) {
  for (const Parameter* p : m.all)
    if (p->trainable) g.add(p->name, drawn(p->value.shape(), Dtype::f64, seed++));
}

Tensor loss_of(double x) { return full(cpu(), {}, Dtype::f64, x); }

}  // namespace

TEST_CASE("groups: decay, learning rate scale, frozen") {
  Model m;
  const Model start;  // drawn from the same streams
  AdamW optimizer({.beta1 = 0.9, .beta2 = 0.95, .eps = 0, .weight_decay = 0.1, .clip = 0, .max_bad_steps = 5}, m.all);
  Gradients g(m.all);
  for (const Parameter* p : m.all)
    if (p->trainable) g.add(p->name, full(cpu(), p->value.shape(), Dtype::f64, -3));
  optimizer.step(g, 0.01, loss_of(1));
  // The first step moves each element by its learning rate, here upwards; only `matrix` decays.
  const auto moved = [](const Parameter& now, const Parameter& then, double keep, double step) {
    const auto a = to_doubles(now.value), b = to_doubles(then.value);
    for (size_t i = 0; i < a.size(); ++i) CHECK(a[i] == doctest::Approx(keep * b[i] + step).epsilon(1e-12));
  };
  moved(m.matrix, start.matrix, 0.999, 0.01);
  moved(m.vector, start.vector, 1, 0.01);
  moved(m.fast, start.fast, 1, 0.02);
  moved(m.scalar, start.scalar, 1, 0.01);
  CHECK(bytes_of(m.frozen.value) == bytes_of(start.frozen.value));
}

TEST_CASE("a quadratic is minimized") {
  Parameter p;
  p.name = "x", p.value = drawn({50}, Dtype::f32, 9);
  const std::vector<Parameter*> all{&p};
  AdamW optimizer({.weight_decay = 0}, all);
  for (int step = 0; step < 400; ++step) {
    Gradients g(all);
    g.add("x", clone(p.value));  // d/dx of x^2 / 2
    optimizer.step(g, 0.1 * (1 - step / 400.0));
  }
  for (double x : to_doubles(p.value)) CHECK(std::abs(x) < 1e-3);
  CHECK(optimizer.steps() == 400);
}

TEST_CASE("clipping: the norm is reported unclipped, and a clipped step is that of the scaled gradient") {
  Model a, b;
  AdamW clipped({.clip = 1}, a.all), plain({.clip = 0}, b.all);
  double norm = 0;
  for (uint64_t t = 0; t < 3; ++t) {
    Gradients g(a.all), h(b.all);
    fill(g, a, 10 + t);
    norm = item(clipped.step(g, 0.01).norm);
    for (size_t i = 0, k = 0; i < b.all.size(); ++i) {
      if (!b.all[i]->trainable) continue;
      std::vector<double> scaled = to_doubles(g.complete()[k++]);
      for (double& x : scaled) x *= 1 / (norm + 1e-6);
      h.add(b.all[i]->name, from_doubles(cpu(), b.all[i]->value.shape(), Dtype::f64, scaled));
    }
    plain.step(h, 0.01);
  }
  CHECK(norm > 1);
  CHECK(a.bytes() == b.bytes());
}

TEST_CASE("micro-batches add up, and shared tensors are not written to") {
  Parameter p;
  p.name = "x", p.value = zeros(cpu(), {4}, Dtype::f64);
  Gradients g({&p});
  const Tensor first = full(cpu(), {4}, Dtype::f64, 1), second = full(cpu(), {4}, Dtype::f64, 2);
  g.add("x", first);
  g.add("x", second);
  Node leaf;
  leaf.scope = "x";
  g.into()(leaf, full(cpu(), {4}, Dtype::f64, 4));
  CHECK(to_doubles(g.complete()[0]) == std::vector<double>(4, 7));
  CHECK(to_doubles(first) == std::vector<double>(4, 1));
  CHECK(to_doubles(second) == std::vector<double>(4, 2));
  g.clear();
  expect_error(Exit::internal, "gradients: parameter 'x' has no gradient", [&] { g.complete(); });
}

TEST_CASE("gradients that do not fit are refused by name") {
  Model m;
  Gradients g(m.all);
  expect_error(Exit::internal, "gradients: 'dt_bias' is not a trainable parameter",
               [&] { g.add("dt_bias", drawn({3}, Dtype::f64, 1)); });
  expect_error(Exit::internal, "gradients: 'norm.weight' is f64 [4]; its gradient is f64 [5]",
               [&] { g.add("norm.weight", drawn({5}, Dtype::f64, 1)); });
  AdamW optimizer({}, m.all);
  expect_error(Exit::internal, "gradients: parameter 'in.weight' has no gradient", [&] { optimizer.step(g, 1); });
  expect_error(Exit::internal, "gradients: parameter names must differ; 'x' is taken", [] {
    Parameter a, b;
    a.name = b.name = "x";
    Gradients{{&a, &b}};
  });
}

TEST_CASE("a step that is not finite changes nothing and does not count") {
  Model m;
  AdamW optimizer({.max_bad_steps = 3}, m.all);
  const auto state = [&] {
    std::string s = m.bytes();
    optimizer.each_state([&](const std::string& name, Tensor& t) {
      if (name.starts_with("moment")) s += bytes_of(t);
    });
    return s;
  };
  const auto step = [&](double loss, double bad_gradient) {
    Gradients g(m.all);
    fill(g, m, 20);
    if (bad_gradient != 0) g.add("A_log_base", full(cpu(), {}, Dtype::f64, bad_gradient));
    return item(optimizer.step(g, 0.1, loss_of(loss)).finite) == 1;
  };
  CHECK(step(1, 0));
  const std::string before = state();
  CHECK_FALSE(step(std::nan(""), 0));
  CHECK_FALSE(step(1, INFINITY));
  CHECK(state() == before);
  CHECK(optimizer.bad_steps() == 2);
  CHECK(optimizer.steps() == 1);
  CHECK(step(1, 0));  // two of three allowed: it goes on
  CHECK(optimizer.bad_steps() == 0);
  const std::string later = state();
  CHECK(later != before);
  for (int i = 0; i < 3; ++i) CHECK_FALSE(step(1, std::nan("")));
  CHECK_FALSE(step(1, 0));  // the limit was reached: the host will find the weights as they were
  CHECK(state() == later);
  CHECK(optimizer.bad_steps() == 4);
}

TEST_CASE("resumed from its state it continues bit for bit") {
  Model a, b;
  AdamW whole({}, a.all), first({}, b.all);
  std::map<std::string, Tensor> saved;
  const auto step = [](AdamW& optimizer, Model& m, uint64_t t) {
    Gradients g(m.all);
    fill(g, m, 100 * t);
    optimizer.step(g, 0.02, loss_of(t == 3 ? std::nan("") : 1));
  };
  for (uint64_t t = 0; t < 8; ++t) step(whole, a, t);
  for (uint64_t t = 0; t < 4; ++t) step(first, b, t);  // stops right after a bad step
  first.each_state([&](const std::string& name, Tensor& t) { CHECK(saved.emplace(name, clone(t)).second); });
  CHECK(saved.size() == 2 * 4 + 2);
  CHECK(item(saved.at("bad_steps")) == 1);
  AdamW second({}, b.all);
  second.each_state([&](const std::string& name, Tensor& t) { copy_into(t, saved.at(name)); });
  for (uint64_t t = 4; t < 8; ++t) step(second, b, t);
  CHECK(a.bytes() == b.bytes());
  CHECK(second.steps() == whole.steps());
}

TEST_CASE("a plan counts the moments and runs nothing") {
  Device& plan = open_device("plan");
  Parameter p;
  p.name = "w", p.value = Tensor(plan, {1000, 1000}, Dtype::f32);
  const size_t before = plan.bytes_live();
  AdamW optimizer({}, {&p});
  CHECK(plan.bytes_live() - before >= 8'000'000);
  CHECK(plan.bytes_live() - before < 8'001'000);
  Gradients g({&p});
  g.add("w", Tensor(plan, {1000, 1000}, Dtype::f32));
  optimizer.step(g, 0.1);
}

TEST_CASE("an optimizer wants something to train") {
  Parameter p;
  p.name = "w", p.value = zeros(cpu(), {2}, Dtype::f32), p.trainable = false;
  expect_error(Exit::internal, "adamw: at least one trainable parameter is wanted; got none of 1",
               [&] { AdamW({}, {&p}); });
}
