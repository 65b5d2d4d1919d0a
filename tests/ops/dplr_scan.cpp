// dplr_scan: chunked against the recurrence over shapes, documents and decays; split runs; bad shapes.
#include <cmath>

#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

struct Dims {
  int64_t B, T, H, K, V;
  bool initial = true;
  double slowest = 0.01, fastest = 1;  // -log_w
  double removal = 0.3;                // deviation of a and b
  int64_t chunk = dplr_chunk;
};

Build scan(int64_t chunk) {
  return [chunk](const std::vector<Var>& in, const Packing& packing) {
    const DplrResult r = dplr_scan({.r = in[0], .log_w = in[1], .k = in[2], .v = in[3], .a = in[4], .b = in[5],
                                    .initial = in.size() > 6 ? in[6] : Var{}},
                                   packing, chunk);
    return std::vector{r.y, r.final};
  };
}

Example example(const Dims& s) {
  const Shape keys{s.B, s.T, s.H, s.K};
  Example e{.name = fmt::format("B={} T={} H={} K={} V={} decay {}..{} chunk {}{}", s.B, s.T, s.H, s.K, s.V, s.slowest, s.fastest,
                                s.chunk, s.initial ? "" : " bare"),
            .inputs = {{.edge = "r", .shape = keys, .time_axis = 1},
                       {.edge = "log_w", .shape = keys, .fill = uniform(-s.fastest, -s.slowest), .time_axis = 1, .wide = true},
                       {.edge = "k", .shape = keys, .time_axis = 1},
                       {.edge = "v", .shape = {s.B, s.T, s.H, s.V}, .time_axis = 1},
                       {.edge = "a", .shape = keys, .fill = normal(0, s.removal), .time_axis = 1},
                       {.edge = "b", .shape = keys, .fill = normal(0, s.removal), .time_axis = 1}},
            .build = scan(s.chunk),
            .definition = scan(0)};
  if (s.initial) e.inputs.push_back({.edge = "initial", .shape = {s.B, s.H, s.K, s.V}, .wide = true, .carried = true});
  return e;
}

std::vector<Example> examples() {
  std::vector<Example> all;
  for (int64_t T : {1, 2, 3, 7, 15, 16, 17}) all.push_back(example({.B = 2, .T = T, .H = 2, .K = 5, .V = 3}));
  for (int64_t T : {63, 64, 65, 127, 128, 129}) all.push_back(example({.B = 1, .T = T, .H = 2, .K = 3, .V = 4}));
  all.push_back(example({.B = 3, .T = 33, .H = 2, .K = 4, .V = 2, .initial = false, .chunk = 5}));
  all.push_back(example({.B = 1, .T = 40, .H = 1, .K = 37, .V = 19, .removal = 0.1}));  // more than one block of channels
  all.push_back(example({.B = 1, .T = 100, .H = 2, .K = 2, .V = 2, .slowest = 0, .fastest = 1e-6, .removal = 0.1}));
  all.push_back(example({.B = 2, .T = 50, .H = 2, .K = 3, .V = 2, .slowest = 5, .fastest = 30}));
  // As tensor cores take it in bf16: RWKV-7's decays, none, and some too strong for products of whole tiles.
  all.push_back(example({.B = 2, .T = 130, .H = 2, .K = 64, .V = 64, .slowest = 0, .fastest = 0.6065, .removal = 0.1}));
  all.push_back(example({.B = 1, .T = 64, .H = 1, .K = 64, .V = 64, .initial = false, .slowest = 0, .fastest = 1e-6, .removal = 0.1}));
  all.push_back(example({.B = 1, .T = 37, .H = 3, .K = 64, .V = 64, .slowest = 0.5, .fastest = 4, .removal = 0.1}));
  // Narrower heads, which go there as copies with zeros around them: of both, of the columns, of the rows.
  all.push_back(example({.B = 2, .T = 70, .H = 2, .K = 32, .V = 32, .slowest = 0, .fastest = 0.6065, .removal = 0.1}));
  all.push_back(example({.B = 1, .T = 65, .H = 2, .K = 64, .V = 16, .initial = false, .slowest = 0, .fastest = 0.6065, .removal = 0.1}));
  all.push_back(example({.B = 2, .T = 20, .H = 1, .K = 32, .V = 64, .slowest = 0, .fastest = 1, .removal = 0.1}));
  return all;
}

