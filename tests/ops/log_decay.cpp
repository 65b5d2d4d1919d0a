// log_decay: the case; the whole PoST map against the published values; s = 1 changes no bit.
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

Example example(int64_t B, int64_t T, int64_t H, bool dt, bool s) {
  Example e{.name = fmt::format("B={} T={} H={}{}{}", B, T, H, dt ? " dt" : "", s ? " s" : ""),
            .inputs = {{.edge = "p", .shape = {H}}},
            .build = [=](const std::vector<Var>& in, const Packing&) {
              return std::vector{log_decay(in[0], dt ? in[1] : Var{}, s ? in.back() : Var{})};
            }};
  if (dt) e.inputs.push_back({.edge = "dt", .shape = {B, T, H}, .fill = uniform(0.01, 1)});
  if (s) e.inputs.push_back({.edge = "s", .shape = {B, T, H}, .fill = uniform(0.01, 1)});
  return e;
}

// Specification 4.2b: the sum of all log-decays over t in {1, 10, 2048}, and its gradients.
void golden_map() {
  Device& cpu = open_device("cpu");
  const std::vector<double> gaps = {0.5, -0.3, 1.2};
  const int64_t T = 2048, H = 4;
  Tape tape;
  const Var theta = tape.leaf("theta", full(cpu, {}, Dtype::f64, -1)), delta = tape.leaf("delta", from_doubles(cpu, {3}, Dtype::f64, gaps));
  const Var s = position_taper(taper_exponent(delta, 2048), 1, T, {});
  const Var log_a = log_decay(spectral_cumsum(theta, delta), constant(full(cpu, {1, T, H}, Dtype::f64, 0.05)), s);
  std::vector<double> seed(size_t(T * H), 0.0);
  for (int64_t t : {1, 10, 2048})
    for (int64_t h = 0; h < H; ++h) seed[size_t((t - 1) * H + h)] = 1;
  const auto l = to_doubles(log_a.value);
  const auto d = backward(log_a, from_doubles(cpu, {1, T, H}, Dtype::f64, seed));
  auto near = [](double got, double want, const char* what) {
    expect(std::abs(got - want) <= 1e-8 * std::abs(want) + 1e-12, "{} must be {:.10g}; got {:.10g}", what, want, got);
  };
  const double at_10[] = {-1.839397e-3, -1.0570190e-2, -4.5316408e-2, -0.366404422};
  const double at_2048[] = {-8.981432e-6, -3.0918419e-4, -1.0643611e-2, -0.366404422};
  for (size_t h = 0; h < 4; ++h) {  // the published values carry seven digits
    expect(std::abs(l[9 * 4 + h] / at_10[h] - 1) < 3e-7, "log_a at t=10, head {}: {}", h, l[9 * 4 + h]);
    expect(std::abs(l[2047 * 4 + h] / at_2048[h] - 1) < 3e-7, "log_a at t=2048, head {}: {}", h, l[2047 * 4 + h]);
  }
  near(to_doubles(d.at("theta"))[0], -1.319829058, "d_theta");
  const double d_delta[] = {-0.802439012, -0.524731233, -0.858134479};
  for (size_t j = 0; j < 3; ++j) near(to_doubles(d.at("delta"))[j], d_delta[j], "d_delta");
}

void s_of_one_changes_no_bit() {
  Device& cpu = open_device("cpu");
  const std::vector<Tensor> p = {from_doubles(cpu, {3}, Dtype::f32, std::vector<double>{-1.3, 0.2, 2.7})};
  const Var dt = constant(from_doubles(cpu, {1, 2, 3}, Dtype::f32, std::vector<double>{0.1, 0.02, 0.7, 0.33, 0.9, 0.05}));
  const Var s = constant(full(cpu, {1, 2, 3}, Dtype::f32, 1));
  expect_same_bits(log_decay(constant(p[0]), dt, s).value, log_decay(constant(p[0]), dt, {}).value, "log_decay with s = 1");
}

void refuses_bad_shapes() {
  Device& cpu = open_device("cpu");
  const Var p = constant(zeros(cpu, {3}, Dtype::f32)), s = constant(zeros(cpu, {2, 5, 4}, Dtype::f32));
  expect_error([&] { log_decay(p, {}, {}); }, "log_decay: dt or s must be given");
  expect_error([&] { log_decay(p, s, {}); }, "log_decay: dt and s must be f32 [B,T,3] to match p; got f32 [2,5,4]");
}

const RegisterCase registered{{
    .room = "log_decay",
    .ops = {"log_decay"},
    .examples = {example(1, 1, 1, true, true), example(2, 7, 3, true, true), example(2, 33, 4, true, false), example(1, 130, 6, false, true)},
    .bench = {{.example = example(8, 2048, 24, true, true),
               .forward_flops = 2.0 * 8 * 2048 * 24,
               .forward_bytes = 12.0 * 8 * 2048 * 24,
               .backward_flops = 6.0 * 8 * 2048 * 24,
               .backward_bytes = 24.0 * 8 * 2048 * 24}},
    .checks = {{"golden map", golden_map}, {"s of one changes no bit", s_of_one_changes_no_bit}, {"refuses bad shapes", refuses_bad_shapes}},
}};

}  // namespace
}  // namespace taper::test
