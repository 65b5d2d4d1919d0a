// The language model in every kind: documents, decoding, padding, segments, ablations, and gradients of the whole.
#include "nn/model.h"

#include <doctest/doctest.h>

#include "autograd/gradcheck.h"
#include "autograd/trace.h"
#include "nn/prefill.h"
#include "nn/segments.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tests/nn/small_models.h"

using namespace taper;
using namespace taper::test;

namespace {

using Gradients = std::map<std::string, Tensor>;

Gradients gradients(const std::vector<Var>& roots, Dtype dtype) {
  std::vector<Tensor> seeds;
  for (const Var& r : roots) seeds.push_back(full(cpu(), r.shape(), dtype, 1));
  return backward(roots, seeds);
}

void expect_equal(const Gradients& got, const Gradients& want, double limit, const std::string& who) {
  REQUIRE(got.size() == want.size());
  for (const auto& [name, d] : want) {
    CHECK_MESSAGE(difference(to_doubles(got.at(name)), to_doubles(d)) <= limit, who << " " << name);
  }
}

std::vector<std::pair<Dtype, double>> precisions() { return {{Dtype::f64, 1e-12}, {Dtype::f32, 1e-5}}; }

}  // namespace

TEST_CASE("model: with alpha = 0, +PoST is the baseline bit for bit") {
  // Tapering off, for any number of heads; and on with one head, whose alpha is 0, so that s = 1 passes through every op.
  for (const char* arch : {"mamba2", "gdn", "gla"})
    for (const bool one_head : {false, true}) {
      ModelConfig post_config = small_model(arch, true), base_config = small_model(arch, std::string(arch) == "gla");
      base_config.post_options.spectrum = base_config.post_options.taper = false;  // gla's gate is another with PoST
      if (one_head) post_config.heads = base_config.heads = 1;
      else post_config.post_options.taper = false;
      LanguageModel post(post_config, 5, cpu()), base(base_config, 5, cpu());
      nudge(post);
      for (Parameter* p : base.parameters())
        if (!p->name.ends_with("A_log")) p->value = find(post, p->name)->value;
      for (int layer = 0; layer < 2; ++layer) {
        const std::string mixer = "layers." + std::to_string(layer) + ".mixer.", delta = std::string(arch) == "mamba2" ? "A_log_deltas" : "A_log_delta";
        find(base, mixer + "A_log")->value =
            spectral_cumsum(constant(find(post, mixer + "A_log_base")->value), constant(find(post, mixer + delta)->value)).value;
      }
      const Tensor ids = tokens(2, 100);
      Tape t1, t2;
      const Var a = base.logits(t1, ids, {}), b = post.logits(t2, ids, {});
      CHECK(to_host<float>(a.value) == to_host<float>(b.value));
      const auto g1 = gradients({sum(square(a))}, Dtype::f32), g2 = gradients({sum(square(b))}, Dtype::f32);
      for (const auto& [name, d] : g2)
        if (g1.contains(name)) CHECK_MESSAGE(to_host<float>(g1.at(name)) == to_host<float>(d), arch << " " << name);
    }
}

TEST_CASE("model: fused rooms compute what the plain graph does, forward in f32 to the bit") {
  for (const Kind& kind : kinds(true))
    for (const auto& [dtype, limit] : precisions()) {
      CAPTURE(kind.name);
      const Tensor ids = tokens(2, 40);
      std::vector<double> logits[2];
      Gradients d[2];
      for (const bool fused : {false, true}) {
        LanguageModel model(kind.config, 5, cpu(), dtype);
        model.fused = fused;
        nudge(model);
        Tape tape;
        const Var y = model.logits(tape, ids, make_packing(cpu(), 2, 40, {{13}, {7, 8}}));
        logits[fused] = to_doubles(y.value);
        d[fused] = gradients({sum(square(y))}, dtype);
      }
      CHECK(logits[true] == logits[false]);
      expect_equal(d[true], d[false], limit, kind.name);
    }
}

