// Layers: the small parts that mixers and blocks are built from.
#pragma once
#include <functional>
#include <optional>

#include "autograd/ops.h"
#include "nn/parameter.h"

namespace taper {

using Visit = std::function<void(Parameter&)>;

// x in the dtype that decays, step sizes and gates of a scan are kept in: f32 where x is bf16. x itself where it is wide.
Var widened(const Var& x);

struct Linear {  // y = x W^T + b, in the dtype of x: the weight is cast to it
  Parameter weight;               // [out,in]
  std::optional<Parameter> bias;  // [out]
  Var operator()(Tape& tape, const Var& x, const Var& added = {}) const;  // added + that, where there is an added
  void each(const Visit& visit);
};
// NAME.weight and, with a bias, NAME.bias.
Linear make_linear(const Init& init, const std::string& name, int64_t out, int64_t in, const Draw& weight, const Draw& bias = {});

// What several linear layers make of one x.
std::vector<Var> project(Tape& tape, const Var& x, const std::vector<const Linear*>& layers);

struct Norm {  // RMSNorm, or, with a bias, LayerNorm
  Parameter weight;               // [D]
  std::optional<Parameter> bias;  // [D]
  double eps = 1e-5;
  Var operator()(Tape& tape, const Var& x) const;
  NormResult operator()(Tape& tape, const Var& x, const Var& added) const;  // of x + added, which goes on
  void each(const Visit& visit);
};
Norm make_norm(const Init& init, const std::string& name, int64_t D, double eps, bool layer_norm);

// W2 f(W1 x) + b: an adapter of low rank.
struct LowRank {
  Linear down, up;  // [rank,in], [out,rank]
  Var (*inner)(const Var&) = nullptr;  // f; none: W2 W1 x + b
  Var operator()(Tape& tape, const Var& x) const;
  void each(const Visit& visit);
};

// The causal depthwise convolution in front of a scan, with silu. tail [B,W-1,C]: history of the next segment.
struct ShortConv {
  Parameter weight;               // [C,1,W]
  std::optional<Parameter> bias;  // [C]
  ConvResult operator()(Tape& tape, const Var& x, const Var& history, const Packing& packing) const;
  void each(const Visit& visit);
};

// The feed-forward layer of a block, one of two. An added stream is added inside the last product.
struct SwiGlu {  // down(silu(gate x) * up x)
  Linear gate, up, down;  // [F,D] [F,D] [D,F]
  Var operator()(Tape& tape, const Var& x, const Var& added, bool fused) const;
  void each(const Visit& visit);
};
// x moved towards the token before it by each weight in turn, by the fused room or by the plain ones. Weights of D elements.
MixResult mix_tokens(Tape& tape, const Var& x, const Var& last, const std::vector<const Parameter*>& weights, const Packing& packing, bool fused);

struct ChannelMix {  // RWKV: value(relu(key(x + (x_before - x) * x_k))^2)
  Parameter x_k;      // [D]
  Linear key, value;  // [F,D] [D,F]
  // last [B,D]: the token before x, absent at the beginning; replaced by x's last token.
  Var operator()(Tape& tape, const Var& x, const Var& added, const Packing& packing, bool fused, Var* last) const;
  void each(const Visit& visit);
};

}  // namespace taper
