// length_behaviour: positions and contexts by a predictor whose losses are formulas of both.
#include "apps/length_behaviour.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tensor/error.h"

using namespace taper;

namespace {

// The loss of a token is a function of how many the model read before it, and of the token.
class Known final : public Predictor {
 public:
  static double loss(int64_t read, int32_t token) { return 8.0 / double(std::min<int64_t>(read, 100)) + 0.01 * token; }
  int64_t most = 0;
  std::vector<std::vector<TokenScore>> ask(std::span<const Question> questions, Softmax) override {
    std::vector<std::vector<TokenScore>> all;
    most = std::max(most, int64_t(questions.size()));
    for (const Question& q : questions) {
      all.emplace_back();
      for (size_t i = 0; i < q.targets.size(); ++i)
        all.back().push_back({-loss(int64_t(q.input.size() - q.targets.size() + i + 1), q.targets[i]), false});
    }
    return all;
  }
};

HeldOutText text(int64_t n, std::vector<int64_t> documents = {}) {
  HeldOutText t;
  for (int64_t i = 0; i < n; ++i) t.tokens.push_back(int32_t(i % 7));
  t.documents = std::move(documents);
  return t;
}

}  // namespace

TEST_CASE("positions: every token of the windows once, in its power of two") {
  Known model;
  const HeldOutText t = text(1001);
  const LengthBehaviour r = length_behaviour(model, t, {.length = 300, .contexts = {10}, .targets = 4, .batch = 2});
  CHECK(model.most == 2);
  int64_t total = 0;
  for (const PositionBucket& b : r.positions) {
    double want = 0;
    int64_t tokens = 0;
    for (int64_t i = 1; i <= 1000; ++i) {
      const int64_t position = (i - 1) % 300 + 1;
      if (b.begin <= position && position < b.end) want += Known::loss(position, t.tokens[size_t(i)]), ++tokens;
    }
    CHECK(b.tokens == tokens);
    CHECK(b.nll == doctest::Approx(want).epsilon(1e-13));
    total += b.tokens;
  }
  CHECK(total == 1000);
  CHECK(r.positions.back().begin == 256);
}

TEST_CASE("documents: each begins anew, cut at the window's length; short ones count") {
  Known model;
  const HeldOutText t = text(1000, {0, 1, 3, 600});
  const LengthBehaviour r = length_behaviour(model, t, {.length = 256, .contexts = {300 - 50}, .targets = 1000, .batch = 3});
  int64_t total = 0;
  for (const PositionBucket& b : r.positions) total += b.tokens;
  CHECK(total == 0 + 1 + 256 + 256);
  CHECK(r.positions[0].tokens == 3);
  CHECK(r.targets == (597 - 250) + (400 - 250));  // those with 250 before them in their document
}

TEST_CASE("contexts: the same targets behind exactly c tokens, their gains paired, and the effective one") {
  Known model;
  const HeldOutText t = text(700);
  const LengthBehaviour r = length_behaviour(model, t, {.length = 512, .contexts = {}, .targets = 50, .batch = 7});
  REQUIRE(r.contexts.size() == 6);
  CHECK(r.targets == 50);
  double tokens = 0;  // of the targets: position 512 + k 188 / 50
  for (int64_t k = 0; k < 50; ++k) tokens += t.tokens[size_t(512 + k * 188 / 50)];
  for (size_t i = 0; i < 6; ++i) {
    const int64_t c = int64_t(16) << i;
    CHECK(r.contexts[i].context == c);
    CHECK(r.contexts[i].loss == doctest::Approx(Known::loss(c, 0) + 0.01 * tokens / 50).epsilon(1e-13));
    CHECK(r.contexts[i].gain == doctest::Approx(Known::loss(c, 0) - 0.08).epsilon(1e-10));
    CHECK(r.contexts[i].gain_error < 1e-14);  // paired: the tokens' own differences cancel
    CHECK(r.contexts[i].error > 1e-4);
  }
  CHECK(r.effective_context == 128);  // 8/64 is 0.045 above 8/100, 128 reads more than 100
}

