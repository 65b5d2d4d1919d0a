// Gradcheck: analytic directional derivatives against 4-point differences.
#include "autograd/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/error.h"
#include "tensor/random.h"

namespace taper {
namespace {

std::vector<double> normals(uint64_t seed, const std::string& purpose, int64_t n) {
  const Random random(seed, purpose);
  std::vector<double> v(size_t(n), 0.0);
  for (int64_t i = 0; i < n; ++i) v[size_t(i)] = random.normal(uint64_t(i));
  return v;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

class Loss {
 public:
  Loss(const Function& f, uint64_t seed) : f_(f), seed_(seed) {}

  std::vector<double> weights(size_t output, int64_t n) const {
    return normals(seed_, "gradcheck output " + std::to_string(output), n);
  }

  double operator()(const std::vector<Tensor>& values) const {
    Tape tape = Tape::constants();
    std::vector<Var> inputs;
    for (const Tensor& t : values) inputs.push_back(constant(t));
    return value(f_(tape, inputs));
  }

  double magnitude(const std::vector<Var>& outputs) const {  // sum of |w output|: what rounding is relative to
    double sum = 0;
    for (size_t i = 0; i < outputs.size(); ++i) {
      const std::vector<double> w = weights(i, outputs[i].value.numel()), y = to_doubles(outputs[i].value);
      for (size_t k = 0; k < y.size(); ++k) sum += std::abs(w[k] * y[k]);
    }
    return sum;
  }

  double value(const std::vector<Var>& outputs) const {
    double sum = 0;
    for (size_t i = 0; i < outputs.size(); ++i)
      sum += dot(weights(i, outputs[i].value.numel()), to_doubles(outputs[i].value));
    return sum;
  }

 private:
  const Function& f_;
  uint64_t seed_;
};

}  // namespace

double GradcheckRecord::worst() const {
  double w = 0;
  for (const EdgeRecord& e : edges) w = std::isnan(e.worst) || std::isnan(w) ? std::nan("") : std::max(w, e.worst);
  return w;
}

int64_t GradcheckRecord::checks() const {
  int64_t n = 0;
  for (const EdgeRecord& e : edges) n += e.directions;
  return n;
}

std::string GradcheckRecord::text() const {
  std::string s;
  for (const EdgeRecord& e : edges)
    s += fmt::format("  {:<40} error {:.2e} of {} directions; analytic {:.12g} numeric {:.12g}; gradient norm {:.3g}\n", e.name,
                     e.worst, e.directions, e.analytic, e.numeric, e.gradient_norm);
  return s;
}

GradcheckRecord gradcheck(const Function& f, const std::vector<NamedTensor>& inputs, const GradcheckOptions& options) {
  const Loss loss(f, options.seed);
  std::vector<Tensor> values;
  Tape tape;
  std::vector<Var> leaves;
  for (const NamedTensor& in : inputs) {
    check(in.value.dtype() == Dtype::f64, "gradcheck: {} must be f64; got {}", in.name, name(in.value.dtype()));
    values.push_back(in.value);
    leaves.push_back(tape.leaf(in.name, in.value));
  }
  const std::vector<Var> outputs = f(tape, leaves);
  std::vector<Var> tracked;
  std::vector<Tensor> seeds;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].tracked()) continue;
    tracked.push_back(outputs[i]);
    const Tensor& v = outputs[i].value;
    seeds.push_back(from_doubles(v.device(), v.shape(), v.dtype(), loss.weights(i, v.numel())));
  }
  const auto gradients = backward(tracked, seeds);
  const double rounding = std::numeric_limits<double>::epsilon() * loss.magnitude(outputs);

  GradcheckRecord record;
  record.value_depends_on_recording = loss.value(outputs) != loss(values);
  for (size_t i = 0; i < inputs.size(); ++i) {
    EdgeRecord edge{inputs[i].name};
    const auto found = gradients.find(inputs[i].name);
    // A leaf nothing was sent to has gradient zero; the numeric side decides whether that is true.
    const std::vector<double> gradient =
        found == gradients.end() ? std::vector<double>(size_t(values[i].numel()), 0.0) : to_doubles(found->second);
    const std::vector<double> x = to_doubles(values[i]);
    edge.gradient_norm = std::sqrt(dot(gradient, gradient));
    for (int d = 0; d < options.directions; ++d) {
      const std::vector<double> u =
          normals(options.seed, fmt::format("gradcheck direction {} {}", inputs[i].name, d), values[i].numel());
      auto at = [&](double h) {
        std::vector<double> moved(x);
        for (size_t k = 0; k < x.size(); ++k) moved[k] += h * u[k];
        std::vector<Tensor> v = values;
        v[i] = from_doubles(values[i].device(), values[i].shape(), Dtype::f64, moved);
        return loss(v);
      };
      auto slope = [&](double h) { return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h); };
      double numeric = 0, before = std::numeric_limits<double>::quiet_NaN(), least = std::numeric_limits<double>::infinity();
      double h = options.step;
      for (int i = 0; i < options.steps && !(least <= 1e-9 * std::abs(numeric)); ++i, h /= 4) {
        const double here = slope(h), error = std::abs(here - before) + rounding / h;
        // A step that leaves the function's domain says nothing, unless none says more.
        if (error < least || !std::isfinite(least)) numeric = here;
        if (error < least) least = error;
        before = here;
      }
      const double analytic = dot(gradient, u);
      const double scale = edge.gradient_norm * std::sqrt(dot(u, u));
      double error = std::abs(analytic - numeric);
      if (scale > 0) error /= scale;
      if (!std::isfinite(analytic) || !std::isfinite(numeric)) error = std::numeric_limits<double>::quiet_NaN();
      ++edge.directions;
      if (edge.directions == 1 || std::isnan(error) || error > edge.worst) {
        edge.worst = error;
        edge.analytic = analytic;
        edge.numeric = numeric;
      }
      if (std::isnan(error)) break;
    }
    record.edges.push_back(edge);
  }
  return record;
}

}  // namespace taper
