// Whole models on a GPU: what the CPU computes, the same bits twice, mixed precision near f32, decoding. Without a GPU
// (TAPER_TEST_DEVICE names none) each test says that it was skipped.
#include <cstdlib>

#include "tests/nn/small_models.h"

namespace taper::test {
namespace {

Device* gpu() {
  const char* name = std::getenv("TAPER_TEST_DEVICE");
  if (name && std::string_view(name).starts_with("cuda")) return &open_device(name);
  MESSAGE("skipped: no GPU");
  return nullptr;
}

// Weights, not initial values: see nudge(). The same on every device and in every dtype.
void spread(LanguageModel& model) {
  for (Parameter* p : model.parameters()) {
    std::vector<double> v = to_doubles(p->value);
    const double size = p->value.rank() > 1 ? std::sqrt(double(p->value.size(0)) / double(p->value.numel())) : 0.1;
    for (size_t i = 0; i < v.size(); ++i) v[i] = float(v[i] + size * Random(2, p->name).normal(i));
    p->value = from_doubles(p->value.device(), p->value.shape(), p->value.dtype(), v);
  }
}

Tensor on(Device& device, const Tensor& ids) { return from_host<int32_t>(device, ids.shape(), to_host<int32_t>(ids)); }

struct Step {
  double loss;
  std::vector<double> nll;
  std::map<std::string, Tensor> gradients;
};

Step step(const ModelConfig& config, Device& device, Dtype dtype, Dtype activations, bool fused, int64_t B, int64_t T) {
  LanguageModel model(config, 3, device, dtype, activations);
  model.fused = fused;
  spread(model);
  const Tensor ids = on(device, tokens(B, T, config.vocab)), labels = on(device, tokens(B, T, config.vocab));
  const Packing packing = make_packing(device, B, T, std::vector<std::vector<int64_t>>(size_t(B), {T / 3, T / 3 + 1}));
  Tape tape;
  const LossResult r = model.loss(tape, ids, labels, packing, {.factor = full(device, {}, Dtype::f64, 1 / double(B * T))});
  return {item(r.loss.value), to_doubles(r.nll), backward(r.loss, full(device, {}, r.loss.value.dtype(), 1))};
}

// Each parameter's gradient, its error against the size of all gradients together.
void check_gradients(const Step& got, const Step& want, double limit) {
  double all = 0;
  for (const auto& [name, d] : want.gradients)
    for (double x : to_doubles(d)) all += x * x;
  for (const auto& [name, d] : want.gradients) {
    REQUIRE(got.gradients.contains(name));
    const std::vector<double> a = to_doubles(got.gradients.at(name)), b = to_doubles(d);
    double e = 0;
    for (size_t i = 0; i < a.size(); ++i) e += (a[i] - b[i]) * (a[i] - b[i]);
    CHECK_MESSAGE(std::sqrt(e / all) <= limit, name << ": " << std::sqrt(e / all));
  }
}

// Wide enough for the tensor-core forms of the scans.
ModelConfig wide_model(const std::string& arch, bool post) {
  ModelConfig c = small_model(arch, post);
  c.d_model = arch == "mamba2" ? 64 : 128;
  c.heads = 2;
  if (arch == "mamba2") c.d_state = 32;
  c.ffn_width = 128;
  c.decay_rank = c.rate_rank = c.value_rank = c.gate_rank = 16;
  c.vocab = 64;
  return c;
}

TEST_CASE("gpu: loss and gradients of every model are the CPU's") {
  Device* device = gpu();
  if (!device) return;
  for (const Kind& kind : kinds(true)) {
    CAPTURE(kind.name);
    for (const bool fused : {true, false}) {
      const Step want = step(kind.config, cpu(), Dtype::f64, Dtype::f64, fused, 2, 70);
      const Step exact = step(kind.config, *device, Dtype::f64, Dtype::f64, fused, 2, 70);
      CHECK(difference(exact.nll, want.nll) <= 1e-11);
      check_gradients(exact, want, 1e-10);
      const Step plain = step(kind.config, *device, Dtype::f32, Dtype::f32, fused, 2, 70);
      CHECK(difference(plain.nll, want.nll) <= 1e-5);
      check_gradients(plain, want, 1e-4);
    }
  }
}

TEST_CASE("gpu: a model in bf16 is near the one in f64, and its bits are the same twice") {
  Device* device = gpu();
  if (!device) return;
  for (const std::string& arch : architectures())
    for (const bool post : {false, true}) {
      CAPTURE(arch);
      CAPTURE(post);
      ModelConfig config = wide_model(arch, post);
      // RetNet divides each token's y by its own size. Where q is almost at right angles to all keys so far (at a document's
      // first token: to one), that size is rounding, and with a small eps one token's gradient is hundreds of another's.
      if (arch == "retnet") config.norm_eps = 0.1;
      const Step want = step(config, cpu(), Dtype::f64, Dtype::f64, true, 2, 150);
      const Step once = step(config, *device, Dtype::f32, Dtype::bf16, true, 2, 150);
      const Step again = step(config, *device, Dtype::f32, Dtype::bf16, true, 2, 150);
      CHECK(std::abs(once.loss - want.loss) <= 5e-3 * want.loss);
      CHECK(difference(once.nll, want.nll) <= 3e-2);
      check_gradients(once, want, 5e-2);
      CHECK(once.nll == again.nll);
      for (const auto& [name, d] : once.gradients) {
        CHECK(d.dtype() == Dtype::f32);
        CHECK_MESSAGE(to_doubles(d) == to_doubles(again.gradients.at(name)), name);
      }
    }
}

TEST_CASE("gpu: prefill and steps equal one pass") {
  Device* device = gpu();
  if (!device) return;
  for (const Kind& kind : kinds(false)) {
    CAPTURE(kind.name);
    LanguageModel model(kind.config, 3, *device, Dtype::f64);
    spread(model);
    const int64_t T = 70, split = 65;
    const Tensor ids = tokens(2, T);
    Tape tape = Tape::constants();
    const Tensor whole = model.logits(tape, on(*device, ids), {}).value;
    ModelState state;
    CHECK(difference(to_doubles(model.logits(tape, on(*device, piece(ids, 0, split)), {}, &state).value), columns(whole, 0, split)) <= 1e-12);
    for (int64_t t = split; t < T; ++t)
      CHECK(difference(to_doubles(model.logits(tape, on(*device, piece(ids, t, t + 1)), {}, &state).value), columns(whole, t, t + 1)) <= 1e-12);
  }
}

}  // namespace
}  // namespace taper::test
