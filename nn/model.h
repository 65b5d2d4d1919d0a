// LanguageModel: embedding, blocks of norm and mixer with residuals, final norm, tied head.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "autograd/ops.h"
#include "nn/parameter.h"

namespace taper {

struct PostConfig {
  bool spectrum = true;           // decay rates by PostSpectrum; false: the baseline's own rates
  bool taper = true;              // stretched with position by t^-alpha; false: alpha = 0
  double position_reference = 1;  // t / position_reference
  bool operator==(const PostConfig&) const = default;
};

struct ModelConfig {
  std::string arch = "mamba2";
  bool post = false;              // +PoST, as `post_options` says
  PostConfig post_options = {};
  int64_t d_model = 0, layers = 0, heads = 0, vocab = 0;
  int64_t head_dim = 64;          // mamba2: P; gdn: K
  int64_t d_state = 128;          // mamba2: N
  int64_t expand_v = 2;           // gdn: V = expand_v K
  int64_t vocab_multiple = 1;     // rows of the embedding are rounded up to a multiple of this
  int64_t conv_width = 4;
  int64_t train_length = 2048;    // T_train of the taper
  double norm_eps = 1e-5;
  bool operator==(const ModelConfig&) const = default;
};

// Raises (78) where sizes are missing or do not fit: heads * head_dim must be 2 d_model (mamba2), d_model (gdn).
void check_model_config(const ModelConfig& config);

// "mamba2_180m", "mamba2_post_180m", ..440m, ..880m, ..1.5b, and gdn's; vocab is left 0. Unknown: 78, with the list.
ModelConfig model_preset(std::string_view name);
std::vector<std::string> model_presets();

// What one sequence (of each batch row) carries from one segment to the next.
struct MixerState {
  Var recurrent;             // [B,H,N,P] or [B,H,K,V]; f32 (f64 in an f64 model)
  std::vector<Var> history;  // [B,W-1,C] each: the last inputs of the mixer's convolutions
};
struct ModelState {
  std::vector<MixerState> layers;  // empty: the beginning
  std::vector<int64_t> position;   // [B] tokens consumed by the current document of each row
};

class Mixer {  // what a block mixes tokens with; one class per architecture (nn/mixers)
 public:
  virtual ~Mixer() = default;
  // x [B,T,D] -> [B,T,D]. state: read if its Vars are present, then replaced by the state after T.
  virtual Var forward(Tape& tape, const Var& x, const Packing& packing, MixerState* state) const = 0;
  virtual void each(const std::function<void(Parameter&)>& visit) = 0;
  virtual std::vector<struct HeadSpectrum> spectrum() const = 0;  // for reports; by head
  virtual double recurrence_flops() const = 0;  // of one token's forward pass outside the projections, token by token
};

struct HeadSpectrum {
  double rate;           // exp(a_k): decay per unit of Delta
  double time_constant;  // tokens until the state has decayed to 1/e at position 1, at the bias's Delta
  double alpha;          // taper exponent (0 without taper)
};

struct Block {
  Parameter norm;  // [D]
  std::unique_ptr<Mixer> mixer;
};

class LanguageModel {
 public:
  LanguageModel(const ModelConfig& config, uint64_t seed, Device& device, Dtype dtype = Dtype::f32);

  // ids [B,T] i32 -> logits [B,T,V], V the rounded vocabulary. With a state: continues from it (packing.t0 is taken from its
  // position) and leaves the state after T in it.
  Var logits(Tape& tape, const Tensor& ids, const Packing& packing, ModelState* state = nullptr) const;
  // labels [B,T] i32, -100 ignored -> nll [B,T], 0 where ignored.
  Var nll(Tape& tape, const Tensor& ids, const Tensor& labels, const Packing& packing) const;

  void each(const std::function<void(Parameter&)>& visit);  // names, optimizer, checkpoint, count: one list
  std::vector<Parameter*> parameters();
  int64_t parameter_count();

  const ModelConfig config;
  Device& device;
  const Dtype dtype;
  Parameter embedding;  // [V,D], also the head
  std::vector<Block> blocks;
  Parameter norm_f;     // [D]
};

}  // namespace taper