// Inputs as RWKV-7 makes them: |kappa| = 1, a = -kappa, b = kappa * gate; log_w is the caller's.
struct Inputs {
  int64_t B, T, H, K, V;
  std::map<std::string, std::vector<double>> values = {};

  Inputs(int64_t B, int64_t T, int64_t H, int64_t K, int64_t V) : B(B), T(T), H(H), K(K), V(V) {
    for (const char* edge : {"r", "k", "a", "log_w", "b", "v", "initial"}) {
      const Random random(5, edge);
      std::vector<double>& x = values[edge];
      x.resize(size_t(shape(edge).numel()));
      for (size_t i = 0; i < x.size(); ++i) x[i] = float(random.normal(i));
    }
    const Random gate(5, "gate");
    for (int64_t row = 0; row < B * T * H; ++row) {
      double* a = &values["a"][size_t(row * K)];
      double norm = 0;
      for (int64_t i = 0; i < K; ++i) norm += a[i] * a[i];
      for (int64_t i = 0; i < K; ++i) {
        a[i] = float(a[i] / std::sqrt(norm));
        values["b"][size_t(row * K + i)] = float(-a[i] * gate.uniform(uint64_t(row * K + i)));
      }
    }
  }

  Shape shape(const std::string& edge) const {
    if (edge == "initial") return {B, H, K, V};
    return {B, T, H, edge == "v" ? V : K};
  }

  struct Run {
    Tensor y, final;
    std::map<std::string, Tensor> gradients;
  };
  Run run(Device& device, Dtype dtype, int64_t chunk, const std::vector<std::vector<int64_t>>& starts = {},
          Dtype drawn = Dtype::f32) const {
    Tape tape;
    auto tensor = [&](std::string_view name, const Shape& shape, std::vector<double> x) {
      const bool is_wide = name == "log_w" || name == "initial" || name == "final";
      for (double& e : x)
        if (drawn == Dtype::bf16 && !is_wide) e = float(bf16(float(e)));
      return from_doubles(device, shape, is_wide ? wide(dtype) : dtype, x);
    };
    auto in = [&](const char* edge) { return tape.leaf(edge, tensor(edge, shape(edge), values.at(edge))); };
    const DplrResult r = dplr_scan({.r = in("r"), .log_w = in("log_w"), .k = in("k"), .v = in("v"), .a = in("a"), .b = in("b"),
                                    .initial = in("initial")},
                                   starts.empty() ? Packing{} : make_packing(device, B, T, starts), chunk);
    auto cotangent = [&](const Var& of, const char* name) {
      std::vector<double> d(size_t(of.value.numel()));
      for (size_t i = 0; i < d.size(); ++i) d[i] = float(Random(6, name).normal(i));
      return tensor(name, of.shape(), d);
    };
    return {r.y.value, r.final.value, backward({r.y, r.final}, {cotangent(r.y, "y"), cotangent(r.final, "final")})};
  }

