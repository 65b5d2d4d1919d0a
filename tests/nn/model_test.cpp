// The language model: sizes, initial values, documents, decoding, ablations, and gradients of the whole.
#include "nn/model.h"

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>

#include "autograd/gradcheck.h"
#include "autograd/trace.h"
#include "tensor/error.h"
#include "tensor/random.h"

using namespace taper;

namespace {

Device& cpu() { return open_device("cpu"); }

constexpr const char* archs[] = {"mamba2", "gdn"};

ModelConfig small(bool post, const std::string& arch = "mamba2") {
  ModelConfig c;
  c.arch = arch;
  c.post = post;
  c.d_model = 24;
  c.layers = 2;
  c.heads = 6;
  c.head_dim = arch == "mamba2" ? 8 : 4;
  c.d_state = 5;
  c.vocab = 31;
  c.train_length = 64;
  return c;
}

Tensor tokens(int64_t B, int64_t T, int64_t vocab = 31) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < B * T; ++i) ids.push_back(int32_t(Random(1, "tokens").below(uint64_t(i), uint64_t(vocab))));
  return from_host<int32_t>(cpu(), {B, T}, ids);
}

// Off the initial values, so that zero biases, even gaps and equal weights hide nothing; weights as large
// as their inputs are many, so that norms do not divide by almost nothing.
void nudge(LanguageModel& model) {
  for (Parameter* p : model.parameters()) {
    std::vector<double> v = to_doubles(p->value);
    const double size = p->value.rank() > 1 ? std::sqrt(double(p->value.size(0)) / double(p->value.numel())) : 0.1;
    for (size_t i = 0; i < v.size(); ++i) v[i] += size * Random(2, p->name).normal(i);
    p->value = from_doubles(cpu(), p->value.shape(), p->value.dtype(), v);
  }
}

Parameter* find(LanguageModel& model, const std::string& name) {
  for (Parameter* p : model.parameters())
    if (p->name == name) return p;
  FAIL("no parameter " << name);
  return nullptr;
}

std::vector<double> columns(const Tensor& t, int64_t begin, int64_t end) {  // [B,T,V] -> times [begin,end)
  const std::vector<double> all = to_doubles(t);
  std::vector<double> part;
  const int64_t T = t.size(1), V = t.size(2);
  for (int64_t b = 0; b < t.size(0); ++b)
    part.insert(part.end(), all.begin() + (b * T + begin) * V, all.begin() + (b * T + end) * V);
  return part;
}

double difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double d = 0, n = 0;
  for (size_t i = 0; i < a.size(); ++i) d += (a[i] - b[i]) * (a[i] - b[i]), n += b[i] * b[i];
  return std::sqrt(d / n);
}

Tensor piece(const Tensor& ids, int64_t begin, int64_t end) {  // [B,T] i32
  const std::vector<int32_t> all = to_host<int32_t>(ids);
  std::vector<int32_t> part;
  for (int64_t b = 0; b < ids.size(0); ++b)
    part.insert(part.end(), all.begin() + b * ids.size(1) + begin, all.begin() + b * ids.size(1) + end);
  return from_host<int32_t>(cpu(), {ids.size(0), end - begin}, part);
}

}  // namespace

TEST_CASE("model: parameter counts are the specification's") {
  struct Row {
    const char *arch, *size;
    int64_t with_128256, with_50280;  // vocabulary; gdn rounds the second up to 50288
  };
  for (const Row& r : {Row{"mamba2", "180m", 188869056, 128983488}, {"mamba2", "440m", 448185856, 368338432},
                       {"mamba2", "880m", 899920128, 780148992}, {"mamba2", "1.5b", 1503435776, 1343740928},
                       {"gdn", "180m", 212288544, 152409120}, {"gdn", "440m", 535623424, 455784192},
                       {"gdn", "880m", 1106008704, 986249856}, {"gdn", "1.5b", 1878113792, 1718435328}})
    for (const char* post : {"_", "_post_"})  // the spectrum has as many numbers as the rates it replaces
      for (const auto& [vocab, want] : {std::pair<int64_t, int64_t>{128256, r.with_128256}, {50280, r.with_50280}}) {
        ModelConfig c = model_preset(std::string(r.arch) + post + r.size);
        c.vocab = vocab;
        LanguageModel model(c, 0, open_device("plan"));
        CHECK_MESSAGE(model.parameter_count() == want, r.arch << post << r.size << " with vocabulary " << vocab);
      }
}

