// PostSpectrum and HeadDecay: where they start, and the ops they feed.
#include "nn/spectrum.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"
#include "tensor/random.h"

namespace taper {
namespace {

struct Ends {
  double slowest, fastest;  // rates
};

Ends ends_of(const ModelConfig& c) {
  const double T = double(c.train_length);
  if (c.arch == "mamba2") return {1 / (0.05 * T), 1 / 0.05};  // steps are frozen at 0.05
  if (c.arch == "rwkv7") return {1 / T, std::exp(-0.5) / (1 + std::exp(-0.5))};
  if (c.arch == "gdn") return {1, T};
  if (c.arch == "retnet" && !c.post_options.data_dependent) return {1 / T, 1};
  return {1, 16};
}

double to_parameter(const ModelConfig& c, double rate) {
  if (c.arch != "rwkv7") return std::log(rate);
  check(rate < std::exp(-0.5), Exit::bad_config, "post: a rate of rwkv7 must be < 0.6065, where its sigmoid ends; got {}", rate);
  return -std::log(std::exp(-0.5) / rate - 1);
}

// log of a rate drawn evenly from (0, 16) (specification 1.1).
Draw fill_a_log() {
  return fill_each([](const Random& random, uint64_t i) { return std::log(16 * random.uniform(i)); });
}

}  // namespace

PostSpectrum::PostSpectrum(const ModelConfig& config, const Init& init, const SpectrumNames& names, int64_t N) {
  Ends ends = ends_of(config);
  if (config.post_options.slowest_rate > 0) ends.slowest = config.post_options.slowest_rate;
  if (config.post_options.fastest_rate > 0) ends.fastest = config.post_options.fastest_rate;
  check(N == 1 || ends.slowest < ends.fastest, Exit::bad_config,
        "post: the slowest rate must be < the fastest; got {} and {} at train_length {}; set slowest_rate or fastest_rate", ends.slowest,
        ends.fastest, config.train_length);
  const double first = to_parameter(config, ends.slowest), last = to_parameter(config, ends.fastest);
  theta = init.make(names.theta, {}, fill_constant(first));
  // The reference adds 1e-6 inside the logarithm; expm1 keeps small gaps exact.
  const double gap = N > 1 ? (last - first) / double(N - 1) : 1;
  delta = init.make(names.delta, {N - 1}, fill_constant(std::log(std::expm1(gap) + 1e-6)));
}

Var PostSpectrum::rates(Tape& tape) const {
  const Var t = leaf(tape, theta);
  return spectral_cumsum(t, leaf(tape, delta));
}

Tensor even_exponents(Device& device, int64_t N, Dtype dtype) {
  std::vector<double> alpha(size_t(N), 0.0);
  for (int64_t k = 0; k + 1 < N; ++k) alpha[size_t(k)] = 1 - double(k) / double(N - 1);
  return from_doubles(device, {N}, dtype, alpha);
}

double inverse_softplus(double y) { return y + std::log(-std::expm1(-y)); }

Draw fill_dt_bias() {
  return fill_each([](const Random& random, uint64_t i) {
    const double drawn = std::exp(std::log(0.001) + random.uniform(i) * (std::log(0.1) - std::log(0.001)));
    return inverse_softplus(std::max(drawn, 1e-4));
  });
}

HeadDecay::HeadDecay(const ModelConfig& config, const Init& init, const char* delta_name, const Tensor& fixed)
    : config_(config), fixed_(fixed) {
  if (config.post && config.post_options.spectrum) spectrum_.emplace(config, init, SpectrumNames{"A_log_base", delta_name}, config.heads);
  else if (!fixed) a_log_ = init.make("A_log", {config.heads}, fill_a_log());
  if (config.post && config.post_options.taper && !spectrum_) even_ = even_exponents(init.device(), config.heads, init.dtype());
}

Var HeadDecay::rates(Tape& tape) const {
  return spectrum_ ? spectrum_->rates(tape) : a_log_ ? leaf(tape, *a_log_) : constant(fixed_);
}

Var HeadDecay::exponents(Tape& tape) const {
  if (!config_.post || !config_.post_options.taper) return {};
  if (spectrum_) return taper_exponent(leaf(tape, spectrum_->delta), double(config_.train_length));
  return constant(even_);
}

Var HeadDecay::operator()(Tape& tape, const Var& dt, int64_t B, int64_t T, const Packing& packing, bool fused) const {
  const Var p = rates(tape);
  const Var alpha = exponents(tape);
  if (alpha && fused) return tapered_log_decay(p, dt, alpha, B, T, packing, config_.post_options.position_reference);
  Var s = alpha ? position_taper(alpha, B, T, packing, config_.post_options.position_reference) : Var{};
  if (!dt && !s) s = constant(full(p.value.device(), {B, T, config_.heads}, p.value.dtype(), 1));
  return log_decay(p, dt, s);
}

void HeadDecay::each(const Visit& visit) {
  if (a_log_) visit(*a_log_);
  if (spectrum_) spectrum_->each(visit);
}

std::vector<HeadSpectrum> HeadDecay::report(const Tensor& dt_bias) const {
  Tape tape = Tape::constants();
  const std::vector<double> p = to_doubles(rates(tape).value);
  const Var alpha = exponents(tape);
  const std::vector<double> exponent = alpha ? to_doubles(alpha.value) : std::vector<double>(p.size(), 0.0);
  std::vector<double> dt(p.size(), 1.0);
  if (dt_bias) {
    const std::vector<double> bias = to_doubles(dt_bias);
    const size_t channels = bias.size() / p.size();
    for (size_t h = 0; h < p.size(); ++h) {
      double sum = 0;
      for (size_t n = 0; n < channels; ++n) sum += std::log1p(std::exp(bias[h * channels + n]));
      dt[h] = sum / double(channels);
    }
  }
  std::vector<HeadSpectrum> heads;
  for (size_t h = 0; h < p.size(); ++h) {
    const double rate = std::exp(p[h]);
    heads.push_back({.rate = rate, .time_constant = 1 / (rate * dt[h]), .alpha = exponent[h]});
  }
  return heads;
}

}  // namespace taper
