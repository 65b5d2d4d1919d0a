// Attention: what Gated DeltaNet, GLA and RetNet have around their scans: queries, keys and values, each a projection
// and, where the model has one, a short convolution; and a norm per head with a gate, projected back.
#pragma once
#include "nn/layers.h"
#include "nn/mixer.h"

namespace taper {

class Attention {
 public:
  // norm_name: of the norm's weight, "o_norm.weight" for example.
  Attention(const ModelConfig& config, const Init& init, const char* norm_name);

  struct Inputs {
    Var q, k, v;              // [B,T,H,K] [B,T,H,K] [B,T,H,V]
    Var gate;                 // [B,T,H,V], g_proj x; absent without a gate
    std::vector<Var> others;  // of the other layers that see x
    std::vector<Var> tails;   // [B,W-1,C] each, where there are convolutions: history of the next segment
  };
  // others: at most two more layers of the mixer that see x; all products of x are made together.
  Inputs inputs(Tape& tape, const Var& x, const Packing& packing, const MixerState* state, const std::vector<const Linear*>& others = {}) const;

  // y [B,T,H,V] of the scan: o_proj(rms_norm(y) * silu(gate)) [B,T,D], added to the stream where there is one
  Var output(Tape& tape, const Var& y, const Var& gate, const Var& stream) const;

  void each(const Visit& visit);
  double flops() const;  // of one token, the convolutions alone
  int64_t values() const { return config_.heads * config_.head_dim * config_.expand_v; }

 private:
  const ModelConfig config_;
  struct Stream {
    Linear proj;                     // [H K, D] or [H V, D]
    std::optional<ShortConv> conv;
  } streams_[3];
  std::optional<Linear> gate_;       // g_proj [H V, D]
  Parameter norm_;                   // [V]
  Linear out_;                       // o_proj [D, H V]
};

}  // namespace taper
