// The trainer: what a step's loss is, that it repeats, and what the guard says of a bad one.
#include "apps/trainer.h"

#include <doctest/doctest.h>

#include <fmt/ranges.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "apps/evaluate.h"
#include "apps/plan.h"
#include "apps/sources.h"
#include "tensor/error.h"
#include "tensor/parallel.h"
#include "tests/apps/tiny.h"

using namespace taper;

namespace {

// Batches from a list of ids; labels are the next token, the first `skip` of a batch are ignored.
class Fixed final : public BatchSource {
 public:
  Fixed(int64_t batch, int64_t length, std::vector<int64_t> skip) : batch_(batch), length_(length), skip_(std::move(skip)) {}
  Batch next() override {
    std::vector<int32_t> ids, labels;
    const int64_t skip = skip_[size_t(at_) % skip_.size()];
    for (int64_t i = 0; i < batch_ * length_; ++i) {
      const int64_t t = int64_t(at_) * batch_ * length_ + i;
      ids.push_back(int32_t(t * t % 11));
      labels.push_back(i < skip ? ignored_label : int32_t((t + 1) * (t + 1) % 11));
    }
    ++at_;
    Device& cpu = open_device("cpu");
    return {from_host(cpu, {batch_, length_}, ids), from_host(cpu, {batch_, length_}, labels), {}, batch_ * length_ - skip};
  }
  Cursor cursor() const override { return {0, at_}; }
  void seek(const Cursor& c) override { at_ = c.index; }
  int64_t samples_per_epoch() const override { return 1000; }
  int64_t remaining() const override { return -1; }
  int64_t vocab() const override { return 11; }
  std::string identity() const override { return "fixed"; }

 private:
  int64_t batch_, length_;
  std::vector<int64_t> skip_;
  uint64_t at_ = 0;
};

// Batches of two documents a row, the second at a place of its own in each batch; a count of labels of its own too.
class Documents final : public BatchSource {
 public:
  Documents(int64_t batch, int64_t length, Device& device, uint64_t until = 1000)
      : batch_(batch), length_(length), device_(device), until_(until) {}
  Batch next() override {
    std::vector<int32_t> ids, labels;
    std::vector<std::vector<int64_t>> starts;
    int64_t labelled = 0;
    for (int64_t b = 0; b < batch_; ++b) starts.push_back({1 + (int64_t(at_) + b) % (length_ - 1)});
    for (int64_t i = 0; i < batch_ * length_; ++i) {
      const int64_t t = int64_t(at_) * batch_ * length_ + i;
      const bool ignored = i % 5 == int64_t(at_ % 7);
      ids.push_back(int32_t(t * t % 11));
      labels.push_back(ignored ? ignored_label : int32_t((t + 1) * (t + 1) % 11));
      labelled += !ignored;
    }
    const bool packed = at_++ < until_;
    return {from_host(device_, {batch_, length_}, ids), from_host(device_, {batch_, length_}, labels),
            packed ? make_packing(device_, batch_, length_, starts) : Packing{}, labelled};
  }
  Cursor cursor() const override { return {0, at_}; }
  void seek(const Cursor& c) override { at_ = c.index; }
  int64_t samples_per_epoch() const override { return 1000; }
  int64_t remaining() const override { return -1; }
  int64_t vocab() const override { return 11; }
  std::string identity() const override { return "documents"; }