TEST_CASE("model: one head, or one channel, has alpha = 0 and no NaN") {
  for (const std::string& arch : architectures()) {
    ModelConfig c = small_model(arch, true);
    c.heads = 1;
    if (arch == "rwkv7") c.d_model = c.ffn_width = 1;
    LanguageModel model(c, 5, cpu());
    nudge(model);
    Tape tape;
    const Var nll = model.nll(tape, tokens(1, 9), tokens(1, 9), {});
    for (double x : to_doubles(nll.value)) CHECK(std::isfinite(x));
    for (const auto& [name, d] : gradients({nll}, Dtype::f32))
      for (double x : to_doubles(d)) REQUIRE_MESSAGE(std::isfinite(x), arch << " " << name);
    for (const HeadSpectrum& h : model.blocks[0].mixer->spectrum()) CHECK(h.alpha == 0);
  }
}

TEST_CASE("model: prefill at any split plus steps equals one pass") {
  for (const Kind& kind : kinds(true))
    for (const auto& [dtype, limit] : precisions()) {
      LanguageModel model(kind.config, 3, cpu(), dtype);
      nudge(model);
      const int64_t T = 70;
      const Tensor ids = tokens(2, T);
      Tape tape = Tape::constants();
      const Tensor whole = model.logits(tape, ids, {}).value;
      for (int64_t split : {1, 2, 3, 4, 33, 64, 65, 69}) {
        ModelState state;
        const Tensor head = model.logits(tape, piece(ids, 0, split), {}, &state).value;
        CHECK_MESSAGE(difference(to_doubles(head), columns(whole, 0, split)) <= limit, kind.name);
        CHECK(to_host<int64_t>(state.position) == std::vector<int64_t>{split, split});
        for (int64_t t = split; t < std::min(split + 5, T); ++t)  // then token by token
          CHECK_MESSAGE(difference(to_doubles(model.logits(tape, piece(ids, t, t + 1), {}, &state).value), columns(whole, t, t + 1)) <= limit,
                        kind.name << " split " << split << " token " << t);
      }
    }
}

TEST_CASE("model: left and right padding move neither state nor position") {
  for (const Kind& kind : kinds(false)) {
    LanguageModel model(kind.config, 3, cpu(), Dtype::f64);
    nudge(model);
    const int64_t T = 12;
    const std::vector<Span> spans = {{0, 12}, {5, 12}, {0, 4}, {3, 3}, {2, 9}};  // whole, left, right, nothing, both
    const Tensor ids = tokens(5, 2 * T);
    ModelState together;
    std::vector<std::vector<double>> got;
    for (const int64_t begin : {int64_t(0), T}) got.push_back(to_doubles(prefill(model, piece(ids, begin, begin + T), spans, together)));
    const int64_t V = 13;
    for (int64_t b = 0; b < 5; ++b) {
      const Span s = spans[size_t(b)];
      ModelState alone;
      Tape tape = Tape::constants();
      for (int half = 0; half < 2 && s.end > s.begin; ++half) {
        const std::vector<int32_t> all = to_host<int32_t>(ids);
        const auto row = all.begin() + b * 2 * T + half * T;
        const Tensor own = from_host<int32_t>(cpu(), {1, s.end - s.begin}, std::vector<int32_t>(row + s.begin, row + s.end));
        const std::vector<double> want = to_doubles(model.logits(tape, own, {}, &alone).value);
        const auto at = got[size_t(half)].begin() + (b * T + s.begin) * V;
        CHECK_MESSAGE(difference({at, at + int64_t(want.size())}, want) <= 1e-12, kind.name << " row " << b);
      }
      CHECK(to_host<int64_t>(together.position)[size_t(b)] == (alone.position ? item(alone.position) : 0));
      std::vector<Var> states, rows;
      alone.each([&](Var& v) { states.push_back(v); });
      together.each([&](Var& v) { rows.push_back(v); });
      for (size_t i = 0; i < states.size(); ++i)
        CHECK_MESSAGE(difference(to_doubles(rows[i].value.rows(b, b + 1)), to_doubles(states[i].value)) <= 1e-12, kind.name << " state " << i);
      if (states.empty())
        for (const Var& v : rows)
          for (double x : to_doubles(v.value.rows(b, b + 1))) REQUIRE(x == 0);
    }
  }
  LanguageModel model(small_model("gla"), 3, cpu());
  ModelState state;
  CHECK_THROWS_WITH_AS(prefill(model, tokens(1, 4), {{0, 5}}, state), "prefill: a span must lie in [0,4]; got [0,5]", Error);
}

