// Metrics: sums in the order of the documents.
#include "data/tasks/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/error.h"
#include "tensor/parallel.h"

namespace taper {

void Sum::add(double x) {
  const double t = sum_ + x;
  lost_ += std::abs(sum_) >= std::abs(x) ? (sum_ - t) + x : (x - t) + sum_;
  sum_ = t;
}
double Sum::value() const { return std::isfinite(lost_) ? sum_ + lost_ : sum_; }  // infinity - infinity says nothing

double sum(std::span<const double> values) {
  Sum s;
  for (const double v : values) s.add(v);
  return s.value();
}

double mean(std::span<const double> values) {
  check(!values.empty(), "metrics: a mean wants at least one value; got none");
  return sum(values) / double(values.size());
}

double sample_deviation(std::span<const double> values) {
  if (values.size() < 2) return std::numeric_limits<double>::quiet_NaN();
  const double m = mean(values);
  Sum s;
  for (const double v : values) s.add((v - m) * (v - m));
  return std::sqrt(s.value() / double(values.size() - 1));
}

double mean_error(std::span<const double> values) { return sample_deviation(values) / std::sqrt(double(values.size())); }

double perplexity(std::span<const double> log_likelihoods) { return std::exp(-mean(log_likelihoods)); }

double perplexity_error_delta(std::span<const double> log_likelihoods) { return perplexity(log_likelihoods) * mean_error(log_likelihoods); }

double perplexity_error_bootstrap(std::span<const double> log_likelihoods, int64_t replicates) {
  const int64_t chunk = std::min<int64_t>(1000, replicates), blocks = replicates / chunk;
  const size_t n = log_likelihoods.size();
  std::vector<double> means(size_t(blocks * chunk));
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      PythonRandom random{uint32_t(block)};
      for (int64_t i = 0; i < chunk; ++i) {
        Sum s;
        for (size_t k = 0; k < n; ++k) s.add(log_likelihoods[size_t(random.index(n))]);
        means[size_t(block * chunk + i)] = std::exp(-(s.value() / double(n)));
      }
    }
  });
  return sample_deviation(means);
}

// The generator of Matsumoto and Nishimura (1998), seeded by their init_by_array with a key of one word.
PythonRandom::PythonRandom(uint32_t seed) {
  constexpr size_t n = 624;
  state_[0] = 19650218u;
  for (size_t i = 1; i < n; ++i) state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + uint32_t(i);
  size_t i = 1;
  const auto next = [&] {
    if (++i >= n) state_[0] = state_[n - 1], i = 1;
  };
  for (size_t k = 0; k < n; ++k, next()) state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1664525u)) + seed;
  for (size_t k = 0; k + 1 < n; ++k, next()) state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1566083941u)) - uint32_t(i);
  state_[0] = 0x80000000u;
}

void PythonRandom::refill() {
  for (size_t i = 0; i < 624; ++i) {
    const uint32_t y = (state_[i] & 0x80000000u) | (state_[(i + 1) % 624] & 0x7fffffffu);
    state_[i] = state_[(i + 397) % 624] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0u);
  }
  at_ = 0;
}

uint32_t PythonRandom::bits32() {
  if (at_ == 624) refill();
  uint32_t y = state_[at_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

double PythonRandom::uniform() {
  const uint32_t a = bits32() >> 5, b = bits32() >> 6;
  return (double(a) * 67108864.0 + double(b)) / 9007199254740992.0;
}

}  // namespace taper