  // The chunked form in each dtype of the device under test against the recurrence in f64, within the laws' limits.
  void agrees(const std::vector<std::vector<int64_t>>& starts = {}) const {
    Device &cpu = open_device("cpu"), &device = tested_device();
    const Run of_f32 = run(cpu, Dtype::f64, 0, starts);
    compare(run(device, Dtype::f64, dplr_chunk, starts), of_f32, Dtype::f64, 1e-11, 1e-10);
    compare(run(device, Dtype::f32, dplr_chunk, starts), of_f32, Dtype::f32, 1e-5, 5e-5);
    if (device.kind() == DeviceKind::cuda)
      compare(run(device, Dtype::bf16, dplr_chunk, starts, Dtype::bf16), run(cpu, Dtype::f64, 0, starts, Dtype::bf16),
              Dtype::bf16, 5e-3, 8e-3);
  }
  void compare(const Run& got, const Run& want, Dtype dtype, double forward, double backward) const {
    expect_close(got.y, want.y, forward, "y");
    expect_close(got.final, want.final, forward, "final");
    for (const auto& [edge, g] : want.gradients) {
      // An exp below 2^-126 is 0 in f32, and so is the gradient that it multiplies.
      std::vector<double> mine = to_doubles(got.gradients.at(edge)), true_one = to_doubles(g);
      for (size_t i = 0; i < mine.size() && dtype != Dtype::f64; ++i)
        if (mine[i] == 0 && std::abs(true_one[i]) < 1e-36) true_one[i] = 0;
      const double error = relative_error(mine, true_one);
      expect(error <= backward, "{} d_{}: relative error is {:.3e}", name(dtype), edge, error);  // NaN fails
    }
  }
};

// Decays from none to total, by head and mixed inside one: nothing non-finite, chunked = recurrent. Each log_w
// row is held alone too, since the gradient of a strong decay would drown in that of a weak one.
void survive_extreme_decays(int64_t T, int64_t K, int64_t V) {
  const std::vector<double> rates = {0, 1e-12, 1e-6, 1e-3, 1, 5, 20, 88, 100, 1e3, 1e4};
  for (size_t rate = 0; rate <= rates.size() + 2; ++rate) {
    Inputs in(1, T, 1, K, V);
    for (int64_t t = 0; t < T; ++t)
      for (int64_t i = 0; i < K; ++i) {
        double& w = in.values["log_w"][size_t(t * K + i)];
        if (rate < rates.size()) w = -rates[rate];
        else if (rate == rates.size()) w = -rates[size_t(t * 7 + i * 3) % rates.size()];  // every neighbour another
        else if (rate == rates.size() + 1) w = t % 2 ? -1e4 : -1e-3;                      // alternating
        else w = t == 37 ? -1e4 : -1e-3;                                                  // one spike
        w = float(w);
      }
    in.agrees();
    in.agrees({{1, 16, 17, 40}});
  }
}
void survives_extreme_decays() { survive_extreme_decays(70, 4, 3); }
void survives_extreme_decays_in_tiles() { survive_extreme_decays(70, 64, 64); }  // as tensor cores take it in bf16

// Heads that tensor cores take beside heads that are too strong for them in one chunk, whose blocks take several chunks each.
void leave_out_strong_heads(int64_t K, int64_t V, const std::vector<std::vector<int64_t>>& starts) {
  Inputs in(2, 200, 3, K, V);
  for (int64_t row = 0; row < 2 * 200 * 3; ++row)
    for (int64_t i = 0; i < K; ++i) {
      const int64_t n = row / 600, t = row / 3 % 200, h = row % 3;
      in.values["log_w"][size_t(row * K + i)] = float(n == 1 && t == 100 && h != 1 ? -1e3 : -0.01 * double(i % 8 + 1));
    }
  in.agrees(starts);
}
void leaves_out_strong_heads() { leave_out_strong_heads(64, 64, {}); }
void leaves_out_strong_narrow_heads() { leave_out_strong_heads(33, 20, {{}, {70, 90}}); }

// Slow channels over a long window: an f32 exp(-1e-8) is 1, and yet their decay must not be lost.
void a_long_window_keeps_slow_decays() {
  Inputs in(1, 1000, 2, 8, 5);
  const Random random(8, "log_w");
  for (int64_t i = 0; i < 1000 * 2 * 8; ++i) {
    const double slow = std::pow(10, -8 + double(i % 8));  // by channel: 1e-8 .. 0.1
    in.values["log_w"][size_t(i)] = float(-slow * random.uniform(uint64_t(i)));
  }
  in.agrees();
  in.agrees({{300, 301, 640, 999}});
}