TEST_CASE("model: a state handed to a window with documents ends at the first of them") {
  for (const Kind& kind : kinds(false)) {
    LanguageModel model(kind.config, 3, cpu(), Dtype::f64);
    nudge(model);
    const Tensor ids = tokens(1, 40);
    Tape tape = Tape::constants();
    const Tensor whole = model.logits(tape, ids, make_packing(cpu(), 1, 40, {{25}})).value;
    ModelState state;
    model.logits(tape, piece(ids, 0, 10), {}, &state);
    const Tensor tail = model.logits(tape, piece(ids, 10, 40), make_packing(cpu(), 1, 30, {{15}}), &state).value;
    CHECK_MESSAGE(difference(to_doubles(tail), columns(whole, 10, 40)) <= 1e-12, kind.name);
    CHECK(to_host<int64_t>(state.position) == std::vector<int64_t>{15});
  }
}

TEST_CASE("model: a packed batch equals its documents run alone") {
  for (const Kind& kind : kinds(true))
    for (const auto& [dtype, limit] : precisions()) {
      LanguageModel model(kind.config, 4, cpu(), dtype);
      nudge(model);
      const std::vector<int64_t> bounds = {0, 1, 2, 30, 64, 66, 100};
      const Tensor ids = tokens(1, 100);
      Tape tape;
      const Var packed = model.logits(tape, ids, make_packing(cpu(), 1, 100, {{1, 2, 30, 64, 66}}));
      std::map<std::string, std::vector<double>> sums;
      for (size_t i = 0; i + 1 < bounds.size(); ++i) {
        Tape own;
        const Var alone = model.logits(own, piece(ids, bounds[i], bounds[i + 1]), {});
        CHECK_MESSAGE(difference(to_doubles(alone.value), columns(packed.value, bounds[i], bounds[i + 1])) <= limit, kind.name);
        for (const auto& [name, d] : gradients({sum(square(alone))}, dtype)) {
          std::vector<double>& sum = sums[name];
          const std::vector<double> v = to_doubles(d);
          sum.resize(v.size());
          for (size_t k = 0; k < v.size(); ++k) sum[k] += v[k];
        }
      }
      std::vector<double> all, all_alone;
      for (const auto& [name, d] : gradients({sum(square(packed))}, dtype)) {
        const std::vector<double> v = to_doubles(d), &alone = sums.at(name);
        // In f32 a number that sums terms of both signs has no digits of its own to compare: the whole gradient has.
        if (dtype == Dtype::f64) CHECK_MESSAGE(difference(v, alone) <= 5 * limit, kind.name << " " << name);
        all.insert(all.end(), v.begin(), v.end());
        all_alone.insert(all_alone.end(), alone.begin(), alone.end());
      }
      CHECK_MESSAGE(difference(all, all_alone) <= 5 * limit, kind.name);
    }
}

