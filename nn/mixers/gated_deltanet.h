// GatedDeltaNet: the gated delta rule as a mixer, baseline and +PoST. Specification 1.3.
//
//   q k v = silu(conv(proj x));  beta = sigmoid(b_proj x);  l = -exp(p) softplus(a_proj x + dt_bias) s
//   y = delta_scan(q/|q|, k/|k|, v, l, beta) K^-1/2;  out = o_proj(rms_norm_per_head(y) * silu(g_proj x))
//
// Baseline: p = A_log, s absent. +PoST: p from the spectrum, s = t^-alpha; dt_bias is trained in both.
// K = head_dim, V = expand_v K.
#pragma once
#include <optional>

#include "nn/model.h"
#include "nn/spectrum.h"

namespace taper {

class GatedDeltaNet final : public Mixer {
 public:
  GatedDeltaNet(const ModelConfig& config, const Init& init);
  Var forward(Tape& tape, const Var& x, const Packing& packing, MixerState* state) const override;
  void each(const std::function<void(Parameter&)>& visit) override;
  std::vector<HeadSpectrum> spectrum() const override;
  double recurrence_flops() const override;

 private:
  struct Stream {  // q, k or v: a projection and its convolution
    Parameter proj, conv;  // [H K, D] or [H V, D]; [.., 1, W]
  };
  Var exponents(Tape& tape) const;  // alpha [H]; absent without tapering

  const ModelConfig config_;
  Stream streams_[3];
  Parameter a_proj_, b_proj_, g_proj_, o_proj_;  // [H,D] [H,D] [H V, D] [D, H V]
  Parameter dt_bias_;                            // [H]
  std::optional<Parameter> a_log_;               // [H], where the spectrum is not PoST's
  std::optional<PostSpectrum> spectrum_;
  Parameter o_norm_;                             // [V]
};

}  // namespace taper
