// Sampling: sort, cut, normalise, draw by one Philox number per position.
#include "apps/sample.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tensor/error.h"
#include "tensor/ops/argmax.h"
#include "tensor/random.h"

namespace taper {
namespace {

void check_largest(double logit) {
  check(std::isfinite(logit), Exit::bad_data, "generate: the model's logits must be finite; the largest is {}", logit);
}

}  // namespace

std::vector<int32_t> likeliest(const Tensor& logits, int64_t vocab) {
  const Tensor best(logits.device(), {logits.size(0)}, Dtype::i32);
  kernels::argmax({.x = logits, .y = best, .among = vocab});
  return to_host<int32_t>(best);
}

int32_t next_token(const Tensor& logits, int64_t vocab, const Sampling& sampling, int64_t position) {
  if (sampling.temperature > 0) return sample(std::span<const double>(to_doubles(logits)).first(size_t(vocab)), sampling, position);
  const int32_t id = likeliest(logits, vocab)[0];
  check_largest(item(logits.reshape(Shape{logits.numel()}).rows(id, id + 1)));
  return id;
}

int32_t sample(std::span<const double> logits, const Sampling& sampling, int64_t position) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::ranges::stable_sort(ids, [&](int32_t a, int32_t b) { return logits[size_t(a)] > logits[size_t(b)]; });
  const double best = logits[size_t(ids[0])];
  check_largest(best);

  if (sampling.top_k > 0 && size_t(sampling.top_k) < ids.size()) ids.resize(size_t(sampling.top_k));
  std::vector<double> weight(ids.size());
  double total = 0;
  for (size_t i = 0; i < ids.size(); ++i) total += weight[i] = std::exp((logits[size_t(ids[i])] - best) / sampling.temperature);
  if (sampling.top_p < 1) {
    double kept = 0;
    size_t n = 0;
    while (n < ids.size() && (n == 0 || kept < sampling.top_p * total)) kept += weight[n++];
    ids.resize(n);
    total = kept;
  }
  double left = Random(uint64_t(sampling.seed), "generate").uniform(uint64_t(position)) * total;
  for (size_t i = 0; i + 1 < ids.size(); ++i)
    if ((left -= weight[i]) < 0) return ids[i];
  return ids.back();
}

}  // namespace taper