TEST_CASE("model: segments with the state handed on equal one long pass, gradients included") {
  for (const Kind& kind : kinds(false)) {
    LanguageModel model(kind.config, 4, cpu(), Dtype::f64);
    nudge(model);
    const int64_t T = 36;
    const Tensor ids = tokens(2, T), labels = tokens(2, T);
    // A document that begins exactly with a segment, one inside, one at a segment's last token.
    const Packing packing = make_packing(cpu(), 2, T, {{12, 20}, {23}});
    Tape tape;
    const Var nll = model.nll(tape, ids, labels, packing);
    const Gradients want = gradients({nll}, Dtype::f64);

    Tape joined;
    ModelState state;
    std::vector<Var> parts;
    std::vector<double> values(size_t(2 * T));
    int64_t begin = 0;
    for (const Segment& s : cut_into_segments(ids, labels, packing, 3, cpu())) {
      if (s.keep) state.restart(s.keep);
      parts.push_back(model.nll(joined, s.ids, s.labels, s.packing, &state));
      CHECK_MESSAGE(difference(to_doubles(parts.back().value), columns(nll.value.reshape(Shape{2, T, 1}), begin, begin + T / 3)) <= 1e-12, kind.name);
      begin += T / 3;
    }
    CHECK(to_host<int64_t>(state.position) == std::vector<int64_t>{16, 13});
    expect_equal(gradients(parts, Dtype::f64), want, 1e-11, kind.name);
  }
}

TEST_CASE("model: a loss of some positions alone is that of all with the others ignored, gradients included") {
  const std::vector<int32_t> at{1, 6, 7, 13}, some{4, 0, 12, 9};
  std::vector<int32_t> all(14, -100);
  for (size_t i = 0; i < at.size(); ++i) all[size_t(at[i])] = some[i];
  for (const Kind& kind : kinds(false))
    for (const bool fused : {true, false}) {
      LanguageModel model(kind.config, 4, cpu(), Dtype::f64);
      nudge(model);
      model.fused = fused;
      const Tensor ids = tokens(2, 7), factor = full(cpu(), {}, Dtype::f64, 0.25);
      Tape tape, few;
      const LossResult want = model.loss(tape, ids, from_host(cpu(), {2, 7}, all), {}, {.factor = factor});
      const LossResult got = model.loss(few, ids, from_host(cpu(), {4}, some), {}, {.factor = factor, .at = from_host(cpu(), {4}, at)});
      const std::vector<double> each = to_doubles(want.nll), those = to_doubles(got.nll);
      REQUIRE(those.size() == 4);
      for (size_t i = 0; i < at.size(); ++i) CHECK(those[i] == doctest::Approx(each[size_t(at[i])]).epsilon(1e-13));
      CHECK(item(got.loss.value) == doctest::Approx(item(want.loss.value)).epsilon(1e-13));
      expect_equal(gradients({got.loss}, Dtype::f64), gradients({want.loss}, Dtype::f64), 1e-12, kind.name);
    }
}

TEST_CASE("model: the gradient of a state goes through every mixer, in and out") {
  int64_t checks = 0;
  for (const Kind& kind : kinds(false)) {
    LanguageModel model(kind.config, 4, cpu(), Dtype::f64);
    nudge(model);
    const Tensor ids = tokens(2, 7);
    ModelState before;
    Tape tape = Tape::constants();
    model.logits(tape, tokens(2, 5), {}, &before);
    std::vector<NamedTensor> inputs;
    before.each([&](Var& v) { inputs.push_back({"state" + std::to_string(inputs.size()), v.value}); });
    const auto record = gradcheck(
        [&](Tape&, const std::vector<Var>& in) {
          ModelState state = before;
          size_t i = 0;
          state.each([&](Var& v) { v = in[i++]; });
          Tape own = Tape::constants();
          std::vector<Var> outs{model.logits(own, ids, {}, &state)};
          state.each([&](Var& v) { outs.push_back(v); });
          return outs;
        },
        inputs, {.directions = 2});
    INFO(kind.name << "\n" << record.text());
    CHECK(record.worst() <= 1e-6);
    checks += record.checks();
  }
  CHECK(checks > 50);
}

