// LanguageModel: embedding, blocks of norm, mixer and feed-forward layer with residuals, final norm, head.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nn/layers.h"
#include "nn/mixer.h"

namespace taper {

struct LayerState {
  MixerState mixer;
  Var channel_mix;  // rwkv7: [B,D], the last token that the feed-forward layer saw
};
struct ModelState {
  std::vector<LayerState> layers;  // empty: the beginning
  Tensor position;                 // [B] i64: tokens consumed by the current document of each row; absent: 0

  // Rows whose keep [B] i32 is 0 begin anew: their states and histories become 0, their positions 0.
  void restart(const Tensor& keep);
  // The same values, cut off from the tape that made them.
  void detach();
  void each(const std::function<void(Var&)>& visit);  // every state that is present
};

struct Block {
  Norm norm;
  std::unique_ptr<Mixer> mixer;
  std::optional<Norm> ffn_norm;        // mqar gdn, gla, retnet: present without a layer behind it
  std::optional<SwiGlu> swiglu;        // gla, retnet
  std::optional<ChannelMix> channel_mix;  // rwkv7
};

class LanguageModel {
 public:
  // dtype: of the parameters. activations: of what flows between them; bf16 beside f32 parameters is mixed precision, where
  // norms' statistics, decays, states and the loss stay f32 and each weight is cast where it is used. Default: dtype.
  // residual: of the sum that the layers add to; f32 there keeps what many small layers add. Default: activations.
  LanguageModel(const ModelConfig& config, uint64_t seed, Device& device, Dtype dtype = Dtype::f32);
  LanguageModel(const ModelConfig& config, uint64_t seed, Device& device, Dtype dtype, Dtype activations);
  LanguageModel(const ModelConfig& config, uint64_t seed, Device& device, Dtype dtype, Dtype activations, Dtype residual);

  // ids [B,T] i32 -> logits [B,T,V], V the rounded vocabulary. With a state: continues from it (packing.t0 is taken from its
  // position) and leaves the state after T in it. dropout: the key of its draws
  // [2] i64, in training; absent: no dropout.
  Var logits(Tape& tape, const Tensor& ids, const Packing& packing, ModelState* state = nullptr, const Tensor& dropout = {}) const;
  // The same in two steps, for who wants few of the logits: what the head sees [B,T,D], and the head over rows of it [n,D] -> [n,V].
  Var trunk(Tape& tape, const Tensor& ids, const Packing& packing, ModelState* state = nullptr, const Tensor& dropout = {}) const;
  Var head_logits(Tape& tape, const Var& rows) const { return matmul(rows, head_weight(tape), {.b = true}); }
  // Rows of x [...,D] as [n,D]: those at `at` [n] i32; absent: x itself.
  static Var rows_at(const Var& x, const Tensor& at) { return at ? taper::embedding(reshape(x, {-1, x.size(-1)}), at) : x; }
  // labels [B,T] i32, -100 ignored -> nll [B,T], 0 where ignored.
  Var nll(Tape& tape, const Tensor& ids, const Tensor& labels, const Packing& packing, ModelState* state = nullptr,
          const Tensor& dropout = {}) const;
  // factor * sum of nll -> []. Fused: by linear_cross_entropy, so that the logits never exist all at once.
  struct LossOptions {
    Tensor factor = {};  // [] f64; absent: 1
    Tensor at = {};      // [n] i32: labels and nll are [n], of these positions among the B T; the head sees no others. Absent: of all
    ModelState* state = nullptr;
    Tensor dropout = {};
  };
  LossResult loss(Tape& tape, const Tensor& ids, const Tensor& labels, const Packing& packing, const LossOptions& options) const;

  void each(const Visit& visit);  // names, optimizer, checkpoint, count: one list
  std::vector<Parameter*> parameters();
  int64_t parameter_count();

  const ModelConfig config;  // completed
  Device& device;
  const Dtype dtype, activations, residual;
  bool fused = true;              // fused rooms; false: the plain graph, for audits
  Parameter embedding;            // [V,D]
  std::optional<Norm> pre_norm;   // rwkv7: of the embedding
  std::vector<Block> blocks;
  Norm norm_f;
  std::optional<Parameter> head;  // [V,D]; absent: the embedding

 private:
  Var head_weight(Tape& tape) const { return leaf_as(tape, head ? *head : embedding, activations); }
};

}  // namespace taper
