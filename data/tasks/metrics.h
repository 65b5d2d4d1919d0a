// Metrics: means, their standard errors and perplexities of evaluations, to the last digit of the published harness's.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace taper {

// A sum that carries what each addition lost (Neumaier): Python's sum() of floats since 3.12.
class Sum {
 public:
  void add(double x);
  double value() const;

 private:
  double sum_ = 0, lost_ = 0;
};

double sum(std::span<const double> values);
double mean(std::span<const double> values);             // values is not empty
double sample_deviation(std::span<const double> values);  // sqrt(sum (x - mean)^2 / (n - 1)); NaN for n = 1
double mean_error(std::span<const double> values);        // sample_deviation / sqrt(n)

// exp(-mean) of log-likelihoods, and its standard error
//   bootstrap  the sample deviation over `replicates`, in blocks of 1000 (one short block stays one), each of n draws with
//              replacement; block i draws with Python's random.choices, seeded with i
//   delta      perplexity * sample_deviation / sqrt(n): the first order of the same
double perplexity(std::span<const double> log_likelihoods);
double perplexity_error_bootstrap(std::span<const double> log_likelihoods, int64_t replicates = 100000);
double perplexity_error_delta(std::span<const double> log_likelihoods);

// The Mersenne Twister as CPython's `random` seeds it with an integer: the bootstrap above is defined by its draws.
// Nothing else in this program draws from it.
class PythonRandom {
 public:
  explicit PythonRandom(uint32_t seed);
  uint32_t bits32();
  double uniform();                 // random(): [0, 1), 53 bits
  uint64_t index(uint64_t n) { return uint64_t(uniform() * double(n)); }  // of choices()

 private:
  void refill();
  std::array<uint32_t, 624> state_;
  size_t at_ = 624;
};

}  // namespace taper