TEST_CASE("model: every parameter of every kind passes gradcheck, and in every ablation") {
  std::vector<Kind> all = kinds(true);
  for (const std::string& arch : architectures())
    for (const bool spectrum : {true, false}) {
      ModelConfig c = small_model(arch, true);
      c.post_options.spectrum = spectrum;
      c.post_options.taper = !spectrum;
      all.push_back({arch + (spectrum ? "_post without taper" : "_post without spectrum"), c});
    }
  int64_t checks = 0;
  for (Kind& kind : all) {
    kind.config.tied_head = kind.name.find("mixer") == kind.name.npos;
    LanguageModel model(kind.config, 6, cpu(), Dtype::f64);
    nudge(model);
    const Tensor ids = tokens(2, 9), labels = tokens(2, 9);
    const Packing packing = make_packing(cpu(), 2, 9, {{4}, {1, 6}});
    std::vector<Parameter*> parameters;
    std::vector<NamedTensor> inputs;
    for (Parameter* p : model.parameters())
      if (p->trainable) parameters.push_back(p), inputs.push_back({p->name, p->value});
    const auto record = gradcheck(
        [&](Tape& tape, const std::vector<Var>& in) {
          for (size_t i = 0; i < in.size(); ++i) parameters[i]->value = in[i].value;
          return std::vector{model.nll(tape, ids, labels, packing)};
        },
        inputs, {.directions = 1});
    INFO(kind.name << "\n" << record.text());
    CHECK(record.worst() <= 1e-6);
    CHECK_FALSE(record.value_depends_on_recording);
    checks += record.checks();
  }
  MESSAGE("directional checks of whole blocks: " << checks);
  CHECK(checks > 1000);
}

TEST_CASE("model: the spectrum's gradient paths are the golden ones") {
  for (const std::string& arch : architectures()) {
    const std::vector<const char*> leaves = arch == "rwkv7"    ? std::vector{"w0_base", "w0_delta"}
                                            : arch == "mamba2" ? std::vector{"A_log_base", "A_log_deltas"}
                                                               : std::vector{"A_log_base", "A_log_delta"};
    std::string golden = read_file(std::string(TAPER_SOURCE_DIR) + "/tests/paths/" + arch + "_post.txt");
    for (const bool fused : {false, true}) {
      LanguageModel model(small_model(arch, true), 6, cpu(), Dtype::f64);
      model.fused = fused;
      Tape tape;
      model.nll(tape, tokens(1, 5), tokens(1, 5), {});
      std::string lines;
      for (const char* leaf : leaves)
        for (const std::string& path : paths_within(tape, "layers.0.mixer", tape.find_leaf("layers.0.mixer." + std::string(leaf)))) lines += path + "\n";
      CHECK_MESSAGE(lines == golden, arch << (fused ? " fused:\n" : ":\n") << lines);
      // Fused, the taper is made inside log_decay, and the last product adds to the stream.
      for (const auto& [apart, inside] :
           {std::pair<std::string, std::string>{"position_taper.alpha > log_decay.s", "log_decay.alpha"}, {"matmul.a\n", "matmul_add.a\n"}})
        for (size_t at = 0; (at = golden.find(apart, at)) != golden.npos; at += inside.size()) golden.replace(at, apart.size(), inside);
    }
  }
}

TEST_CASE("model: dropout of the embedding follows its draws, and only in training") {
  ModelConfig c = small_model("gla");
  c.dropout = 0.5;
  LanguageModel model(c, 6, cpu());
  const Tensor ids = tokens(1, 9);
  Tape tape = Tape::constants();
  const auto key = [](uint64_t seed) { return from_host<int64_t>(cpu(), {2}, Random(seed, "dropout").key()); };
  const Tensor one = key(1), other = key(2);
  const auto logits = [&](const Tensor& draws) { return to_host<float>(model.logits(tape, ids, {}, nullptr, draws).value); };
  CHECK(logits(one) == logits(one));
  CHECK(logits(one) != logits(other));
  CHECK(logits({}) != logits(one));
}
