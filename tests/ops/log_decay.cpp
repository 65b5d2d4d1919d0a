// log_decay: the case, per head and per channel; the whole PoST map against the published values; s = 1 changes no bit.
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

// x [...] repeated K times along a new last dimension.
Var spread(const Var& x, int64_t K) {
  const Var ones = constant(full(x.value.device(), {1, K}, x.value.dtype(), 1));
  std::vector<int64_t> sizes(x.shape().begin(), x.shape().end());
  sizes.push_back(K);
  return reshape(matmul(reshape(x, {-1, 1}), ones), sizes);
}

// The same from plain ops.
Var plain(const Var& p, const Var& dt, const Var& s) {
  const bool channels = dt && dt.value.rank() == 4;
  Var rate = exp(p), taper = s;
  if (channels) rate = spread(rate, dt.size(3));
  if (channels && s) taper = spread(s, dt.size(3));
  Var product = dt ? dt : taper;
  if (dt && s) product = multiply(dt, taper);
  return negate(multiply(product, rate));
}

// With exponents: beside position_taper and what it feeds.
Example tapered_example(int64_t B, int64_t T, int64_t H, int64_t K, bool dt, double reference = 1) {
  const auto apply = [=](auto&& op) {
    return [=](const std::vector<Var>& in, const Packing& packing) {
      return std::vector{op(in[0], dt ? in.back() : Var{}, in[1], packing)};
    };
  };
  Example e{.name = fmt::format("B={} T={} H={} K={}{} alpha reference={}", B, T, H, K, dt ? " dt" : "", reference),
            .inputs = {{.edge = "p", .shape = {H}}, {.edge = "alpha", .shape = {H}, .fill = uniform(0, 1)}},
            .build = apply([=](const Var& p, const Var& steps, const Var& alpha, const Packing& packing) {
              return tapered_log_decay(p, steps, alpha, steps ? steps.size(0) : B, steps ? steps.size(1) : T, packing, reference);
            }),
            .definition = apply([=](const Var& p, const Var& steps, const Var& alpha, const Packing& packing) {
              return plain(p, steps, position_taper(alpha, B, T, packing, reference));
            })};
  if (dt) e.inputs.push_back({.edge = "dt", .shape = K ? Shape{B, T, H, K} : Shape{B, T, H}, .fill = uniform(0.01, 1), .time_axis = 1});
  return e;
}

enum Given { dt_and_s, only_dt, only_s };

// K = 0: one step size per head.
Example example(int64_t B, int64_t T, int64_t H, int64_t K, Given given) {
  const bool dt = given != only_s, s = given != only_dt;
  auto apply = [=](auto&& op) {
    return [=](const std::vector<Var>& in, const Packing&) {
      return std::vector{op(in[0], dt ? in[1] : Var{}, s ? in.back() : Var{})};
    };
  };
  Example e{.name = fmt::format("B={} T={} H={} K={}{}{}", B, T, H, K, dt ? " dt" : "", s ? " s" : ""),
            .inputs = {{.edge = "p", .shape = {H}}},
            .build = apply(log_decay),
            .definition = apply(plain)};
  const Shape heads = {B, T, H}, steps = K ? Shape{B, T, H, K} : heads;
  if (dt) e.inputs.push_back({.edge = "dt", .shape = steps, .fill = uniform(0.01, 1)});
  if (s) e.inputs.push_back({.edge = "s", .shape = heads, .fill = uniform(0.01, 1)});
  return e;
}

// Specification 4.2b: the sum of all log-decays over t in {1, 10, 2048}, and its gradients.
void golden_map() {
  Device& cpu = open_device("cpu");
  const std::vector<double> gaps = {0.5, -0.3, 1.2};
  const int64_t T = 2048, H = 4;
  Tape tape;
  const Var theta = tape.leaf("theta", full(cpu, {}, Dtype::f64, -1));
  const Var delta = tape.leaf("delta", from_doubles(cpu, {3}, Dtype::f64, gaps));
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
  const Var p = constant(from_doubles(cpu, {3}, Dtype::f32, std::vector<double>{-1.3, 0.2, 2.7}));
  const Var s = constant(full(cpu, {1, 2, 3}, Dtype::f32, 1));
  for (const Shape& shape : {Shape{1, 2, 3}, Shape{1, 2, 3, 5}}) {
    std::vector<double> steps;
    for (int64_t i = 0; i < shape.numel(); ++i) steps.push_back(0.1 + 0.037 * double(i * i % 23));
    const Var dt = constant(from_doubles(cpu, shape, Dtype::f32, steps));
    expect_same_bits(log_decay(p, dt, s).value, log_decay(p, dt, {}).value, "log_decay with s = 1");
  }
}

