// ModelConfig: what a model is built from; the presets; what each architecture takes where nothing is said.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace taper {

struct PostConfig {
  bool spectrum = true;           // decay rates by PostSpectrum; false: free or fixed rates, as the baseline's
  bool taper = true;              // stretched with position by t^-alpha; false: alpha = 0
  double position_reference = 1;  // t / position_reference
  double slowest_rate = 0, fastest_rate = 0;  // where the spectrum starts from (nn/spectrum.h); 0: the architecture's own
  bool data_dependent = false;    // retnet: GLA's gate instead of rotary and a decay that no input moves
  bool operator==(const PostConfig&) const = default;
};

// How blocks are made (specification 3 and 5.1).
//   lm     language models: rwkv7 with its channel mix, gla and retnet with a SwiGLU layer, mamba2 and gdn without
//   mixer  language models of mixers alone: no feed-forward layer anywhere; gla and retnet with convolutions, as gdn
//   mqar   the recall task's models: a final LayerNorm, biases where that task's code has them
struct ModelConfig {
  std::string arch = "mamba2";    // mamba2 rwkv7 gdn gla retnet
  std::string wiring = "lm";
  bool post = false;              // +PoST, as `post_options` says
  PostConfig post_options = {};
  int64_t d_model = 0, layers = 0, heads = 0, vocab = 0;
  // 0 (conv_width, -1): what the architecture takes; completed() fills them in.
  int64_t head_dim = 0;           // mamba2: P, else K; heads * head_dim is the width of the keys (mamba2: of the values)
  int64_t d_state = 0;            // mamba2: N
  int64_t expand_v = 0;           // gdn gla retnet: V = expand_v K
  int64_t conv_width = -1;        // W; 0: no convolution (gla, retnet)
  int64_t ffn_width = 0;          // rwkv7 gla retnet: inner width of the feed-forward layer
  int64_t decay_rank = 0, rate_rank = 0, value_rank = 0;  // rwkv7: of the adapters of w, a and v
  int64_t gate_rank = 0;          // rwkv7: of g; gla: of the decay
  bool output_gate = true;        // gdn: false: a plain norm; the recall task's models have none
  bool tied_head = true;          // the head is the embedding
  int64_t vocab_multiple = 1;     // rows of the embedding are rounded up to a multiple of this
  int64_t train_length = 2048;    // T_train of the taper
  double norm_eps = 0;
  double dropout = 0;             // of the embedding, in training
  bool operator==(const ModelConfig&) const = default;
};

// The same with every size filled in and checked. Errors (78): an unknown name; sizes missing or that do not fit.
ModelConfig completed(ModelConfig config);

inline int64_t rounded_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
inline int64_t vocabulary_rows(const ModelConfig& c) { return rounded_up(c.vocab, c.vocab_multiple); }  // of the embedding

// "<arch>_<size>" and "<arch>_post_<size>", size 180m 440m 880m 1.5b; vocab is left 0. Unknown: 78, and what there are.
ModelConfig model_preset(std::string_view name);
std::vector<std::string> model_presets();
std::vector<std::string> architectures();

}  // namespace taper
