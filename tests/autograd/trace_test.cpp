// Trace: slices, paths inside a scope, edges beside an edge, and dumps that are the same each time.
#include "autograd/trace.h"

#include <doctest/doctest.h>

#include "autograd/ops.h"
#include "tensor/error.h"

using namespace taper;

namespace {

Device& cpu() { return open_device("cpu"); }
Tensor values(const std::vector<double>& v) { return from_doubles(cpu(), {int64_t(v.size())}, Dtype::f64, v); }

// Two layers; in each, `gain` reaches the output by two paths and the residual goes round them.
struct Model {
  Tape tape;
  Var loss;
  Model() {
    Var x = tape.leaf("embedding", values({1, 2}));
    for (const char* layer : {"layers.0", "layers.1", "layers.10"}) {
      const Scope scope(tape, layer), mixer(tape, "mixer");
      const Var gain = tape.leaf(std::string(layer) + ".mixer.gain", values({0.5, 0.25}));
      const Var grown = exp(gain), bent = tanh(gain);  // in statements: the order of arguments is the compiler's
      const Var inner = multiply(grown, bent);
      x = add(x, multiply(x, inner));
    }
    loss = sum(x);
  }
};

}  // namespace

TEST_CASE("trace: paths stay inside their scope, and layers.1 is not layers.10") {
  Model m;
  CHECK(paths_within(m.tape, "layers.1.mixer", m.tape.find_leaf("layers.1.mixer.gain")) ==
        std::vector<std::string>{"layers.1.mixer.gain > exp.x > multiply.a > multiply.b > add.b",
                                 "layers.1.mixer.gain > tanh.x > multiply.b > multiply.b > add.b"});
}

TEST_CASE("trace: a slice holds the edges between leaf and loss, and no others") {
  Model m;
  std::vector<std::string> names;
  for (const NamedEdge& e : slice(m.tape, m.loss.node, m.tape.find_leaf("layers.10.mixer.gain"))) names.push_back(e.name);
  CHECK(names == std::vector<std::string>{"layers.10.mixer/exp.x", "layers.10.mixer/tanh.x", "layers.10.mixer/multiply.a",
                                          "layers.10.mixer/multiply.b", "layers.10.mixer/multiply#1.b", "layers.10.mixer/add.b", "sum.x"});
}

TEST_CASE("trace: without an edge plus through it alone is the whole") {
  Model m;
  BackwardOptions options;
  options.keep = true;
  auto gradient = [&](const std::vector<std::string>& cut, const std::string& leaf) {
    options.cut = cut;
    const auto d = backward(m.loss, full(cpu(), {}, Dtype::f64, 1), options);
    return d.contains(leaf) ? to_doubles(d.at(leaf)) : std::vector<double>(2, 0.0);
  };
  for (const std::string leaf : {"embedding", "layers.0.mixer.gain", "layers.1.mixer.gain"})
    for (const NamedEdge& e : slice(m.tape, m.loss.node, m.tape.find_leaf(leaf))) {
      const auto beside = edges_beside(m.tape, m.loss.node, m.tape.find_leaf(leaf), e.name);
      const auto whole = gradient({}, leaf), without = gradient({e.name}, leaf), through = gradient(beside, leaf);
      for (size_t i = 0; i < 2; ++i) CHECK_MESSAGE(without[i] + through[i] == doctest::Approx(whole[i]).epsilon(1e-14), leaf << " " << e.name);
    }
  CHECK_THROWS_WITH_AS(edges_beside(m.tape, m.loss.node, m.tape.find_leaf("layers.1.mixer.gain"), "layers.0.mixer/exp.x"),
                       "trace: no gradient of layers.1.mixer.gain passes an edge called 'layers.0.mixer/exp.x'", Error);
}

TEST_CASE("trace: dumps are the same each time, and fold") {
  Model a, b;
  CHECK(to_dot(a.tape) == to_dot(b.tape));
  CHECK(to_json(a.tape) == to_json(b.tape));
  CHECK(to_dot(a.tape).find("n1 -> n2 [label=\"x\"];") != std::string::npos);
  const std::string folded = to_dot(a.tape, 2);
  CHECK(folded.find("\"layers.0\" -> \"layers.1\";") != std::string::npos);
  CHECK(folded.find("exp") == std::string::npos);
}