TEST_CASE("model: bad sizes and names are one line each") {
  CHECK_THROWS_WITH_AS(model_preset("mamba3_180m"),
                       "model: no preset is called 'mamba3_180m'; there are mamba2_180m, mamba2_440m, mamba2_880m, mamba2_1.5b, "
                       "mamba2_post_180m, mamba2_post_440m, mamba2_post_880m, mamba2_post_1.5b, gdn_180m, gdn_440m, gdn_880m, gdn_1.5b, "
                       "gdn_post_180m, gdn_post_440m, gdn_post_880m, gdn_post_1.5b", Error);
  ModelConfig c = small(false);
  c.heads = 5;
  CHECK_THROWS_WITH_AS(check_model_config(c), "model: heads * head_dim must be 2 * d_model = 48 for mamba2; got 5 * 8 = 40", Error);
  c.arch = "lstm";
  CHECK_THROWS_WITH_AS(check_model_config(c), "model: arch must be mamba2 or gdn; got 'lstm'", Error);
}

TEST_CASE("model: initial values of +PoST") {  // specification 4.1
  ModelConfig c = model_preset("mamba2_post_180m");
  c.layers = 1;
  c.vocab = 32;
  LanguageModel model(c, 1, cpu());
  CHECK(to_doubles(find(model, "layers.0.mixer.A_log_base")->value)[0] == doctest::Approx(-4.628887).epsilon(1e-6));
  CHECK(to_doubles(find(model, "layers.0.mixer.A_log_deltas")->value)[7] == doctest::Approx(-0.933782).epsilon(1e-5));
  CHECK(to_doubles(find(model, "layers.0.mixer.dt_bias")->value)[3] == doctest::Approx(-2.970628).epsilon(1e-6));
  CHECK_FALSE(find(model, "layers.0.mixer.dt_bias")->trainable);
  const auto heads = model.blocks[0].mixer->spectrum();
  REQUIRE(heads.size() == 24);
  for (size_t k = 0; k < 24; ++k) CHECK(heads[k].alpha == doctest::Approx(1 - double(k) / 23).epsilon(1e-5));
  CHECK(heads.front().time_constant == doctest::Approx(2048).epsilon(1e-3));  // base rate at dt = 0.05: 1/T ... 1
  CHECK(heads.back().time_constant == doctest::Approx(1).epsilon(1e-3));
}

TEST_CASE("model: initial values of the baseline lie in their ranges and depend on name and seed only") {
  ModelConfig c = small(false);
  LanguageModel a(c, 1, cpu()), b(c, 1, cpu()), other(c, 2, cpu());
  for (double x : to_doubles(find(a, "layers.1.mixer.A_log")->value)) CHECK((std::exp(x) > 0 && std::exp(x) < 16));
  for (double x : to_doubles(find(a, "layers.1.mixer.dt_bias")->value)) {
    const double dt = std::log1p(std::exp(x));
    CHECK((dt >= 0.00099 && dt <= 0.1001));
  }
  const double bound = 1 / std::sqrt(48.0) / std::sqrt(2.0);
  double largest = 0;
  for (double x : to_doubles(find(a, "layers.0.mixer.out_proj.weight")->value)) largest = std::max(largest, std::abs(x));
  CHECK(largest <= bound);
  CHECK(largest > 0.95 * bound);
  CHECK(to_doubles(a.embedding.value) == to_doubles(b.embedding.value));
  CHECK(to_doubles(a.embedding.value) != to_doubles(other.embedding.value));
  c.layers = 1;  // another order of construction, the same values
  LanguageModel shallow(c, 1, cpu());
  CHECK(to_doubles(find(shallow, "layers.0.mixer.in_proj.weight")->value) == to_doubles(find(a, "layers.0.mixer.in_proj.weight")->value));
}