 private:
  int64_t batch_, length_;
  Device& device_;
  uint64_t until_, at_ = 0;
};

Config config(int64_t batch, int64_t accumulate, const std::vector<std::string>& set = {}) {
  Config c = parse_config("[model]\npost = true\nd_model = 8\nlayers = 1\nheads = 2\nhead_dim = 8\nd_state = 4\nvocab = 11\n"
                          "[data]\nsequence = 6\n[train]\nsteps = 20\n[schedule]\nwarmup = 0\n", "test", set);
  c.train.batch = batch;
  c.train.accumulate = accumulate;
  return c;
}

Trainer make(const Config& c, std::vector<int64_t> skip = {0}) {
  return Trainer(c, open_device("cpu"), std::make_unique<Fixed>(c.train.batch, c.data.sequence, skip));
}

std::vector<double> weights(Trainer& t) {
  std::vector<double> all;
  for (const Parameter* p : t.model.parameters())
    for (double x : to_doubles(p->value)) all.push_back(x);
  return all;
}

// The mean of the losses of the labelled positions, from the model alone.
double mean_loss(const LanguageModel& model, const std::vector<Batch>& batches, bool by_token) {
  double sum = 0, tokens = 0, means = 0;
  for (const Batch& b : batches) {
    Tape tape = Tape::constants();
    double nll = 0;
    for (double x : to_doubles(model.nll(tape, b.ids, b.labels, b.packing).value)) nll += x;
    sum += nll;
    tokens += double(b.labelled);
    means += nll / double(b.labelled) / double(batches.size());
  }
  return by_token ? sum / tokens : means;
}

}  // namespace

TEST_CASE("trainer: the step's loss is the mean over all labelled tokens, or over micro-batches") {
  for (const bool by_token : {true, false}) {
    const Config c = config(2, 3, {by_token ? "train.loss_average=token" : "train.loss_average=micro"});
    Trainer t = make(c, {0, 7, 2});
    Fixed again(2, 6, {0, 7, 2});
    const std::vector<Batch> batches{again.next(), again.next(), again.next()};
    const double want = mean_loss(t.model, batches, by_token);
    t.step();
    CHECK(t.numbers().loss == doctest::Approx(want).epsilon(1e-6));
    CHECK(t.numbers().step == 1);
  }
}

TEST_CASE("trainer: one batch of four rows is two micro-batches of two") {
  Trainer whole = make(config(4, 1)), parts = make(config(2, 2));
  for (int i = 0; i < 3; ++i) whole.step(), parts.step();
  CHECK(whole.numbers().loss == doctest::Approx(parts.numbers().loss).epsilon(1e-5));
  CHECK(whole.numbers().norm == doctest::Approx(parts.numbers().norm).epsilon(1e-4));
  CHECK(whole.tokens_per_step() == parts.tokens_per_step());
}

TEST_CASE("trainer: segments that are not truncated equal one long pass; truncated ones take less memory and another way") {
  for (const char* arch : {"mamba2", "rwkv7"}) {
    const auto trained = [&](int64_t segments, bool truncate) {
      Config c = config(2, 2, {std::string("model.arch=") + arch, "model.head_dim=0", fmt::format("train.bptt_segments={}", segments),
                               fmt::format("train.bptt_truncate={}", truncate)});
      Trainer t = make(c, {0, 7, 2});
      for (int i = 0; i < 3; ++i) t.step();
      return std::pair{t.numbers(), weights(t)};
    };
    const auto [whole, weights_whole] = trained(1, true);
    const auto [flowing, weights_flowing] = trained(3, false);
    const auto [cut, weights_cut] = trained(3, true);
    CHECK(flowing.loss == doctest::Approx(whole.loss).epsilon(1e-5));
    CHECK(flowing.norm == doctest::Approx(whole.norm).epsilon(1e-4));
    CHECK(cut.norm != doctest::Approx(whole.norm).epsilon(1e-4));
  }
  CHECK_THROWS_WITH(config(2, 1, {"train.bptt_segments=4"}), "config test: train.bptt_segments must divide data.sequence = 6; got 4");

  // The peak of a step, on the plan device: weights and moments stay, activations are those of a quarter.
  const auto peak = [&](int64_t segments) {
    const Config c = parse_config("[model]\nd_model = 32\nlayers = 2\nheads = 2\nd_state = 8\nvocab = 64\n[data]\nsequence = 512\n[train]\nbatch = 4\n",
                                  "test", {fmt::format("train.bptt_segments={}", segments)});
    return plan_run(c).step_peak;
  };
  CHECK(peak(4) < 0.4 * double(peak(1)));
}

