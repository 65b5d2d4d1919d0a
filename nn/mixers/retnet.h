// RetNet: retention, one decay a head that no input moves. The shortest mixer; read this one first. Specification 1.5.
//
//   q k v = proj x, or silu(conv(proj x));   q, k turned by position (rotary);   y = ssd_scan(v, l, b = k, c = q) K^-1/2
//   baseline   l_h = log(1 - 2^(-5-h)), fixed
//   +PoST      l_h = -exp(p_h) s_h, s = t^-alpha; the reference's form, GLA's gate and no rotary, is post.data_dependent
//   out = o_proj(rms_norm_per_head(y) * silu(g_proj x))
#pragma once
#include "nn/mixers/attention.h"
#include "nn/spectrum.h"

namespace taper {

class RetNet final : public Mixer {
 public:
  RetNet(const ModelConfig& config, const Init& init);
  Var forward(Tape& tape, const Var& x, Pass& pass, MixerState* state) const override;
  void each(const Visit& visit) override;
  std::vector<HeadSpectrum> spectrum() const override { return decay_.report({}); }
  double recurrence_flops() const override;

 private:
  const ModelConfig config_;
  Attention attention_;
  HeadDecay decay_;
};

}  // namespace taper