TEST_CASE("model: with alpha = 0, +PoST is the baseline bit for bit") {
  // Tapering off, for any number of heads; and on with one head, whose alpha is 0, so that s = 1 passes through every op.
  for (const bool one_head : {false, true}) {
    ModelConfig post_config = small(true), base_config = small(false);
    if (one_head) {
      for (ModelConfig* c : {&post_config, &base_config}) c->heads = 1, c->head_dim = 48;
    } else {
      post_config.post_options.taper = false;
    }
    LanguageModel post(post_config, 5, cpu()), base(base_config, 5, cpu());
    nudge(post);
    for (Parameter* p : base.parameters()) {
      if (p->name.ends_with("A_log")) continue;
      p->value = find(post, p->name)->value;
    }
    Tape constants = Tape::constants();
    for (int layer = 0; layer < 2; ++layer) {
      const std::string mixer = "layers." + std::to_string(layer) + ".mixer.";
      find(base, mixer + "A_log")->value = spectral_cumsum(constant(find(post, mixer + "A_log_base")->value),
                                                           constant(find(post, mixer + "A_log_deltas")->value)).value;
    }
    const Tensor ids = tokens(2, 100);
    Tape t1, t2;
    const Var a = base.logits(t1, ids, {}), b = post.logits(t2, ids, {});
    CHECK(to_host<float>(a.value) == to_host<float>(b.value));
    const auto g1 = backward(sum(square(a)), full(cpu(), {}, Dtype::f32, 1)), g2 = backward(sum(square(b)), full(cpu(), {}, Dtype::f32, 1));
    for (const auto& [name, d] : g2)
      if (g1.contains(name)) CHECK_MESSAGE(to_host<float>(g1.at(name)) == to_host<float>(d), name);
  }
}

TEST_CASE("model: prefill at any split plus steps equals one pass") {
  for (const auto& [arch, post] : {std::pair{"mamba2", false}, {"mamba2", true}, {"gdn", false}, {"gdn", true}})
    for (const auto& [dtype, limit] : {std::pair{Dtype::f64, 1e-12}, {Dtype::f32, 1e-5}}) {
      LanguageModel model(small(post, arch), 3, cpu(), dtype);
      nudge(model);
      const int64_t T = 70;
      const Tensor ids = tokens(2, T);
      Tape tape = Tape::constants();
      const Tensor whole = model.logits(tape, ids, {}).value;
      for (int64_t split : {1, 2, 3, 4, 33, 64, 65, 69}) {
        ModelState state;
        const Tensor head = model.logits(tape, piece(ids, 0, split), {}, &state).value;
        CHECK(difference(to_doubles(head), columns(whole, 0, split)) <= limit);
        CHECK(state.position == std::vector<int64_t>{split, split});
        std::vector<double> steps;
        for (int64_t t = split; t < std::min(split + 5, T); ++t)  // then token by token
          CHECK(difference(to_doubles(model.logits(tape, piece(ids, t, t + 1), {}, &state).value), columns(whole, t, t + 1)) <= limit);
      }
    }
}

TEST_CASE("model: a state handed to a window with documents ends at the first of them") {
  LanguageModel model(small(true), 3, cpu(), Dtype::f64);
  nudge(model);
  const Tensor ids = tokens(1, 40);
  Tape tape = Tape::constants();
  const Tensor whole = model.logits(tape, ids, make_packing(cpu(), 1, 40, {{25}})).value;
  ModelState state;
  model.logits(tape, piece(ids, 0, 10), {}, &state);
  const Tensor tail = model.logits(tape, piece(ids, 10, 40), make_packing(cpu(), 1, 30, {{15}}), &state).value;
  CHECK(difference(to_doubles(tail), columns(whole, 10, 40)) <= 1e-12);
  CHECK(state.position == std::vector<int64_t>{15});
}