// A window cut in two, the state handed over: the same outputs and final state as in one piece.
void a_split_run_equals_one_run() {
  Device& cpu = open_device("cpu");
  Inputs in(2, 50, 2, 4, 3);
  for (double& w : in.values["log_w"]) w = -std::abs(w);
  auto part = [&](const char* edge, int64_t begin, int64_t end) {
    const Shape s = in.shape(edge);
    const int64_t row = s[2] * s[3];
    const std::vector<double>& all = in.values[edge];
    std::vector<double> x;
    for (int64_t b = 0; b < in.B; ++b) x.insert(x.end(), all.begin() + (b * in.T + begin) * row, all.begin() + (b * in.T + end) * row);
    return constant(from_doubles(cpu, {in.B, end - begin, s[2], s[3]}, Dtype::f64, x));
  };
  auto run = [&](int64_t begin, int64_t end, const Var& initial) {
    return dplr_scan({.r = part("r", begin, end), .log_w = part("log_w", begin, end), .k = part("k", begin, end),
                      .v = part("v", begin, end), .a = part("a", begin, end), .b = part("b", begin, end), .initial = initial},
                     {});
  };
  const Var initial = constant(from_doubles(cpu, in.shape("initial"), Dtype::f64, in.values["initial"]));
  const DplrResult whole = run(0, 50, initial);
  const std::vector<double> all = to_doubles(whole.y.value);
  const int64_t row = in.H * in.V;
  for (int64_t cut : {1, 15, 16, 31, 49}) {
    const DplrResult head = run(0, cut, initial), tail = run(cut, 50, head.final);
    std::vector<double> after;
    for (int64_t b = 0; b < in.B; ++b) after.insert(after.end(), all.begin() + (b * 50 + cut) * row, all.begin() + (b + 1) * 50 * row);
    expect_close(tail.y.value, from_doubles(cpu, {in.B, 50 - cut, in.H, in.V}, Dtype::f64, after), 1e-12, "y after the cut");
    expect_close(tail.final.value, whole.final.value, 1e-12, "final state");
  }
}

// A loss on the final state alone must not lose its gradient.
void final_state_alone_has_gradients() {
  Device& cpu = open_device("cpu");
  Tape tape;
  auto all = [&](const char* edge, double x) { return tape.leaf(edge, full(cpu, {1, 3, 1, 1}, Dtype::f64, x)); };
  const DplrResult r = dplr_scan({.r = all("r", 1), .log_w = all("log_w", -1), .k = all("k", 1), .v = all("v", 1), .a = all("a", -0.5),
                                  .b = all("b", 0.4), .initial = {}},
                                 {});
  const auto d = backward(r.final, full(cpu, {1, 1, 1, 1}, Dtype::f64, 1));
  // With one channel a step is S_t = (e^w + a b) S_{t-1} + k v, so S_3 = f^2 + f + 1.
  const double f = std::exp(-1.0) - 0.2;
  const auto dv = to_doubles(d.at("v")), dw = to_doubles(d.at("log_w"));
  for (int t = 0; t < 3; ++t) {
    const double before = t == 0 ? 0 : t == 1 ? 1 : f + 1;
    expect(std::abs(dv[size_t(t)] - std::pow(f, 2 - t)) < 1e-15, "d_v[{}] is {}", t, dv[size_t(t)]);
    expect(std::abs(dw[size_t(t)] - std::exp(-1.0) * before * std::pow(f, 2 - t)) < 1e-15, "d_log_w[{}] is {}", t, dw[size_t(t)]);
  }
  for (double x : to_doubles(d.at("r"))) expect(x == 0, "d_r is {}", x);
}

