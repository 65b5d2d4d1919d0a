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

Evaluation evaluate(const LanguageModel& model, BatchSource& source, const EvaluateOptions& options) {
  Evaluation e;
  double accuracy = 0;
  while (source.remaining() > 0) {
    const Batch batch = source.next();
    const int64_t B = batch.ids.size(0), T = batch.ids.size(1);
    Tape tape = Tape::constants();
    std::vector<double> nll;
    std::vector<int32_t> likeliest;
    if (options.accuracy) {
      const Var logits = model.logits(tape, batch.ids, batch.packing);
      nll = to_doubles(cross_entropy(logits, batch.labels).value);
      const Tensor best(logits.value.device(), {B * T}, Dtype::i32);
      kernels::argmax({.x = logits.value.reshape(Shape{B * T, logits.size(2)}), .y = best});
      likeliest = to_host<int32_t>(best);
    } else {
      nll = to_doubles(model.loss(tape, batch.ids, batch.labels, batch.packing, {}).nll);
    }
    const std::vector<int32_t> labels = to_host<int32_t>(batch.labels);
    for (int64_t b = 0; b < B; ++b) {
      int64_t labelled = 0, right = 0;
      for (int64_t t = 0; t < T; ++t) {
        const int64_t i = b * T + t;
        const int32_t label = labels[size_t(i)];
        if (label == ignored_label) continue;
        ++labelled;
        e.nll += nll[size_t(i)];
        if (!options.bytes_of.empty()) e.bytes += options.bytes_of.at(size_t(label));
        const size_t bucket = size_t(std::bit_width(uint64_t(t + 1)) - 1);
        while (e.buckets.size() <= bucket) {
          const int64_t begin = int64_t(1) << e.buckets.size();
          e.buckets.push_back({.begin = begin, .end = 2 * begin});
        }
        ++e.buckets[bucket].tokens;
        e.buckets[bucket].nll += nll[size_t(i)];
        if (options.accuracy) right += likeliest[size_t(i)] == label;
      }
      e.tokens += labelled;
      if (labelled) ++e.examples, accuracy += double(right) / double(labelled);
    }
  }
  check(e.tokens > 0, Exit::bad_data, "eval: the held-out data have no labels");
  e.accuracy = accuracy / double(e.examples);
  return e;
}

}  // namespace taper
