// rate_exponent: the case; ends, clamps, the published values, and taper_exponent by another route.
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

// The same from plain ops: raw = line + M p / log T_train, clamped by two relus.
Var plain(const Var& p, double train_length) {
  const int64_t N = p.size(0);
  std::vector<double> line(size_t(N), 0.0), m(size_t(N * N), 0.0);
  for (int64_t k = 0; k + 1 < N; ++k) {
    const double place = double(k) / double(N - 1);
    line[size_t(k)] = 1 - place;
    m[size_t(k * N + k)] += 1;
    m[size_t(k * N)] -= 1 - place;
    m[size_t(k * N + N - 1)] -= place;
  }
  auto fixed = [&](const Shape& shape, const std::vector<double>& v) {
    return constant(from_doubles(p.value.device(), shape, p.value.dtype(), v));
  };
  const Var bent = reshape(matmul(reshape(p, {1, N}), fixed({N, N}, m), {.b = true}), {N});
  const Var raw = add(scale(bent, 1 / std::log(train_length)), fixed({N}, line));
  return subtract(relu(raw), relu(subtract(raw, fixed({}, {1}))));
}

// `deviation` keeps raw away from the clamp's corners, where no difference quotient says anything.
Example example(int64_t N, double train_length, double deviation) {
  return {.name = fmt::format("N={} T_train={}", N, train_length),
          .inputs = {{.edge = "p", .shape = {N}, .fill = normal(-2, deviation)}},
          .build = [=](const std::vector<Var>& in, const Packing&) { return std::vector{rate_exponent(in[0], train_length)}; },
          .definition = [=](const std::vector<Var>& in, const Packing&) { return std::vector{plain(in[0], train_length)}; }};
}

struct Sent {
  std::vector<double> alpha, d_p;
};
Sent send(const std::vector<double>& p, double train_length, const std::vector<double>& d_alpha) {
  Device& cpu = open_device("cpu");
  const Shape shape = {int64_t(p.size())};
  Tape tape;
  const Var alpha = rate_exponent(tape.leaf("p", from_doubles(cpu, shape, Dtype::f64, p)), train_length);
  return {to_doubles(alpha.value), to_doubles(backward(alpha, from_doubles(cpu, shape, Dtype::f64, d_alpha)).at("p"))};
}

void golden_values() {  // specification 4.2b: RWKV's map, p = log sigmoid(w0)
  Device& cpu = open_device("cpu");
  const std::vector<double> delta = {0.5, -0.3, 1.2}, want = {1, 0.681753112, 0.307474065, 0};
  const Var theta = constant(full(cpu, {}, Dtype::f64, -3));
  const Var w0 = spectral_cumsum(theta, constant(from_doubles(cpu, {3}, Dtype::f64, delta)));
  const auto alpha = to_doubles(rate_exponent(negate(softplus(negate(w0))), 2048).value);
  for (size_t k = 0; k < 4; ++k)
    expect(std::abs(alpha[k] - want[k]) < 1e-9, "alpha[{}] must be {}; got {:.9f}", k, want[k], alpha[k]);
}

// Of a cumulative sum, taper_exponent gives the same exponents and the same gradient of the gaps, open or clamped.
void equals_taper_exponent_of_a_cumsum() {
  Device& cpu = open_device("cpu");
  const Tensor seed = from_doubles(cpu, {6}, Dtype::f64, std::vector<double>{0.9, -1.3, 0.4, 2.1, -0.6, 1.7});
  const std::vector<double> open = {0.5, -0.3, 1.2, 0.1, -2}, clamped = {-5, 9, -1, 0.4, 0.2};
  for (const std::vector<double>& gaps : {open, clamped}) {
    const Tensor delta = from_doubles(cpu, {5}, Dtype::f64, gaps);
    Tape one, other;
    const Var want = taper_exponent(one.leaf("delta", delta), 512);
    const Var theta = other.leaf("theta", full(cpu, {}, Dtype::f64, -3));
    const Var got = rate_exponent(spectral_cumsum(theta, other.leaf("delta", delta)), 512);
    expect_close(got.value, want.value, 1e-14, "alpha");
    const auto d = backward(got, seed);
    expect_close(d.at("delta"), backward(want, seed).at("delta"), 1e-13, "d_delta");
    const double d_theta = to_doubles(d.at("theta"))[0];
    expect(std::abs(d_theta) < 1e-15, "theta must not reach alpha; d_theta = {}", d_theta);
  }
}

void one_rate_has_no_taper() {
  const Sent one = send({-3}, 2048, {1});
  expect(one.alpha == std::vector<double>{0} && one.d_p == std::vector<double>{0}, "N = 1 must give alpha = 0 and d_p = 0");
}

void two_rates_are_the_ends() {
  const Sent two = send({-3, 0.2}, 512, {1, 1});
  const std::vector<double> ends = {1, 0}, nothing = {0, 0};
  expect(two.alpha == ends && two.d_p == nothing, "N = 2 must give alpha = 1, 0 and d_p = 0");
}

// Closed beyond the corners, open on them (specification 4.2: the clamp is inclusive). With N = 3 and equal
// ends raw_1 = 1/2 + p_1 / log T_train.
void the_clamp_passes_its_corners() {
  const double half = 0.5 * std::log(16.0);
  for (const double sign : {-1.0, 1.0}) {
    const double end = sign > 0 ? 1 : 0;
    const Sent corner = send({0, sign * half, 0}, 16, {7, 1, 7}), beyond = send({0, sign * half * 1.001, 0}, 16, {7, 1, 7});
    expect(corner.alpha[1] == end && beyond.alpha[1] == end, "alpha must be {} at the corner and beyond", end);
    expect(corner.d_p[1] == 1 / std::log(16.0), "the corner must be open; d_p = {}", corner.d_p[1]);
    expect(corner.d_p[0] == -corner.d_p[1] / 2 && corner.d_p[2] == -corner.d_p[1] / 2, "the ends must take half each");
    expect(beyond.d_p == std::vector<double>({0, 0, 0}), "beyond the corner d_p must be 0; got {}", beyond.d_p[1]);
  }
}

void refuses_bad_input() {
  Device& cpu = open_device("cpu");
  auto p = [&](const Shape& shape) { return constant(zeros(cpu, shape, Dtype::f32)); };
  expect_error([&] { rate_exponent(p({}), 10); }, "rate_exponent: p must be [N], N >= 1; got []");
  expect_error([&] { rate_exponent(p({0}), 10); }, "rate_exponent: p must be [N], N >= 1; got [0]");
  expect_error([&] { rate_exponent(p({3}), 1); }, "rate_exponent: the training length must be > 1; got 1");
}

const RegisterCase registered{{
    .room = "rate_exponent",
    .ops = {"rate_exponent"},
    .examples = {example(1, 512, 1), example(2, 512, 1), example(3, 512, 0.5), example(6, 2048, 0.3), example(64, 512, 0.02), example(700, 512, 0.001)},
    .bench = {{.example = example(2048, 2048, 0.001),
               .forward_flops = 6 * 2048,
               .forward_bytes = 8 * 2048,
               .backward_flops = 6 * 2048,
               .backward_bytes = 12 * 2048}},
    .checks = {{"golden values", golden_values},
               {"equals taper_exponent of a cumsum", equals_taper_exponent_of_a_cumsum},
               {"one rate has no taper", one_rate_has_no_taper},
               {"two rates are the ends", two_rates_are_the_ends},
               {"the clamp passes its corners", the_clamp_passes_its_corners},
               {"refuses bad input", refuses_bad_input}},
}};

}  // namespace
}  // namespace taper::test