void refuses_bad_shapes() {
  Device& cpu = open_device("cpu");
  auto t = [&](const Shape& s, Dtype dtype = Dtype::f32) { return constant(zeros(cpu, s, dtype)); };
  const Var x = t({2, 8, 3, 4});
  DplrInputs in{.r = x, .log_w = x, .k = x, .v = t({2, 8, 3, 5}), .a = x, .b = x, .initial = {}};
  auto with = [&](auto change) {
    DplrInputs other = in;
    change(other);
    return [other] { dplr_scan(other, {}); };
  };
  expect_error(with([&](DplrInputs& i) { i.r = t({2, 8, 3}); }), "dplr_scan: r must be [B,T,H,K]; got [2,8,3]");
  expect_error(with([&](DplrInputs& i) { i.v = {}; }), "dplr_scan: v must be [B,T,H,V]; got nothing");
  expect_error(with([&](DplrInputs& i) { i.v = t({2, 9, 3, 5}); }), "dplr_scan: v must be f32 [2,8,3,5] to match r; got f32 [2,9,3,5]");
  expect_error(with([&](DplrInputs& i) { i.a = {}; }), "dplr_scan: log_w, k, a and b must be given");
  expect_error(with([&](DplrInputs& i) { i.log_w = t({2, 8, 3}); }), "dplr_scan: log_w must be f32 [2,8,3,4] to match r; got f32 [2,8,3]");
  expect_error(with([&](DplrInputs& i) { i.b = t({2, 8, 3, 4}, Dtype::f64); }),
               "dplr_scan: b must be f32 [2,8,3,4] to match r; got f64 [2,8,3,4]");
  expect_error(with([&](DplrInputs& i) { i.initial = t({2, 3, 5, 4}); }),
               "dplr_scan: initial must be f32 [2,3,4,5] to match r; got f32 [2,3,5,4]");
  expect_error([&] { dplr_scan(in, {}, 17); }, "dplr_scan: wants T >= 1 and chunk from 0 to 16; got T 8 and chunk 17");
}

Bench bench(const Dims& s) {
  // Products with the state; pairs, of which a triangle counts: to make four kinds and to apply them.
  const double heads = double(s.B * s.T * s.H), C = double(s.chunk), K = double(s.K), V = double(s.V);
  const double forward = heads * (8 * K * V + 4 * C * (K + V));
  const double backward = heads * (16 * K * V + 12 * C * K + 8 * C * V);
  const double bytes = 4 * heads * (5 * K + 2 * V);
  return {.example = example(s), .forward_flops = forward, .forward_bytes = bytes, .backward_flops = backward, .backward_bytes = 2 * bytes,
          .large = s.B >= 8};
}

const RegisterCase registered{{
    .room = "dplr_scan",
    .ops = {"dplr_scan"},
    .examples = examples(),
    .looks_back = true,
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {bench({.B = 1, .T = 2048, .H = 12, .K = 64, .V = 64, .initial = false, .removal = 0.05}),
              bench({.B = 4, .T = 512, .H = 4, .K = 64, .V = 64, .initial = false, .removal = 0.05}),
              bench({.B = 8, .T = 2048, .H = 12, .K = 64, .V = 64, .initial = false, .removal = 0.05}),
              bench({.B = 32, .T = 512, .H = 12, .K = 32, .V = 32, .initial = false, .removal = 0.05})},
    .checks = {{"survives extreme decays", survives_extreme_decays},
               {"survives extreme decays in tiles", survives_extreme_decays_in_tiles},
               {"leaves out strong heads", leaves_out_strong_heads},
               {"leaves out strong narrow heads", leaves_out_strong_narrow_heads},
               {"a long window keeps slow decays", a_long_window_keeps_slow_decays},
               {"a split run equals one run", a_split_run_equals_one_run},
               {"the final state alone has gradients", final_state_alone_has_gradients},
               {"refuses bad shapes", refuses_bad_shapes}},
    .huge = {example({.B = huge_rows(64 * 64 * 128), .T = 64, .H = 64, .K = 128, .V = 16, .initial = false, .removal = 0.05})},
}};

}  // namespace
}  // namespace taper::test