TEST_CASE("trainer: values made again in backward are the ones kept, and take less memory") {
  for (const std::string arch : {"mamba2", "gdn", "gla", "retnet", "rwkv7"}) {
    const auto set = [&](bool recompute) {
      return std::vector{"model.arch=" + arch, std::string("model.head_dim=0"), fmt::format("train.recompute={}", recompute)};
    };
    const auto trained = [&](bool recompute) {
      Trainer t = make(config(2, 1, set(recompute)));
      for (int i = 0; i < 3; ++i) t.step();
      return weights(t);
    };
    CHECK(trained(true) == trained(false));
    const auto peak = [&](bool recompute) {
      std::vector<std::string> keys = set(recompute);
      for (const char* key : {"model.d_model=64", "model.layers=2", "data.sequence=256"}) keys.push_back(key);
      return plan_run(config(2, 1, keys)).step_peak;
    };
    CAPTURE(arch);
    CHECK(peak(true) < (arch == "mamba2" || arch == "gdn" ? 0.9 : 0.97) * double(peak(false)));  // the others have no convolution
  }
}

TEST_CASE("trainer: any number of threads gives the same bits, and the loss falls") {
  const int before = thread_count();
  std::vector<std::vector<double>> results;
  double first = 0, last = 0;
  for (int threads : {1, 2, 3}) {
    set_thread_count(threads);
    Trainer t = make(config(4, 2, {"optimizer.lr=1e-2"}));
    t.step();
    first = t.numbers().loss;
    while (!t.done()) t.step();
    last = t.numbers().loss;
    results.push_back(weights(t));
  }
  set_thread_count(before);
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
  CHECK(last < 0.95 * first);
}

TEST_CASE("trainer: a bad step changes no weight; after five the replay names the first bad tensor") {
  Trainer t = make(config(2, 2));
  t.step();
  const std::vector<double> good = weights(t);
  // One weight of the second token's embedding: the logits of all tokens see it.
  std::vector<double> table = to_doubles(t.model.embedding.value);
  const std::vector<double> kept = table;
  table[9] = std::numeric_limits<double>::infinity();
  copy_into(t.model.embedding.value, from_doubles(t.device, t.model.embedding.value.shape(), Dtype::f32, table));
  for (int i = 0; i < 4; ++i) t.step();
  CHECK(!t.diverged());
  CHECK(!std::isfinite(t.numbers().loss));
  t.step();
  CHECK(t.diverged());
  CHECK(t.first_bad() == "embedding.weight (parameter)");
  copy_into(t.model.embedding.value, from_doubles(t.device, t.model.embedding.value.shape(), Dtype::f32, kept));
  CHECK(weights(t) == good);
  CHECK(t.first_bad() == "none: a replay of the steps was finite");
}

TEST_CASE("trainer: finite weights that overflow are caught in the forward pass, by name") {
  Trainer t = make(config(2, 1));
  for (Parameter* p : t.model.parameters())
    if (p->name == "layers.0.mixer.in_proj.weight") copy_into(p->value, full(t.device, p->value.shape(), Dtype::f32, 3e38));
  for (int i = 0; i < 5; ++i) t.step();
  CHECK(t.diverged());
  CHECK(t.first_bad() == "layers.0.mixer/project.y0 (forward, step 1, micro-batch 1)");
}

