// Gla: gated linear attention, a decay for each key channel. Specification 1.4.
//
//   q k v = proj x, or silu(conv(proj x));   y = gla_scan(q, k, v, l) K^-1/2
//   baseline   l = log sigmoid(gk_proj x) / 16, gk_proj of low rank
//   +PoST      l[h,n] = -exp(p_h) softplus(a_proj x + dt_bias)[h,n] s_h: one rate and one taper a head
//   out = o_proj(rms_norm_per_head(y) * silu(g_proj x))
#pragma once
#include "nn/mixers/attention.h"
#include "nn/spectrum.h"

namespace taper {

class Gla final : public Mixer {
 public:
  Gla(const ModelConfig& config, const Init& init);
  Var forward(Tape& tape, const Var& x, Pass& pass, MixerState* state) const override;
  void each(const Visit& visit) override;
  std::vector<HeadSpectrum> spectrum() const override;
  double recurrence_flops() const override;

 private:
  struct Steps {       // +PoST
    Linear proj;       // a_proj [H K, D]
    Parameter bias;    // dt_bias [H K]
    HeadDecay decay;
  };
  const ModelConfig config_;
  Attention attention_;
  std::optional<LowRank> gate_;  // gk_proj: [R,D], [H K, R] and a bias
  std::optional<Steps> steps_;
};

}  // namespace taper