// Channels that all step alike decay as their head does, to the bit.
void equal_channels_are_their_head() {
  Device& cpu = open_device("cpu");
  const Var p = constant(from_doubles(cpu, {2}, Dtype::f32, std::vector<double>{-1.3, 2.7}));
  const Var dt = constant(from_doubles(cpu, {2, 1, 2}, Dtype::f32, std::vector<double>{0.1, 0.02, 0.7, 0.33}));
  const Var s = constant(from_doubles(cpu, {2, 1, 2}, Dtype::f32, std::vector<double>{1, 0.9, 0.3, 0.004}));
  expect_same_bits(log_decay(p, spread(dt, 3), s).value, spread(log_decay(p, dt, s), 3).value, "log_decay of equal channels");
}

// Fused = composed, to the bit forward; and what alpha = 0 means.
void exponents_are_the_taper() {
  Device& cpu = open_device("cpu");
  const int64_t B = 2, T = 9, H = 3;
  Packing packing = make_packing(cpu, B, T, {{4}, {}});
  packing.t0 = from_host<int64_t>(cpu, {B}, {5, 0});
  const Var p = constant(from_doubles(cpu, {H}, Dtype::f32, std::vector<double>{-1.3, 0.2, 2.7}));
  const Var alpha = constant(from_doubles(cpu, {H}, Dtype::f32, std::vector<double>{1, 0.37, 0}));
  for (const Shape& shape : {Shape{B, T, H}, Shape{B, T, H, 5}}) {
    std::vector<double> steps;
    for (int64_t i = 0; i < shape.numel(); ++i) steps.push_back(0.1 + 0.037 * double(i * i % 23));
    const Var dt = constant(from_doubles(cpu, shape, Dtype::f32, steps));
    expect_same_bits(tapered_log_decay(p, dt, alpha, B, T, packing, 3).value,
                     log_decay(p, dt, position_taper(alpha, B, T, packing, 3)).value, "log_decay with alpha, of position_taper");
    const Var none = constant(zeros(cpu, {H}, Dtype::f32));
    expect_same_bits(tapered_log_decay(p, dt, none, B, T, packing).value, log_decay(p, dt, {}).value, "log_decay with alpha = 0");
  }
}

void refuses_bad_shapes() {
  Device& cpu = open_device("cpu");
  auto of = [&](const Shape& shape, Dtype dtype = Dtype::f32) { return constant(zeros(cpu, shape, dtype)); };
  const Var p = of({3});
  expect_error([&] { log_decay(of({3, 1}), {}, {}); }, "log_decay: p must be [H]; got [3,1]");
  expect_error([&] { log_decay(p, {}, {}); }, "log_decay: dt or s must be given");
  const std::string dt = "log_decay: dt must be f32 [B,T,3] or [B,T,3,K] to match p; got ", s = "log_decay: s must be f32 ";
  expect_error([&] { log_decay(p, of({2, 5, 4}), {}); }, dt + "f32 [2,5,4]");
  expect_error([&] { log_decay(p, of({2, 5, 4, 3}), {}); }, dt + "f32 [2,5,4,3]");
  expect_error([&] { log_decay(p, of({5, 3}), {}); }, dt + "f32 [5,3]");
  expect_error([&] { log_decay(p, of({2, 5, 3}, Dtype::f64), {}); }, dt + "f64 [2,5,3]");
  expect_error([&] { log_decay(p, {}, of({2, 5, 3, 7})); }, s + "[B,T,3] to match p; got f32 [2,5,3,7]");
  expect_error([&] { log_decay(p, of({2, 5, 3, 7}), of({2, 5, 3, 7})); }, s + "[2,5,3] to match dt; got f32 [2,5,3,7]");
  expect_error([&] { log_decay(p, of({2, 5, 3}), of({2, 4, 3})); }, s + "[2,5,3] to match dt; got f32 [2,4,3]");
  expect_error([&] { tapered_log_decay(p, of({2, 5, 3}), of({4}), 2, 5, {}); }, "log_decay: alpha must be f32 [3] to match p; got f32 [4]");
  expect_error([&] { tapered_log_decay(p, of({2, 5, 3}), p, 2, 6, {}); }, "log_decay: dt must be [2,6,...]; got [2,5,3]");
  expect_error([&] { tapered_log_decay(p, {}, p, 2, 6, {}, 0); }, "log_decay: the position reference must be > 0; got 0");
  expect_error([&] { tapered_log_decay(p, {}, p, 1, 3, {.start = zeros(cpu, {1, 4}, Dtype::i32)}); },
               "log_decay: packing start must be i32 [1,3]; got i32 [1,4]");
}