TEST_CASE("trainer: a checkpoint continues bit for bit, and only on its own data") {
  test::Scratch scratch;
  Trainer whole = make(config(2, 2)), first = make(config(2, 2)), second = make(config(2, 2));
  for (int i = 0; i < 9; ++i) whole.step();
  for (int i = 0; i < 4; ++i) first.step();
  first.save(scratch / "checkpoints", {{"metrics_bytes", 17}, {"spectra_bytes", 5}});
  const auto saved = latest_checkpoint(scratch / "checkpoints");
  REQUIRE(saved.has_value());
  CHECK(saved->values == std::map<std::string, int64_t>{{"metrics_bytes", 17}, {"spectra_bytes", 5}});
  second.resume(*saved);
  CHECK(second.steps() == 4);
  for (int i = 0; i < 5; ++i) second.step();
  CHECK(weights(second) == weights(whole));

  Checkpoint other = *saved;
  other.state = "{\"config\": \"\", \"data\": \"shuffled\", \"epoch\": 0, \"index\": 4}";
  CHECK_THROWS_WITH_AS(second.resume(other), doctest::Contains("the run was trained on 'shuffled'; the data now are 'fixed'"), Error);
  other.state = "{\"data\": \"fixed\", \"epoch\": 0}";
  CHECK_THROWS_WITH_AS(second.resume(other), doctest::Contains("state.json: 'index' is missing or of the wrong type"), Error);
}

// Metrics and weights of steps with and without a graph. On a GPU where TAPER_TEST_DEVICE names one: there the work is launched
// as a CUDA graph; elsewhere the calls of its kernels are kept and made again.
TEST_CASE("trainer: a recorded step gives the same bits, in every form of a step, and so does a resumed one") {
  const char* name = std::getenv("TAPER_TEST_DEVICE");
  if (!name) MESSAGE("skipped on a GPU: TAPER_TEST_DEVICE names none; run on the CPU");
  Device& device = open_device(name ? name : "cpu");
  test::Scratch scratch;
  const std::string smaller = "model.head_dim=0";
  std::vector<std::vector<std::string>> forms = {
      {}, {"model.dropout=0.3"}, {"train.accumulate=3", "train.loss_average=micro"}, {"model.arch=rwkv7", smaller}, {"model.arch=gdn", smaller},
      {"model.arch=gla", smaller, "train.bptt_segments=3", "model.dropout=0.1"}, {"model.arch=retnet", smaller, "model.post=false"},
      {"post.spectrum=false"}, {"model.arch=rwkv7", smaller, "post.spectrum=false", "train.bptt_segments=2", "train.bptt_truncate=false"},
      {"model.fusion=none"}};
  if (device.kind() == DeviceKind::cuda) forms.push_back({"train.precision=bf16"});
  for (const std::vector<std::string>& form : forms) {
    CAPTURE(fmt::format("{}", fmt::join(form, " ")));
    const auto config_of = [&](bool graph) {
      std::vector<std::string> set = form;
      set.push_back(fmt::format("train.graph={}", graph));
      Config c = config(2, 1, set);
      c.train.accumulate = form.size() == 2 && form[0] == "train.accumulate=3" ? 3 : 1;
      return c;
    };
    const auto source = [&](const Config& c) { return std::make_unique<Documents>(c.train.batch, c.data.sequence, device); };
    const auto trained = [&](bool graph, int stop, const std::optional<Checkpoint>& from) {
      const Config c = config_of(graph);
      Trainer t(c, device, source(c));
      if (from) t.resume(*from);
      std::vector<double> seen;
      while (t.steps() < stop) {
        t.step();
        seen.insert(seen.end(), {t.numbers().loss, t.numbers().norm, t.numbers().lr});
      }
      const std::vector<double> w = weights(t);
      seen.insert(seen.end(), w.begin(), w.end());
      if (stop == 4) t.save(scratch / fmt::format("{}-{}", &form - forms.data(), graph), {});
      return seen;
    };
    CHECK(trained(true, 9, {}) == trained(false, 9, {}));
    CHECK(trained(true, 4, {}) == trained(false, 4, {}));
    const auto saved = latest_checkpoint(scratch / fmt::format("{}-true", &form - forms.data()));
    REQUIRE(saved.has_value());
    const std::vector<double> whole = trained(false, 9, {}), rest = trained(true, 9, saved);
    REQUIRE(rest.size() < whole.size());
    CHECK(std::equal(rest.begin(), rest.end(), whole.end() - int64_t(rest.size())));
  }
}

