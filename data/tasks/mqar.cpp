// MQAR: one example from (seed, split, epoch, index).
#include "data/tasks/mqar.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include "tensor/error.h"
#include "tensor/random.h"

namespace taper {
namespace {

constexpr double a = 0.01;  // how strongly early gaps are preferred

// Each use of an example's random numbers has its own range of indices.
enum Use : uint64_t { keys, values, gaps, rest };
constexpr uint64_t at(Use use, int64_t i) { return uint64_t(use) << 32 | uint64_t(i); }

// A random order of [low, high), of which the first k are drawn.
std::vector<int32_t> draw(const Random& random, Use use, int32_t low, int32_t high, int64_t k) {
  std::vector<int32_t> out(size_t(high - low));
  std::iota(out.begin(), out.end(), low);
  for (int64_t i = 0; i < k; ++i)
    std::swap(out[size_t(i)], out[size_t(i) + random.below(at(use, i), out.size() - uint64_t(i))]);
  return out;
}

class Examples final : public Samples {
 public:
  explicit Examples(const MqarOptions& o) : o_(o) {
    check(o.sequence >= 1 && o.vocab >= 4 && o.vocab <= int64_t(1) << 30 && o.examples >= 1 && !o.pairs.empty(),
          Exit::bad_config,
          "mqar: wants vocab in [4,2^30], sequence, examples >= 1 and pairs; got vocab {}, sequence {}, examples {}, "
          "{} segments of pairs", o.vocab, o.sequence, o.examples, o.pairs.size());
    for (const int64_t K : o.pairs) {
      check(1 <= K && K <= o.sequence / 4, Exit::bad_config,
            "mqar: wants 1 <= pairs and 4 pairs <= sequence; got {} pairs, sequence {}", K, o.sequence);
      check(K <= o.vocab / 2 - 1, Exit::bad_config,
            "mqar: wants pairs <= vocab/2 - 1, the number of keys; got {} pairs, vocab {}", K, o.vocab);
    }
  }
  int64_t count() const override { return o_.examples * int64_t(o_.pairs.size()); }
  int64_t sequence() const override { return o_.sequence; }
  bool resets() const override { return false; }
  int64_t vocab() const override { return o_.vocab; }
  int64_t labels() const override { return std::ranges::max(o_.pairs); }
  bool concurrent() const override { return true; }
  std::string identity() const override {
    std::string pairs;
    for (const int64_t K : o_.pairs) pairs += fmt::format("{}{}", pairs.empty() ? "" : ",", K);
    return fmt::format("mqar {} vocab {} sequence {} pairs {} examples {} seed {}{}", o_.split, o_.vocab, o_.sequence,
                       pairs, o_.examples, o_.seed, o_.fresh ? " fresh" : "");
  }

  void fill(uint64_t epoch, uint64_t index, const Row& row) override {
    const int64_t K = o_.pairs[index / uint64_t(o_.examples)], T = o_.sequence, space = (T - 2 * K) / 2;
    const int32_t n = int32_t(o_.vocab);
    const Random random(Random(o_.seed, "mqar." + o_.split).bits(o_.fresh ? epoch : 0), index);
    const std::vector<int32_t> key = draw(random, keys, 1, n / 2, K), value = draw(random, values, n / 2, n, K);
    // Drawing without replacement by weight: the K largest of log weight + Gumbel noise, in falling order.
    std::vector<std::pair<double, int64_t>> gap;
    gap.reserve(size_t(space));
    for (int64_t i = 0; i < space; ++i)
      gap.emplace_back((a - 1) * std::log(double(i + 1)) - std::log(-std::log(random.uniform(at(gaps, i)))), i);
    std::ranges::nth_element(gap, gap.begin() + (K - 1), std::greater());
    std::sort(gap.begin(), gap.begin() + K, std::greater());
    for (int64_t i = 0; i < K; ++i) {
      const size_t k = size_t(i), query = size_t(2 * (K + gap[k].second));
      row.ids[2 * k] = row.ids[query] = key[k];
      row.ids[2 * k + 1] = row.labels[query] = value[k];
    }
    for (int64_t t = 0; t < T; ++t)
      if (row.ids[size_t(t)] == 0) row.ids[size_t(t)] = int32_t(random.below(at(rest, t), uint64_t(n)));
  }

 private:
  const MqarOptions o_;
};

}  // namespace

MqarSource::MqarSource(const MqarOptions& options, Device& device)
    : Loader(std::make_unique<Examples>(options), options, device) {}

}  // namespace taper
