// The tape: what is recorded, what flows back, what is refused.
#include "autograd/tape.h"

#include <doctest/doctest.h>

#include <cmath>

#include "autograd/ops.h"
#include "tensor/error.h"

using namespace taper;

namespace {

Device& cpu() { return open_device("cpu"); }
Tensor values(const std::vector<double>& v) { return from_doubles(cpu(), {int64_t(v.size())}, Dtype::f64, v); }
Tensor ones(const Shape& shape) { return full(cpu(), shape, Dtype::f64, 1); }

// Ops of this test alone, recorded by hand.
const Op pass_both{"test_pass_both", {"a", "b"}, {"y"}};   // sends one tensor down two edges
const Op forgetful{"test_forgetful", {"x"}, {"y"}};        // sends nothing
const Op misspelt{"test_misspelt", {"x"}, {"y"}};
const Op halves{"test_halves", {"x"}, {"low", "high"}};

}  // namespace

TEST_CASE("tape: an op without a tracked input leaves no node") {
  Tape tape;
  const Var y = square(constant(values({2, 3})));
  CHECK_FALSE(y.tracked());
  CHECK(tape.nodes.empty());
  Tape silent = Tape::constants();
  CHECK_FALSE(square(silent.leaf("x", values({2}))).tracked());
  CHECK(silent.nodes.empty());
}

TEST_CASE("tape: one name is one leaf, and its gradients add up") {
  Tape tape;
  const Tensor w = values({2, 5});
  const Var y = add(square(tape.leaf("w", w)), tape.leaf("w", w));
  CHECK(tape.leaf("w", w).node == 0);
  CHECK(to_doubles(backward(y, ones({2})).at("w")) == std::vector<double>{5, 11});
  CHECK_THROWS_WITH_AS(tape.leaf("w", values({1})), "tape: leaf 'w' must keep its shape [2]; got [1]", Error);
  CHECK_THROWS_WITH_AS(tape.leaf("", w), "tape: a leaf must have a name; got ''", Error);
}

TEST_CASE("tape: a tensor sent down two edges is not added to in place") {
  Tape tape;
  const Var a = tape.leaf("a", values({1})), b = tape.leaf("b", values({1}));
  auto both = [&](const Var& u, const Var& v) {
    return record(pass_both, {u, v}, values({0}), [](Flow& flow) {
      flow.to("a", flow.from("y"));
      flow.to("b", flow.from("y"));
    });
  };
  // a gets the shared tensor and then another one; b must still see the first alone.
  const Var y = both(both(a, b), a);
  const auto d = backward(y, ones({1}));
  CHECK(to_doubles(d.at("a"))[0] == 2);
  CHECK(to_doubles(d.at("b"))[0] == 1);
}

TEST_CASE("tape: a rule must answer for every wanted edge, by its right name") {
  Tape tape;
  const Var x = tape.leaf("x", values({1}));
  const Var y = record(forgetful, {x}, values({1}), [](Flow&) {});
  CHECK_THROWS_WITH_AS(backward(y, ones({1})),
                       "test_forgetful.x: the rule left this edge without a gradient; send it with to(), or none() with a reason", Error);
  const Var z = record(misspelt, {x}, values({1}), [](Flow& flow) { flow.to("ex", flow.from("y")); });
  CHECK_THROWS_WITH_AS(backward(z, ones({1})), "test_misspelt: no edge called 'ex'; its edges are x", Error);
  const Var w = record(forgetful, {x}, values({1}), [](Flow& flow) { flow.to("x", full(cpu(), {2}, Dtype::f64, 1)); });
  CHECK_THROWS_WITH_AS(backward(w, ones({1})), "test_forgetful#1.x: the gradient of [1] must be [1]; the rule sent [2]", Error);
  const Var nothing = record(forgetful, {x}, values({1}), [](Flow& flow) { flow.none("x", "a step function"); });
  CHECK(backward(nothing, ones({1})).empty());
}

