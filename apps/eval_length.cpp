// Eval's length behaviour: held-out tokens in, four tables or one JSON object out.
#include "apps/eval_length.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/eval_output.h"
#include "apps/json_text.h"
#include "apps/length_behaviour.h"
#include "apps/model_predictor.h"
#include "apps/ticker.h"
#include "apps/trained.h"
#include "data/shard.h"
#include "tensor/error.h"

namespace taper {
namespace {

using Json = nlohmann::ordered_json;

HeldOutText read_text(const Config& c, int64_t tokens, bool carry) {
  const TokenStream stream(c.data.validation, "validation", c.data.tokenizer);
  const int64_t n = tokens ? std::min(tokens + 1, stream.tokens()) : stream.tokens();
  HeldOutText text{.tokens = std::vector<int32_t>(size_t(n)), .documents = {}};
  stream.read(0, text.tokens);
  if (!carry) text.documents = stream.documents(0, n);
  if (!carry && (text.documents.empty() || text.documents[0] != 0)) text.documents.insert(text.documents.begin(), 0);
  return text;
}

Json spectrum_json(const std::vector<LayerSpectrum>& layers) {
  Json all = Json::array();
  for (const LayerSpectrum& s : layers)
    all.push_back({{"rate", s.rate}, {"time_constant", s.time_constant}, {"alpha", s.alpha}, {"least_gap", s.least_gap}, {"mean_gap", s.mean_gap},
                   {"drift", s.drift}, {"largest_drift", s.largest_drift}});
  return all;
}

std::string range_text(std::vector<double> values) {
  if (values.empty()) return "-";
  const auto [low, high] = std::ranges::minmax(values);
  return fmt::format("{:.4g} .. {:.4g}", low, high);
}

void print_tables(const LengthBehaviour& r, const std::vector<LayerSpectrum>& layers, int64_t length, int64_t passage) {
  fmt::print("{:>9} {:>9} {:>10} {:>9} {:>12}\n", "position", "to", "tokens", "loss", "perplexity");
  for (const PositionBucket& b : r.positions)
    fmt::print("{:>9} {:>9} {:>10} {:>9.4f} {:>12.3f}\n", b.begin, std::min(b.end - 1, length), b.tokens, b.nll / double(b.tokens),
        std::exp(b.nll / double(b.tokens)));
  fmt::print("\n{:>9} {:>9} {:>9} {:>18} {:>9}\n", "context", "loss", "stderr", "above the longest", "stderr");
  for (const ContextLoss& c : r.contexts) fmt::print("{:>9} {:>9.4f} {:>9.4f} {:>18.4f} {:>9.4f}\n", c.context, c.loss, c.error, c.gain, c.gain_error);
  fmt::print("effective context: {} tokens, the first within 0.01 of the longest ({} targets)\n", r.effective_context, r.targets);
  if (!r.recalls.empty()) {
    fmt::print("\n{:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "distance", "repeated", "unseen", "gain", "stderr", "right, %", "unseen, %");
    for (const Recall& x : r.recalls)
      fmt::print("{:>9} {:>9.4f} {:>9.4f} {:>9.4f} {:>9.4f} {:>9.1f} {:>9.1f}\n", x.distance, x.loss, x.unseen, x.gain, x.gain_error, 100 * x.right,
          100 * x.unseen_right);
    fmt::print("recall: a passage of {} tokens again, so many tokens later, and in the same place when it is new ({} passages)\n", passage, r.passages);
  }
  fmt::print("\n{:>5} {:>8} {:>24} {:>10} {:>10} {:>20} {:>8} {:>8}\n", "layer", "channels", "time constants", "least gap", "mean gap", "alpha", "drift",
      "largest");
  for (size_t l = 0; l < layers.size(); ++l) {
    const LayerSpectrum& s = layers[l];
    fmt::print("{:>5} {:>8} {:>24} {:>10.4g} {:>10.4g} {:>20} {:>8.3g} {:>8.3g}\n", l, s.time_constant.size(), range_text(s.time_constant), s.least_gap,
        s.mean_gap,
               range_text(s.alpha), s.drift, s.largest_drift);
  }
}

}  // namespace

void eval_length_options(CLI::App& app, EvalLengthOptions& o) {
  app.add_flag("--by-position", o.chosen,
               "Length behaviour: losses by position to 16 times the training length (or --length), by limited context, of a passage read again, and each "
               "layer's spectrum");
  app.add_option("--contexts", o.contexts, "By position: the contexts to limit to (16 32 64 ... and the whole length)")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 31));
  app.add_option("--targets", o.targets, "By position: tokens to predict with each context (128)")->check(CLI::Range(int64_t(1), int64_t(1) << 31));
  app.add_option("--passage", o.passage, "By position: tokens of a passage that is read a second time; 0: none is (32)")
      ->check(CLI::Range(int64_t(0), int64_t(1) << 31));
  app.add_option("--documents", o.documents, "By position: carry: the text as one, so that every position exists; reset: within documents (carry)")
      ->check(CLI::IsMember({"carry", "reset"}));
}

