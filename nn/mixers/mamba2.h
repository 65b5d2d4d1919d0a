// Mamba2: the selective state-space mixer, baseline and +PoST. Specification 1.1.
//
//   [z | xBC | dt] = in_proj x;   xBC = silu(conv(xBC)) = [x | b | c];   dt = softplus(dt + dt_bias)
//   l  = -exp(p) dt s;   y = ssd_scan(x, l, b, c, dt, D);   out = out_proj(rms_norm(y * silu(z)))
//
// Baseline: p = A_log, s absent. +PoST: p from the spectrum, s = t^-alpha, dt_bias frozen at
// softplus^-1(0.05). Only the decay is tapered; the input keeps dt.
#pragma once
#include <optional>

#include "nn/model.h"
#include "nn/spectrum.h"

namespace taper {

class Mamba2 final : public Mixer {
 public:
  Mamba2(const ModelConfig& config, const Init& init);
  Var forward(Tape& tape, const Var& x, const Packing& packing, MixerState* state) const override;
  void each(const std::function<void(Parameter&)>& visit) override;
  std::vector<HeadSpectrum> spectrum() const override;
  double recurrence_flops() const override;

 private:
  Var exponents(Tape& tape) const;  // alpha [H]; absent without tapering

  const ModelConfig config_;
  Parameter in_proj_;                    // [2 d_i + 2N + H, D]
  Parameter conv_weight_, conv_bias_;    // [d_i + 2N, 1, W], [d_i + 2N]
  Parameter dt_bias_, d_;                // [H]
  std::optional<Parameter> a_log_;       // [H], where the spectrum is not PoST's
  std::optional<PostSpectrum> spectrum_;
  Parameter norm_;                       // [d_i]
  Parameter out_proj_;                   // [D, d_i]
};

}  // namespace taper
