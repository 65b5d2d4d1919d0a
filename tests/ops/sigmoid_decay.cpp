// sigmoid_decay: the case; RWKV's whole map against the published values, far ends, positions.
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

// The same from plain ops; the logs of the positions are a constant.
Var plain(const Var& u, const Var& w0, const Var& alpha, const Packing& packing, double reference) {
  Var y = w0 ? add(u, w0) : u;
  if (alpha) {
    const int64_t B = u.size(0), T = u.size(1), D = u.size(2);
    const PackingView view(packing, T);
    std::vector<double> logs;
    for (int64_t i = 0; i < B * T; ++i) logs.insert(logs.end(), size_t(D), std::log(double(view.position(i / T, i % T)) / reference));
    y = subtract(y, multiply(constant(from_doubles(u.value.device(), u.shape(), u.value.dtype(), logs)), alpha));
  }
  return scale(sigmoid(y), -std::exp(-0.5));
}

Example example(int64_t B, int64_t T, int64_t D, bool w0, bool alpha, double reference = 1) {
  auto apply = [=](auto&& op) {
    return [=](const std::vector<Var>& in, const Packing& packing) {
      return std::vector{op(in[0], w0 ? in[1] : Var{}, alpha ? in.back() : Var{}, packing, reference)};
    };
  };
  Example e{.name = fmt::format("B={} T={} D={}{}{} reference={}", B, T, D, w0 ? " w0" : "", alpha ? " alpha" : "", reference),
            .inputs = {{.edge = "u", .shape = {B, T, D}, .time_axis = 1}},
            .build = apply(sigmoid_decay),
            .definition = apply(plain)};
  if (w0) e.inputs.push_back({.edge = "w0", .shape = {D}, .fill = uniform(-5, 1), .wide = true});
  if (alpha) e.inputs.push_back({.edge = "alpha", .shape = {D}, .fill = uniform(0, 1), .wide = true});
  return e;
}

// Specification 4.2b: the sum of all log-decays over t in {1, 10, 2048}, and its gradients.
void golden_map() {
  Device& cpu = open_device("cpu");
  const std::vector<double> gaps = {0.5, -0.3, 1.2};
  const int64_t T = 2048, D = 4;
  Tape tape;
  const Var theta = tape.leaf("theta", full(cpu, {}, Dtype::f64, -3));
  const Var delta = tape.leaf("delta", from_doubles(cpu, {3}, Dtype::f64, gaps));
  const Var w0 = spectral_cumsum(theta, delta);
  const Var alpha = rate_exponent(negate(softplus(negate(w0))), 2048);
  const Var log_w = sigmoid_decay(constant(zeros(cpu, {1, T, D}, Dtype::f64)), w0, alpha, {});
  std::vector<double> seed(size_t(T * D), 0.0);
  for (int64_t t : {1, 10, 2048})
    for (int64_t j = 0; j < D; ++j) seed[size_t((t - 1) * D + j)] = 1;
  const auto l = to_doubles(log_w.value);
  const auto d = backward(log_w, from_doubles(cpu, {1, T, D}, Dtype::f64, seed));
  auto near = [](double got, double want, double relative, const std::string& what) {
    expect(std::abs(got / want - 1) < relative, "{} must be {:.9g}; got {:.10g}", what, want, got);
  };
  const double at_10[] = {-3.00477843e-3, -1.61992749e-2, -6.16245613e-2, -0.302009014};
  const double at_2048[] = {-1.47444577e-5, -4.41753143e-4, -1.30663051e-2, -0.302009014};
  for (size_t j = 0; j < 4; ++j) {
    near(l[9 * 4 + j], at_10[j], 3e-9, fmt::format("log_w at t=10, channel {}", j));
    near(l[2047 * 4 + j], at_2048[j], 4e-9, fmt::format("log_w at t=2048, channel {}", j));
  }
  near(to_doubles(d.at("theta"))[0], -0.719010117, 2e-9, "d_theta");
  const double d_delta[] = {-0.420740225, -0.256138014, -0.357853113};
  for (size_t j = 0; j < 3; ++j) near(to_doubles(d.at("delta"))[j], d_delta[j], 3e-9, fmt::format("d_delta[{}]", j));
}

// Far below, the tail of the exponential to its last digits; far above, exactly -e^(-1/2) and no gradient.
void far_ends_are_exact() {
  Device& cpu = open_device("cpu");
  for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
    const double digits = dtype == Dtype::f32 ? 3e-7 : 1e-15;
    Tape tape;
    const Var u = tape.leaf("u", from_doubles(cpu, {1, 1, 3}, dtype, std::vector<double>{-80, 80, -20}));
    const Var log_w = sigmoid_decay(u, {}, {}, {});
    const auto l = to_doubles(log_w.value), d = to_doubles(backward(log_w, full(cpu, {1, 1, 3}, dtype, 1)).at("u"));
    for (size_t j : {0, 2}) {
      const double y = j == 0 ? -80 : -20, want = -std::exp(-0.5) * std::exp(y) / (1 + std::exp(y));
      expect(std::abs(l[j] / want - 1) < digits, "{}: log_w at {} must be {:.9g}; got {:.9g}", name(dtype), y, want, l[j]);
      expect(std::abs(d[j] / (want / (1 + std::exp(y))) - 1) < digits, "{}: d_u at {} is {:.9g}", name(dtype), y, d[j]);
    }
    const double floor = dtype == Dtype::f32 ? double(float(-std::exp(-0.5))) : -std::exp(-0.5);
    expect(l[1] == floor && d[1] == 0, "{}: at 80 log_w must be {:.17g}, d_u 0; got {:.17g}, {}", name(dtype), floor, l[1], d[1]);
  }
}

