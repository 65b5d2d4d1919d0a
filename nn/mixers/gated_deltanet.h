// GatedDeltaNet: the gated delta rule as a mixer, baseline and +PoST. Specification 1.3.
//
//   q k v = silu(conv(proj x));  beta = sigmoid(b_proj x);  l = -exp(p) softplus(a_proj x + dt_bias) s
//   y = delta_scan(q/|q|, k/|k|, v, l, beta) K^-1/2;  out = o_proj(rms_norm_per_head(y) * silu(g_proj x))
//
// dt_bias is trained in both. K = head_dim, V = expand_v K.
#pragma once
#include "nn/mixers/attention.h"
#include "nn/spectrum.h"

namespace taper {

class GatedDeltaNet final : public Mixer {
 public:
  GatedDeltaNet(const ModelConfig& config, const Init& init);
  Var forward(Tape& tape, const Var& x, Pass& pass, MixerState* state) const override;
  void each(const Visit& visit) override;
  std::vector<HeadSpectrum> spectrum() const override { return decay_.report(dt_bias_.value); }
  double recurrence_flops() const override;

 private:
  const ModelConfig config_;
  Attention attention_;
  Linear a_proj_, b_proj_;  // [H,D]
  Parameter dt_bias_;       // [H]
  HeadDecay decay_;
};

}  // namespace taper
