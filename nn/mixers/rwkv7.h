// Rwkv7: the generalised delta rule of RWKV-7 as a mixer, baseline and +PoST. Specification 1.2.
//
//   x^m = x + (x_before - x) * x_m for m in r w k v a g;   r k v = proj x^m
//   u = w_lora x^w;   a = sigmoid(a_lora x^a);   g = g_lora x^g
//   v: the first layer's is kept; later layers take v + (v_first - v) * sigmoid(v_lora x^v)
//   kappa = k * k_k / |.| per head;   k = k (1 + (a - 1) k_a)
//   l = -e^(-1/2) sigmoid(u)                          baseline
//   l = -e^(-1/2) sigmoid(u + p - alpha log t)        +PoST: p [D] from the spectrum, one rate for each channel
//   y = dplr_scan(r, l, k, v, -kappa, kappa * a);   out = o_proj((group_norm(y) + (sum_n r k r_k) v) * g)
//
// alpha follows from log sigmoid(p), so theta moves it too: here the spectrum has four paths, not three.
#pragma once
#include "nn/spectrum.h"

namespace taper {

class Rwkv7 final : public Mixer {
 public:
  Rwkv7(const ModelConfig& config, const Init& init, int64_t layer);
  Var forward(Tape& tape, const Var& x, Pass& pass, MixerState* state) const override;
  void each(const Visit& visit) override;
  std::vector<HeadSpectrum> spectrum() const override;  // by channel
  double recurrence_flops() const override;

 private:
  Var spectrum_rates(Tape& tape) const;              // p [D]; absent in the baseline
  Var exponents(const Var& p) const;                 // alpha [D]; absent without tapering

  const ModelConfig config_;
  const int64_t layer_;
  Parameter x_r_, x_w_, x_k_, x_v_, x_a_, x_g_;      // [1,1,D]
  Parameter k_k_, k_a_, r_k_;                        // [D] [D] [H,K]
  Linear r_proj_, k_proj_, v_proj_, o_proj_;         // [D,D]
  LowRank w_lora_, a_lora_, g_lora_;
  std::optional<LowRank> v_lora_;                    // layers after the first
  Norm g_norm_;                                      // [D], a group for each head
  std::optional<PostSpectrum> spectrum_;
  Tensor even_;                                      // [D]: the exponents without a spectrum
};

// The channel mix of a layer.
ChannelMix make_channel_mix(const ModelConfig& config, const Init& init, int64_t layer);

}  // namespace taper