TEST_CASE("model: a packed batch equals its documents run alone") {
  for (const auto& [arch, post] : {std::pair{"mamba2", false}, {"mamba2", true}, {"gdn", false}, {"gdn", true}})
    for (const auto& [dtype, limit] : {std::pair{Dtype::f64, 1e-12}, {Dtype::f32, 1e-5}}) {
      LanguageModel model(small(post, arch), 4, cpu(), dtype);
      nudge(model);
      const std::vector<int64_t> bounds = {0, 1, 2, 30, 64, 66, 100};
      const Tensor ids = tokens(1, 100);
      Tape tape;
      const Var packed = model.logits(tape, ids, make_packing(cpu(), 1, 100, {{1, 2, 30, 64, 66}}));
      std::map<std::string, std::vector<double>> sums;
      for (size_t i = 0; i + 1 < bounds.size(); ++i) {
        Tape own;
        const Var alone = model.logits(own, piece(ids, bounds[i], bounds[i + 1]), {});
        CHECK(difference(to_doubles(alone.value), columns(packed.value, bounds[i], bounds[i + 1])) <= limit);
        for (const auto& [name, d] : backward(sum(square(alone)), full(cpu(), {}, dtype, 1))) {
          std::vector<double>& sum = sums[name];
          const std::vector<double> v = to_doubles(d);
          sum.resize(v.size());
          for (size_t k = 0; k < v.size(); ++k) sum[k] += v[k];
        }
      }
      for (const auto& [name, d] : backward(sum(square(packed)), full(cpu(), {}, dtype, 1)))
        CHECK_MESSAGE(difference(to_doubles(d), sums.at(name)) <= 5 * limit, name);
    }
}

TEST_CASE("model: every parameter of the block passes gradcheck, in every ablation") {
  int64_t checks = 0;
  for (const char* arch : archs)
    for (const auto& [post, spectrum, taper] : {std::array{false, false, false}, {true, true, true}, {true, true, false}, {true, false, true}}) {
      ModelConfig c = small(post, arch);
      c.post_options.spectrum = spectrum;
      c.post_options.taper = taper;
      LanguageModel model(c, 6, cpu(), Dtype::f64);
      nudge(model);
      const Tensor ids = tokens(2, 19), labels = tokens(2, 19);
      const Packing packing = make_packing(cpu(), 2, 19, {{7}, {1, 12}});
      std::vector<Parameter*> parameters;
      std::vector<NamedTensor> inputs;
      for (Parameter* p : model.parameters())
        if (p->trainable) parameters.push_back(p), inputs.push_back({p->name, p->value});
      const auto record = gradcheck(
          [&](Tape& tape, const std::vector<Var>& in) {
            for (size_t i = 0; i < in.size(); ++i) parameters[i]->value = in[i].value;
            return std::vector{model.nll(tape, ids, labels, packing)};
          },
          inputs, {.directions = 3});
      INFO(record.text());
      CHECK(record.worst() <= 1e-6);
      CHECK_FALSE(record.value_depends_on_recording);
      checks += record.checks();
    }
  MESSAGE("directional checks of whole blocks: " << checks);
  CHECK(checks > 500);
}

TEST_CASE("model: the spectrum's gradient paths are the golden ones") {
  for (const std::string arch : archs) {
    LanguageModel model(small(true, arch), 6, cpu(), Dtype::f64);
    Tape tape;
    model.nll(tape, tokens(1, 5), tokens(1, 5), {});
    std::string lines;
    for (const char* leaf : {"A_log_base", arch == "mamba2" ? "A_log_deltas" : "A_log_delta"})
      for (const std::string& path : paths_within(tape, "layers.0.mixer", tape.find_leaf("layers.0.mixer." + std::string(leaf)))) lines += path + "\n";
    std::ifstream file(std::string(TAPER_SOURCE_DIR) + "/tests/paths/" + arch + "_post.txt");
    const std::string golden((std::istreambuf_iterator<char>(file)), {});
    CHECK(lines == golden);
  }
}