TEST_CASE("tape: of several outputs, any one with a cotangent runs the rule") {
  Tape tape;
  const Var x = tape.leaf("x", values({1, 2}));
  auto make = [&] {
    return record(halves, {x}, std::vector<Tensor>{values({1}), values({2})}, [](Flow& flow) {
      flow.to("x", values({flow.has("low") ? to_doubles(flow.from("low"))[0] : 0, flow.has("high") ? to_doubles(flow.from("high"))[0] : 0}));
    });
  };
  CHECK(to_doubles(backward(make()[1], ones({1})).at("x")) == std::vector<double>{0, 1});
  const auto both = make();
  CHECK(to_doubles(backward({both[0], both[1]}, {values({3}), values({4})}).at("x")) == std::vector<double>{3, 4});
}

TEST_CASE("tape: walking twice needs keep, and saved tensors die when spent") {
  Tape tape;
  const Var x = tape.leaf("x", values({3}));
  const size_t before = cpu().bytes_live();
  const Var y = square(exp(x));
  BackwardOptions keep;
  keep.keep = true;
  const auto first = backward(y, ones({1}), keep), second = backward(y, ones({1}));
  CHECK(to_doubles(first.at("x")) == to_doubles(second.at("x")));
  CHECK(to_doubles(first.at("x"))[0] == doctest::Approx(2 * std::exp(6.0)));
  CHECK_THROWS_WITH_AS(backward(y, ones({1})), "backward: square was walked before; pass keep = true to walk a tape twice", Error);
  CHECK(cpu().bytes_live() <= before + 4 * 64);  // y, exp's value in nobody's hand, the two gradients
}

TEST_CASE("tape: a cut edge carries nothing, and an unknown one is an error") {
  Tape tape;
  const Var x = tape.leaf("x", values({3}));
  Var y;
  {
    const Scope outer(tape, "layers.0"), inner(tape, "mixer");
    y = add(square(x), multiply(x, x));  // 2x + 2x
  }
  BackwardOptions cut;
  cut.keep = true;
  auto gradient = [&](const std::vector<std::string>& edges) {
    cut.cut = edges;
    const auto d = backward(y, ones({1}), cut);
    return d.contains("x") ? to_doubles(d.at("x"))[0] : 0.0;
  };
  CHECK(gradient({}) == 12);
  CHECK(gradient({"layers.0.mixer/square.x"}) == 6);
  CHECK(gradient({"layers.0.mixer/multiply.b"}) == 9);
  CHECK(gradient({"layers.0.mixer/add.a", "layers.0.mixer/add.b"}) == 0);
  CHECK_THROWS_WITH_AS(gradient({"layers.0.mixer/squared.x"}),
                       "backward: no edge is called 'layers.0.mixer/squared.x'; `taper audit CONFIG --ledger` lists them", Error);
}

TEST_CASE("tape: the ledger sees every edge") {
  Tape tape;
  const Var x = tape.leaf("x", values({3, -4, 0}));
  const Var y = relu(x);
  std::vector<LedgerEntry> entries;
  BackwardOptions options;
  options.ledger = [&](const LedgerEntry& e) { entries.push_back(e); };
  backward(y, values({3, 4, NAN}), options);
  REQUIRE(entries.size() == 1);
  CHECK(entries[0].edge == "relu.x");
  CHECK(entries[0].norm == 3);
  CHECK(entries[0].max == 3);
  CHECK(entries[0].zeros + double(entries[0].non_finite) / 3 == doctest::Approx(2.0 / 3));
}

TEST_CASE("tape: gradients go into a sink as they are complete") {
  Tape tape;
  const Var x = tape.leaf("x", values({3})), w = tape.leaf("w", values({5}));
  std::vector<std::string> order;
  BackwardOptions options;
  options.into = [&](const Node& leaf, const Tensor& d) { order.push_back(leaf.scope + "=" + std::to_string(int(to_doubles(d)[0]))); };
  CHECK(backward(multiply(x, w), ones({1}), options).empty());
  CHECK(order == std::vector<std::string>{"w=3", "x=5"});
}

TEST_CASE("tape: misuse is one line") {
  Tape one, two;
  const Var a = one.leaf("a", values({1})), b = two.leaf("b", values({1}));
  CHECK_THROWS_WITH_AS(add(a, b), "add: its inputs must be on one tape; got two", Error);
  CHECK_THROWS_WITH_AS(backward(constant(values({1})), ones({1})), "backward: the loss must depend on a leaf; it is a constant", Error);
  CHECK_THROWS_WITH_AS(backward(square(a), ones({2})), "backward: the seed must have the output's shape [1]; got [2]", Error);
}