Tensor decay_of(const std::vector<double>& w0, const std::vector<double>& alpha, int64_t T, const Packing& packing, Dtype dtype) {
  Device& cpu = open_device("cpu");
  auto row = [&](const std::vector<double>& v) {
    return v.empty() ? Var{} : constant(from_doubles(cpu, {int64_t(v.size())}, dtype, v));
  };
  return sigmoid_decay(constant(full(cpu, {1, T, 2}, dtype, -0.7)), row(w0), row(alpha), packing).value;
}

void zeros_change_no_bit() {
  for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
    const std::vector<double> zero = {0, 0}, w0 = {-3, 0.5}, alpha = {0.7, 0.1};
    expect_same_bits(decay_of(zero, alpha, 9, {}, dtype), decay_of({}, alpha, 9, {}, dtype), "w0 of zeros");
    expect_same_bits(decay_of(w0, zero, 9, {}, dtype), decay_of(w0, {}, 9, {}, dtype), "alpha of zeros");
  }
}

// A window begun after t0 tokens is the tail of a longer one; a document start begins at 1 again.
void positions_follow_the_packing() {
  Device& cpu = open_device("cpu");
  const auto whole = to_doubles(decay_of({-3, 0.5}, {0.7, 0.1}, 12, {}, Dtype::f64));
  Packing packing = make_packing(cpu, 1, 7, {{4}});
  packing.t0 = from_host<int64_t>(cpu, {1}, {5});
  const auto part = to_doubles(decay_of({-3, 0.5}, {0.7, 0.1}, 7, packing, Dtype::f64));
  for (size_t t = 0; t < 7; ++t)
    for (size_t j = 0; j < 2; ++j)
      expect(part[t * 2 + j] == whole[(t < 4 ? t + 5 : t - 4) * 2 + j], "position {} channel {} is off", t, j);
}

void refuses_bad_input() {
  Device& cpu = open_device("cpu");
  const Var u = constant(zeros(cpu, {2, 5, 3}, Dtype::f32)), row = constant(zeros(cpu, {3}, Dtype::f32));
  const Var wide = constant(zeros(cpu, {4}, Dtype::f32)), fine = constant(zeros(cpu, {3}, Dtype::f64));
  expect_error([&] { sigmoid_decay(row, {}, {}, {}); }, "sigmoid_decay: u must be [B,T,D]; got [3]");
  expect_error([&] { sigmoid_decay(u, wide, row, {}); }, "sigmoid_decay: w0 must be f32 [3] to match u; got f32 [4]");
  expect_error([&] { sigmoid_decay(u, {}, fine, {}); }, "sigmoid_decay: alpha must be f32 [3] to match u; got f64 [3]");
  expect_error([&] { sigmoid_decay(u, row, row, {}, 0); }, "sigmoid_decay: the position reference must be > 0; got 0");
  expect_error([&] { sigmoid_decay(u, row, row, {.start = zeros(cpu, {2, 4}, Dtype::i32)}); },
               "sigmoid_decay: packing start must be i32 [2,5]; got i32 [2,4]");
}

const RegisterCase registered{{
    .room = "sigmoid_decay",
    .ops = {"sigmoid_decay"},
    .examples = {example(1, 1, 1, true, true), example(2, 7, 3, true, true), example(2, 33, 5, true, false),
                 example(3, 9, 4, false, true), example(1, 4, 2, false, false), example(1, 130, 37, true, true, 16),
                 example(2, 70, 288, true, true)},
    .looks_back = true,
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {{.example = example(8, 2048, 768, true, true),
               .forward_flops = 8.0 * 8 * 2048 * 768,
               .forward_bytes = 8.0 * 8 * 2048 * 768,
               .backward_flops = 8.0 * 8 * 2048 * 768,
               .backward_bytes = 12.0 * 8 * 2048 * 768}},
    .checks = {{"golden map", golden_map},
               {"far ends are exact", far_ends_are_exact},
               {"zeros change no bit", zeros_change_no_bit},
               {"positions follow the packing", positions_follow_the_packing},
               {"refuses bad input", refuses_bad_input}},
    .huge = {example(huge_rows(64 * 768), 64, 768, true, true)},
}};

}  // namespace
}  // namespace taper::test
