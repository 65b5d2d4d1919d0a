// Gradcheck: it passes what is right and catches what is wrong, also slightly and also NaN.
#include "autograd/gradcheck.h"

#include <doctest/doctest.h>

#include <cmath>

#include "autograd/ops.h"
#include "tensor/error.h"

using namespace taper;

namespace {

Device& cpu() { return open_device("cpu"); }
Tensor values(const std::vector<double>& v) { return from_doubles(cpu(), {int64_t(v.size())}, Dtype::f64, v); }

const Op cube{"test_cube", {"x"}, {"y"}};

// y = x^3 with gradient factor * x^2: right for factor = 3.
std::vector<Var> cubed(const Var& x, double factor) {
  std::vector<double> y, slope;
  for (double v : to_doubles(x.value)) y.push_back(v * v * v), slope.push_back(factor * v * v);
  return {record(cube, {x}, values(y), [slope](Flow& flow) {
    std::vector<double> d = to_doubles(flow.from("y"));
    for (size_t i = 0; i < d.size(); ++i) d[i] *= slope[i];
    flow.to("x", values(d));
  })};
}

double worst(double factor, const std::vector<double>& x) {
  return gradcheck([&](Tape&, const std::vector<Var>& in) { return cubed(in[0], factor); }, {{"x", values(x)}}).worst();
}

}  // namespace

TEST_CASE("gradcheck: right is right, one part in ten thousand is wrong") {
  CHECK(worst(3, {0.3, -2, 1.5}) < 1e-10);
  CHECK(worst(3.0003, {0.3, -2, 1.5}) > 1e-5);
  CHECK(worst(-3, {0.3, -2, 1.5}) > 0.1);
}

TEST_CASE("gradcheck: a gradient of zero where the function moves is caught") {
  CHECK(worst(0, {0.3, -2, 1.5}) > 0.1);
  // An input that no gradient is sent to at all.
  const auto record = gradcheck([](Tape&, const std::vector<Var>& in) { return std::vector{square(in[0]), square(constant(in[1].value))}; },
                                {{"used", values({1, 2})}, {"dropped", values({1, 2})}});
  REQUIRE(record.edges.size() == 2);
  CHECK(record.edges[0].worst < 1e-10);
  CHECK(record.edges[1].worst > 0.1);
}

TEST_CASE("gradcheck: NaN never passes") {
  CHECK(std::isnan(worst(NAN, {0.3})));
  CHECK(std::isnan(gradcheck([](Tape&, const std::vector<Var>& in) { return std::vector{log(in[0])}; }, {{"x", values({-1})}}).worst()));
}

TEST_CASE("gradcheck: a value that depends on recording is caught; f32 is refused") {
  const auto record = gradcheck(
      [](Tape& tape, const std::vector<Var>& in) { return std::vector{scale(in[0], tape.recording() ? 1 : 1.5)}; }, {{"x", values({1})}});
  CHECK(record.value_depends_on_recording);
  CHECK_THROWS_WITH_AS(gradcheck([](Tape&, const std::vector<Var>& in) { return std::vector{in[0]}; }, {{"x", zeros(cpu(), {1}, Dtype::f32)}}),
                       "gradcheck: x must be f64; got f32", Error);
}

TEST_CASE("gradcheck: counts its checks and says what it saw") {
  const auto record = gradcheck([](Tape&, const std::vector<Var>& in) { return std::vector{multiply(in[0], in[1])}; },
                                {{"a", values({1, 2})}, {"b", values({3, 4})}}, {.directions = 7});
  CHECK(record.checks() == 14);
  CHECK(record.text().find("a ") != std::string::npos);
  CHECK(record.text().find("of 7 directions") != std::string::npos);
}
