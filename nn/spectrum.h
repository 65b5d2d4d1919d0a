// PostSpectrum: decay rates that stay ordered, theta + cumsum(softplus(delta)). HeadDecay: what the heads of a mixer
// forget by, baseline and +PoST. Specification 4.
#pragma once
#include <optional>

#include "nn/layers.h"
#include "nn/mixer.h"

namespace taper {

struct SpectrumNames {  // what the reference's checkpoints call them
  const char *theta, *delta;
};

struct PostSpectrum {
  Parameter theta;  // []     the slowest; index 0
  Parameter delta;  // [N-1]  gaps before softplus

  // N numbers evenly spaced between the architecture's ends, or those of post.slowest_rate and post.fastest_rate:
  //   p = log rate        mamba2 1/(0.05 T) .. 1/0.05, gdn 1 .. T, gla 1 .. 16, retnet 1/T .. 1      (T: train_length)
  //   p = logit of a rate rwkv7 1/T .. 0.3775, where rate = e^(-1/2) sigmoid(p)
  // Rates are per token, or per unit of the step where there is one. Errors (78): a slowest that is not slower.
  PostSpectrum(const ModelConfig& config, const Init& init, const SpectrumNames& names, int64_t N);

  Var rates(Tape& tape) const;  // p [N]
  void each(const Visit& visit) { visit(theta), visit(delta); }
};

// The exponents of evenly spaced log rates, 1 - k/(N-1): tapering without the spectrum. alpha [N]
Tensor even_exponents(Device& device, int64_t N, Dtype dtype);

double inverse_softplus(double y);  // y > 0
// softplus^-1 of a step drawn evenly in its logarithm from 0.001 to 0.1 (specification 1.1).
Draw fill_dt_bias();

// l = -exp(p) dt s, one p for each head.
//   baseline            p = A_log, drawn, or `fixed`, which no training changes; s = 1
//   +PoST               p from the spectrum, s = t^-alpha with alpha from its gaps
//   without spectrum    p as in the baseline, alpha even;   without taper: s = 1
class HeadDecay {
 public:
  HeadDecay(const ModelConfig& config, const Init& init, const char* delta_name, const Tensor& fixed = {});
  // dt [B,T,H] or [B,T,H,K]; absent: 1. -> l of dt's shape, or [B,T,H]
  Var operator()(Tape& tape, const Var& dt, int64_t B, int64_t T, const Packing& packing, bool fused) const;
  void each(const Visit& visit);
  // dt_bias [H] or [H K]: steps are softplus of it; absent: 1.
  std::vector<HeadSpectrum> report(const Tensor& dt_bias) const;

 private:
  Var rates(Tape& tape) const;      // p [H]
  Var exponents(Tape& tape) const;  // alpha [H]; absent without tapering
  const ModelConfig config_;
  Tensor fixed_, even_;  // even_: the exponents without a spectrum
  std::optional<Parameter> a_log_;
  std::optional<PostSpectrum> spectrum_;
};

}  // namespace taper