TEST_CASE("trainer: batches of another form are recorded anew, and a plan counts a recorded step") {
  const auto trained = [&](bool graph) {
    const Config c = config(2, 1, {fmt::format("train.graph={}", graph)});
    Trainer t(c, open_device("cpu"), std::make_unique<Documents>(2, 6, open_device("cpu"), 4));  // from the fourth batch on: without documents
    for (int i = 0; i < 9; ++i) t.step();
    return weights(t);
  };
  CHECK(trained(true) == trained(false));

  const auto peak = [&](const char* graph) {
    return double(plan_run(parse_config("[model]\nd_model = 64\nlayers = 4\nheads = 2\nd_state = 16\nvocab = 64\n[data]\nsequence = 512\n[train]\nbatch = 4\n",
                                        "test", {graph})).step_peak);
  };
  CHECK(peak("train.graph=true") >= peak("train.graph=false"));
  CHECK(peak("train.graph=true") <= 1.03 * peak("train.graph=false"));
}

TEST_CASE("trainer: MQAR's stages, of more labels each, are one recorded step; the loss is the mean over all labels") {
  const auto config_of = [&](bool graph) {
    return config(3, 2,
                  {fmt::format("train.graph={}", graph), "data.task=mqar", "data.sequence=16", "mqar.vocab=11", "mqar.pairs=[1, 2, 4]", "mqar.examples=20"});
  };
  const auto trained = [&](bool graph) {  // stages of 20 in two batches of 3 a step: steps of two kinds in between, then the next epoch
    Trainer t(config_of(graph), open_device("cpu"), training_source(config_of(graph), open_device("cpu")));
    std::vector<double> losses;
    const auto again = training_source(config_of(graph), open_device("cpu"));
    for (int i = 0; i < 12; ++i) {
      const double want = mean_loss(t.model, {again->next(), again->next()}, true);
      t.step();
      losses.push_back(t.numbers().loss);
      CHECK(losses.back() == doctest::Approx(want).epsilon(1e-6));
    }
    return std::pair(losses, weights(t));
  };
  CHECK(trained(true) == trained(false));
}

TEST_CASE("trainer: bf16 wants a GPU, a small vocabulary is refused") {
  CHECK_THROWS_WITH_AS(make(config(2, 1, {"train.precision=bf16"})),
                       "config: train.precision = \"bf16\" wants a GPU; this run is on cpu; use \"f32\"", Error);
  CHECK_THROWS_WITH_AS(make(config(2, 1, {"model.vocab=10"})), "config: model.vocab must be at least the data's 11; got 10", Error);
}

TEST_CASE("plan: counts what a step on the CPU allocates, byte for byte") {
  const Config c = config(3, 2, {"data.task=mqar", "mqar.vocab=11", "mqar.pairs=[1]", "mqar.examples=8", "mqar.eval_sequence=[4, 12]",
                                 "mqar.eval_pairs=[1, 3]", "mqar.eval_examples=1"});
  const Plan plan = plan_run(c);
  Device& cpu = open_device("cpu");
  const size_t before = cpu.bytes_live();
  cpu.reset_peak();
  {
    Trainer t(c, cpu, training_source(c, cpu));
    t.step();
    t.step();
    CHECK(plan.parameters == t.model.parameter_count());
    CHECK(plan.step_peak == int64_t(cpu.bytes_peak() - before));
    t.rest();
    cpu.reset_peak();
    for (size_t i = 0; i < 2; ++i) {
      const int64_t T = c.mqar.eval_sequence[i];
      evaluate(t.model, *held_out_source(c, {.length = T, .batch = batch_for_length(c, T), .pairs = c.mqar.eval_pairs[i]}, cpu),
               {.bytes_of = {}, .accuracy = true});
    }
    CHECK(plan.eval_peak == int64_t(cpu.bytes_peak() - before));
  }
  CHECK(plan.moments >= 2 * 4 * plan.trainable);
  CHECK(plan.resident() > plan.step_peak);
}
