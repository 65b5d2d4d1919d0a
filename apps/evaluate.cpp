// Evaluation: sums on the host, in f64 and in the order of the data.
#include "apps/evaluate.h"

#include <bit>
#include <cmath>
#include <numbers>

#include "tensor/error.h"
#include "tensor/ops/argmax.h"

namespace taper {

double Evaluation::bits_per_byte() const { return nll / std::numbers::ln2 / double(bytes); }

std::vector<int64_t> bytes_of_tokens(const Tokenizer& tokenizer) {
  std::vector<int64_t> bytes;
  for (int32_t id = 0; id < tokenizer.vocab(); ++id) bytes.push_back(tokenizer.special(id) ? 0 : int64_t(tokenizer.bytes_of(id).size()));
  return bytes;
}

Judged judge(const LanguageModel& model, const Batch& batch, bool accuracy) {
  Judged j{.tokens = batch.ids.shape(), .at = batch.at, .labels = batch.wanted(), .nll = {}, .best = {}};
  Tape tape = Tape::constants();
  if (!accuracy) {
    j.nll = model.loss(tape, batch.ids, j.labels, batch.packing, {.at = j.at}).nll;
    return j;
  }
  const Var logits = model.head_logits(tape, model.rows_at(model.trunk(tape, batch.ids, batch.packing), j.at));
  j.nll = cross_entropy(logits, j.labels).value;
  j.best = empty_like(j.labels);
  kernels::argmax({.x = logits.value, .y = j.best});
  return j;
}

namespace {

void take(Evaluation& e, double& accuracy, const Judged& j, const EvaluateOptions& options) {
  const int64_t B = j.tokens[0], T = j.tokens[1];
  const std::vector<double> nll = to_doubles(j.nll);
  const auto ids = [](const Tensor& t) { return t ? to_host<int32_t>(t) : std::vector<int32_t>{}; };
  const std::vector<int32_t> labels = ids(j.labels), at = ids(j.at), best = ids(j.best);
  std::vector<int64_t> labelled(static_cast<size_t>(B)), right(static_cast<size_t>(B));
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] == ignored_label) continue;
    const int64_t position = at.empty() ? int64_t(i) : at[i], t = position % T;
    const size_t row = size_t(position / T), bucket = size_t(std::bit_width(uint64_t(t + 1)) - 1);
    ++labelled[row];
    e.nll += nll[i];
    if (!options.bytes_of.empty()) e.bytes += options.bytes_of.at(size_t(labels[i]));
    while (e.buckets.size() <= bucket) {
      const int64_t begin = int64_t(1) << e.buckets.size();
      e.buckets.push_back({.begin = begin, .end = 2 * begin});
    }
    ++e.buckets[bucket].tokens;
    e.buckets[bucket].nll += nll[i];
    if (!best.empty()) right[row] += best[i] == labels[i];
  }
  for (size_t row = 0; row < labelled.size(); ++row) {
    e.tokens += labelled[row];
    if (labelled[row]) ++e.examples, accuracy += double(right[row]) / double(labelled[row]);
  }
}

constexpr int64_t most_waiting = int64_t(1) << 18;  // labels

}  // namespace

Evaluation evaluate(const LanguageModel& model, BatchSource& source, const EvaluateOptions& options) {
  Evaluation e;
  double accuracy = 0;
  std::vector<Judged> waiting;  // not read batch by batch: a device that the host waits for has no next batch to do
  int64_t labels = 0;
  const auto read = [&] {
    for (const Judged& j : waiting) take(e, accuracy, j, options);
    waiting.clear();
    labels = 0;
  };
  while (source.remaining() > 0) {
    waiting.push_back(judge(model, source.next(), options.accuracy));
    labels += waiting.back().labels.numel();
    if (labels >= most_waiting) read();
  }
  read();
  check(e.tokens > 0, Exit::bad_data, "eval: the held-out data have no labels");
  e.accuracy = accuracy / double(e.examples);
  return e;
}

}  // namespace taper