TEST_CASE("recalls: a passage again after d tokens, by a model that copies what it read at most 100 tokens ago") {
  class Copier final : public Predictor {
   public:
    std::vector<std::vector<TokenScore>> ask(std::span<const Question> questions, Softmax) override {
      std::vector<std::vector<TokenScore>> all;
      for (const Question& q : questions) {
        all.emplace_back();
        for (size_t i = 0; i < q.targets.size(); ++i) {
          const size_t last = q.input.size() - q.targets.size() + i;
          bool seen = false;
          for (size_t k = last > 100 ? last - 100 : 0; k < last; ++k) seen |= q.input[k] == q.input[last] && q.input[k + 1] == q.targets[i];
          all.back().push_back({seen ? -1.0 - 0.001 * q.targets[i] : -4.0 - 0.001 * q.targets[i], seen});
        }
      }
      return all;
    }
  } model;
  HeldOutText t;
  for (int32_t i = 0; i < 1500; ++i) t.tokens.push_back(i);
  int64_t done = 0, all = 0;
  const LengthBehaviour r = length_behaviour(
      model, t, {.length = 256, .contexts = {10}, .targets = 20, .batch = 7, .passage = 8, .progress = [&](int64_t d, int64_t a) { done = d, all = a; }});
  CHECK(done == all);
  REQUIRE(r.recalls.size() == 5);  // 8, ... 128: two passages and 256 do not fit
  CHECK(r.passages == 20);
  for (size_t i = 0; i < 5; ++i) {
    const Recall& x = r.recalls[i];
    const int64_t d = int64_t(8) << i, last = 1500 - 8 - d;
    double token = 0;  // the mean of those asked for
    for (int64_t k = 0; k < 20; ++k) token += double(k * last / 19) + 4;
    CHECK(x.distance == d);
    CHECK(x.unseen == doctest::Approx(4 + 0.001 * token / 20).epsilon(1e-13));
    CHECK(x.gain == doctest::Approx(d + 8 <= 100 ? 3.0 : 0.0).epsilon(1e-12));
    CHECK(x.loss == doctest::Approx(x.unseen - x.gain).epsilon(1e-13));
    CHECK(x.gain_error < 1e-14);
    CHECK(x.right == (d + 8 <= 100 ? 1.0 : 0.0));
    CHECK(x.unseen_right == 0.0);
  }
  CHECK(length_behaviour(model, t, {.length = 256, .contexts = {10}, .targets = 20, .passage = 0}).recalls.empty());
  t.tokens.resize(60);  // one place alone is none to average over
  CHECK(length_behaviour(model, t, {.length = 256, .contexts = {10}, .targets = 20, .passage = 8}).recalls.size() == 3);
}

TEST_CASE("what the data cannot give is said") {
  Known model;
  const auto message = [&](const HeldOutText& t, const LengthOptions& o) -> std::string {
    try {
      length_behaviour(model, t, o);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  CHECK(message(text(1), {}) == "eval: positions want held-out text of at least 2 tokens; there are 1");
  CHECK(message(text(100),
      {.length = 100}) == "eval: a context of 100 tokens wants a text that long in the held-out data; give shorter --contexts, or a shorter --length");
  CHECK(message(text(1000, {0, 50}), {.length = 960}).find("wants a document that long") != std::string::npos);
  CHECK(message(text(100), {.length = 50, .contexts = {10, 51}}) == "eval: --contexts must lie in [1,50], the window; got 10 to 51");
}

TEST_CASE("layer_spectra: gaps and drift are those of the time constants") {
  Device& cpu = open_device("cpu");
  ModelConfig c;
  c.arch = "mamba2", c.post = true;
  c.d_model = 32, c.layers = 2, c.heads = 4, c.head_dim = 16, c.d_state = 16, c.vocab = 50, c.train_length = 64;
  const LanguageModel a(c, 3, cpu), b(c, 3, cpu);
  for (const LayerSpectrum& s : layer_spectra(a, b)) {
    REQUIRE(s.time_constant.size() == 4);
    CHECK(s.drift == 0);
    CHECK(s.largest_drift == 0);
    CHECK(s.alpha[0] == doctest::Approx(1));
  }
  LanguageModel moved(c, 3, cpu);
  moved.each([&](Parameter& p) {
    if (p.name.find("A_log_base") != std::string::npos) p.value = from_doubles(cpu, p.value.shape(), p.value.dtype(), std::vector<double>{item(p.value) - 0.5});
  });
  const auto s = layer_spectra(moved, a);
  for (size_t l = 0; l < 2; ++l) {
    CHECK(s[l].drift == doctest::Approx(0.5).epsilon(1e-4));  // every log rate by as much
    CHECK(s[l].largest_drift == doctest::Approx(0.5).epsilon(1e-4));
    std::vector<double> logs;
    for (const double t : s[l].time_constant) logs.push_back(std::log(t));
    std::ranges::sort(logs);
    CHECK(s[l].mean_gap == doctest::Approx((logs[3] - logs[0]) / 3));
    CHECK(s[l].least_gap == doctest::Approx(std::min({logs[1] - logs[0], logs[2] - logs[1], logs[3] - logs[2]})));
  }
}
