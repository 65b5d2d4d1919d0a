// evaluate: of the labelled positions alone, against sums over the logits of all.
#include "apps/evaluate.h"

#include <cmath>
#include <numbers>

#include "data/tasks/mqar.h"
#include "tests/nn/small_models.h"

using namespace taper;
using namespace taper::test;

namespace {

MqarOptions recall(int64_t batch) {
  MqarOptions o;
  o.vocab = 13;
  o.sequence = 20;
  o.pairs = {1, 4};
  o.examples = 5;
  o.seed = 7;
  o.batch = batch;
  o.once = true;
  return o;
}

// Loss and accuracy from the logits of every position, a row of the softmax at a time.
Evaluation directly(const LanguageModel& model, BatchSource& source) {
  Evaluation e;
  double shares = 0;
  while (source.remaining() > 0) {
    const Batch batch = source.next();
    Tape tape = Tape::constants();
    const std::vector<double> logits = to_doubles(model.logits(tape, batch.ids, batch.packing).value);
    const std::vector<int32_t> labels = to_host<int32_t>(batch.labels);
    const int64_t B = batch.ids.size(0), T = batch.ids.size(1), V = int64_t(logits.size()) / (B * T);
    for (int64_t b = 0; b < B; ++b) {
      double right = 0, of = 0;
      for (int64_t i = b * T; i < (b + 1) * T; ++i) {
        const int32_t label = labels[size_t(i)];
        if (label == ignored_label) continue;
        const auto row = logits.begin() + i * V;
        double sum = 0;
        for (int64_t v = 0; v < V; ++v) sum += std::exp(row[v]);
        e.nll += std::log(sum) - row[label];
        right += std::max_element(row, row + V) - row == label;
        ++of;
      }
      e.tokens += int64_t(of);
      if (of > 0) ++e.examples, shares += right / of;
    }
  }
  e.accuracy = shares / double(e.examples);
  return e;
}

}  // namespace

TEST_CASE("evaluate: MQAR's loss and accuracy are those of all logits, whatever the batch") {
  for (const char* arch : {"mamba2", "gla"}) {
    LanguageModel model(small_model(arch), 4, cpu(), Dtype::f64);
    nudge(model);
    std::vector<Evaluation> got;
    for (const int64_t batch : {1, 3, 4, 10}) {  // 3, 4: the last is filled up; 3: a batch has examples of both kinds
      CAPTURE(batch);
      MqarSource one(recall(batch), cpu()), other(recall(batch), cpu());
      const Evaluation e = evaluate(model, one, {.bytes_of = {}, .accuracy = true}), want = directly(model, other);
      CHECK(e.tokens == 5 * 1 + 5 * 4);
      CHECK(e.examples == 10);
      CHECK(e.nll == doctest::Approx(want.nll).epsilon(1e-12));
      CHECK(e.accuracy == want.accuracy);
      got.push_back(e);
      MqarSource again(recall(batch), cpu());
      const Evaluation plain = evaluate(model, again, {});
      CHECK(plain.nll == e.nll);  // by the fused loss, the same products and sums
      CHECK(plain.accuracy == 0);
    }
    CHECK(got[0].accuracy > 0);
    CHECK(got[0].accuracy < 1);
    for (const Evaluation& e : got) {
      CHECK(e.accuracy == got[0].accuracy);
      CHECK(e.nll == doctest::Approx(got[0].nll).epsilon(1e-12));
    }
  }
}

TEST_CASE("evaluate: equal logits are the lower id's, and an example counts as one however many labels it has") {
  ModelConfig config = small_model("gla");
  config.tied_head = false;
  LanguageModel model(config, 4, cpu());
  model.head->value = full(cpu(), model.head->value.shape(), Dtype::f32, 0);
  struct Two final : BatchSource {  // rows with labels {0, 5, 0, 0} and {5}: id 0 is right in 3/4 of the one, in none of the other
    bool few = false;
    int64_t left = 1;
    Batch next() override {
      --left;
      std::vector<int32_t> labels(16, ignored_label), at{0, 2, 3, 7, 9}, those{0, 5, 0, 0, 5};
      for (size_t i = 0; i < at.size(); ++i) labels[size_t(at[i])] = those[i];
      Batch b{from_host(cpu(), {2, 8}, std::vector<int32_t>(16, 1)), from_host(cpu(), {2, 8}, labels), {}, 5};
      if (few) b.at = from_host(cpu(), {5}, at), b.labels_at = from_host(cpu(), {5}, those);
      return b;
    }
    Cursor cursor() const override { return {}; }
    void seek(const Cursor&) override {}
    int64_t samples_per_epoch() const override { return 2; }
    int64_t remaining() const override { return left; }
    int64_t vocab() const override { return 13; }
    std::string identity() const override { return "two"; }
  };
  for (const bool few : {false, true}) {
    Two source;
    source.few = few;
    std::vector<int64_t> bytes(13, 0);
    bytes[0] = 3, bytes[5] = 1;
    const Evaluation e = evaluate(model, source, {.bytes_of = bytes, .accuracy = true});
    CHECK(e.accuracy == 0.375);
    CHECK(e.tokens == 5);
    CHECK(e.bytes == 3 * 3 + 2 * 1);
    CHECK(e.loss() == doctest::Approx(std::log(double(model.embedding.value.size(0)))).epsilon(1e-6));
    // Positions in the window, from 1: 1, 3, 4, 8 of the first row and 2 of the second.
    REQUIRE(e.buckets.size() == 4);
    CHECK(e.buckets[0].tokens == 1);
    CHECK(e.buckets[1].tokens == 2);
    CHECK(e.buckets[2].tokens == 1);
    CHECK(e.buckets[3].tokens == 1);
    CHECK(e.buckets[3].end == 16);
  }
}
