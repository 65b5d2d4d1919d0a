// Mamba2: the selective state-space mixer, baseline and +PoST. Specification 1.1.
//
//   [z | xBC | dt] = in_proj x;   xBC = silu(conv(xBC)) = [x | b | c];   dt = softplus(dt + dt_bias)
//   l  = -exp(p) dt s;   y = ssd_scan(x, l, b, c, dt, D);   out = out_proj(rms_norm(y * silu(z)))
//
// +PoST: dt_bias is frozen at softplus^-1(0.05), so that the spectrum alone sets the rates. Only the decay is tapered;
// the input keeps dt. Language models have a bias in the convolution, the recall task's models one in each projection.
#pragma once
#include "nn/spectrum.h"

namespace taper {

class Mamba2 final : public Mixer {
 public:
  Mamba2(const ModelConfig& config, const Init& init);
  Var forward(Tape& tape, const Var& x, Pass& pass, MixerState* state) const override;
  void each(const Visit& visit) override;
  std::vector<HeadSpectrum> spectrum() const override { return decay_.report(dt_bias_.value); }
  double recurrence_flops() const override;

 private:
  const ModelConfig config_;
  Linear in_proj_;             // [2 d_i + 2N + H, D]
  ShortConv conv_;             // [d_i + 2N, 1, W]
  Parameter dt_bias_, d_;      // [H]
  HeadDecay decay_;
  Parameter norm_;             // [d_i]
  Linear out_proj_;            // [D, d_i]
};

}  // namespace taper