int eval_length(const EvalLengthOptions& o, const Common& common) {
  check(o.lengths.size() <= 1, Exit::usage, "eval: --by-position wants one --length; got {}", o.lengths.size());
  Device& device = open_device(o.device);
  Trained trained = load_trained(o.path, device);
  Config& c = trained.config;
  check(c.data.task == "text", Exit::bad_config, "eval: --by-position wants a model of text; {} was trained on {}", o.path, c.data.task);
  if (!o.data.empty()) c.data.validation = o.data;
  const int64_t length = o.lengths.empty() ? 16 * c.data.sequence : o.lengths[0];
  EvalOutput output(trained.checkpoint.path, o.path, o.output);
  const HeldOutText text = read_text(c, o.tokens >= 0 ? o.tokens : c.eval.tokens, o.documents == "carry");

  ModelPredictor predictor(*trained.model);
  LengthBehaviour r;
  {
    Ticker ticker("tokens");
    r = length_behaviour(predictor, text, {.length = length, .contexts = o.contexts, .targets = o.targets, .batch = o.batch ? o.batch : 4,
                                           .passage = o.passage, .progress = [&](int64_t done, int64_t all) { ticker(done, all); }});
  }
  const LanguageModel initial(c.model, uint64_t(c.run.seed), open_device("cpu"));
  const std::vector<LayerSpectrum> layers = layer_spectra(*trained.model, initial);
  Json positions = Json::array(), contexts = Json::array(), recalls = Json::array();
  for (const PositionBucket& b : r.positions) {
    const double loss = b.nll / double(b.tokens);
    positions.push_back({{"begin", b.begin}, {"end", std::min(b.end, length + 1)}, {"tokens", b.tokens}, {"loss", loss}, {"perplexity", std::exp(loss)}});
  }
  for (const ContextLoss& x : r.contexts)
    contexts.push_back({{"context", x.context}, {"loss", x.loss}, {"stderr", x.error}, {"above_longest", x.gain}, {"above_longest_stderr", x.gain_error}});
  for (const Recall& x : r.recalls)
    recalls.push_back({{"distance", x.distance}, {"loss", x.loss}, {"unseen_loss", x.unseen}, {"gain", x.gain}, {"gain_stderr", x.gain_error},
                       {"right", x.right}, {"unseen_right", x.unseen_right}});
  const Json all{{"checkpoint", trained.checkpoint.path.string()}, {"step", trained.checkpoint.step}, {"training_length", c.data.sequence},
                 {"length", length}, {"documents", o.documents}, {"by_position", positions}, {"by_context", contexts}, {"targets", r.targets},
                 {"effective_context", r.effective_context}, {"passage", o.passage}, {"passages", r.passages}, {"by_distance", recalls},
                 {"layers", spectrum_json(layers)}};
  const std::string json = json_text(all) + "\n";
  const std::string name = "by_position_" + file_time(seconds_now()) + ".json";
  if (common.json) {
    fmt::print("{}", json);
  } else {
    fmt::print("step {}, trained at {} tokens, windows of {}; documents: {}\n\n", trained.checkpoint.step, c.data.sequence, length, o.documents);
    print_tables(r, layers, length, o.passage);
  }
  output.write(name, json);
  if (!common.json && !o.output.empty()) fmt::print("{}\n", (output.directory() / name).string());
  output.say(name);
  return 0;
}

}  // namespace taper