// The steps first: their rows are cut.
Example cut_example(int64_t B, int64_t T, int64_t H, int64_t K) {
  return {.name = fmt::format("B={} T={} H={} K={} dt s", B, T, H, K),
          .inputs = {{.edge = "dt", .shape = K ? Shape{B, T, H, K} : Shape{B, T, H}, .fill = uniform(0.01, 1)},
                     {.edge = "s", .shape = {B, T, H}, .fill = uniform(0.01, 1)},
                     {.edge = "p", .shape = {H}}},
          .build = [](const std::vector<Var>& in, const Packing&) { return std::vector{log_decay(in[2], in[0], in[1])}; }};
}

const RegisterCase registered{{
    .room = "log_decay",
    .ops = {"log_decay"},
    .examples = {example(1, 1, 1, 0, dt_and_s), example(2, 7, 3, 0, dt_and_s), example(2, 33, 4, 0, only_dt),
                 example(1, 130, 6, 0, only_s), example(1, 1, 1, 1, dt_and_s), example(2, 7, 3, 5, dt_and_s),
                 example(2, 9, 2, 16, only_dt), example(1, 33, 4, 37, dt_and_s),
                 example(2, 140, 24, 0, dt_and_s), example(1, 300, 2, 36, only_dt),
                 tapered_example(1, 2, 1, 0, true), tapered_example(2, 7, 3, 0, true), tapered_example(2, 33, 4, 0, true, 16),
                 tapered_example(1, 130, 6, 0, false), tapered_example(2, 7, 3, 5, true), tapered_example(1, 33, 4, 36, true, 8)},
    .looks_back = true,
    .bench = {{.example = tapered_example(8, 2048, 24, 0, true),
               .forward_flops = 4.0 * 8 * 2048 * 24,
               .forward_bytes = 8.0 * 8 * 2048 * 24,
               .backward_flops = 8.0 * 8 * 2048 * 24,
               .backward_bytes = 16.0 * 8 * 2048 * 24},
              {.example = example(8, 2048, 24, 0, dt_and_s),
               .forward_flops = 2.0 * 8 * 2048 * 24,
               .forward_bytes = 12.0 * 8 * 2048 * 24,
               .backward_flops = 6.0 * 8 * 2048 * 24,
               .backward_bytes = 24.0 * 8 * 2048 * 24},
              {.example = example(8, 2048, 4, 96, dt_and_s),
               .forward_flops = 2.0 * 8 * 2048 * 4 * 96,
               .forward_bytes = 8.0 * 8 * 2048 * 4 * 96,
               .backward_flops = 5.0 * 8 * 2048 * 4 * 96,
               .backward_bytes = 16.0 * 8 * 2048 * 4 * 96}},
    .checks = {{"golden map", golden_map},
               {"s of one changes no bit", s_of_one_changes_no_bit},
               {"equal channels are their head", equal_channels_are_their_head},
               {"exponents are the taper", exponents_are_the_taper},
               {"refuses bad shapes", refuses_bad_shapes}},
    .huge = {cut_example(huge_rows(64 * 4 * 96), 64, 4, 96), cut_example(huge_rows(2048 * 24), 2048, 24, 0)},
}};

}  // namespace
}  // namespace taper::test
