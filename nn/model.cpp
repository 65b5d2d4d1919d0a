// LanguageModel: the wiring of specification 3.1, and the table of presets.
#include "nn/model.h"

#include <fmt/format.h>

#include <array>

#include "nn/mixers/gated_deltanet.h"
#include "nn/mixers/mamba2.h"
#include "tensor/error.h"

namespace taper {
namespace {

struct Size {
  const char* name;
  int64_t d_model, layers, heads;
};

template <class M>
std::unique_ptr<Mixer> make(const ModelConfig& config, const Init& init) {
  return std::make_unique<M>(config, init);
}

struct Arch {  // all that the wiring has to know of an architecture
  const char* name;
  std::unique_ptr<Mixer> (*mixer)(const ModelConfig&, const Init&);
  int64_t width;     // heads * head_dim must be this many times d_model
  int64_t head_dim;        // of the presets
  int64_t vocab_multiple;  // of the presets
  std::array<Size, 4> sizes;
};
const std::array archs = {
    Arch{"mamba2", make<Mamba2>, 2, 64, 1, {Size{"180m", 768, 24, 24}, {"440m", 1024, 48, 32}, {"880m", 1536, 48, 48}, {"1.5b", 2048, 48, 64}}},
    Arch{"gdn", make<GatedDeltaNet>, 1, 128, 16, {Size{"180m", 768, 24, 6}, {"440m", 1024, 48, 8}, {"880m", 1536, 48, 12}, {"1.5b", 2048, 48, 16}}},
};

const Arch& arch_of(const std::string& name) {
  for (const Arch& a : archs)
    if (a.name == name) return a;
  fail(Exit::bad_config, "model: arch must be mamba2 or gdn; got '{}'", name);
}

}  // namespace

void check_model_config(const ModelConfig& c) {
  const Arch& arch = arch_of(c.arch);
  for (const auto& [what, value] : {std::pair{"d_model", c.d_model}, {"layers", c.layers}, {"heads", c.heads}, {"vocab", c.vocab},
                                    {"head_dim", c.head_dim}, {"d_state", c.d_state}, {"expand_v", c.expand_v}, {"vocab_multiple", c.vocab_multiple}, {"conv_width", c.conv_width}})
    check(value >= 1, Exit::bad_config, "model: {} must be >= 1; got {}", what, value);
  check(c.heads * c.head_dim == arch.width * c.d_model, Exit::bad_config,
        "model: heads * head_dim must be {} * d_model = {} for {}; got {} * {} = {}", arch.width, arch.width * c.d_model, c.arch, c.heads,
        c.head_dim, c.heads * c.head_dim);
  check(c.train_length > 1, Exit::bad_config, "model: train_length must be > 1; got {}", c.train_length);
  check(c.norm_eps > 0, Exit::bad_config, "model: norm_eps must be > 0; got {}", c.norm_eps);
  check(c.post_options.position_reference > 0, Exit::bad_config, "post: position_reference must be > 0; got {}",
        c.post_options.position_reference);
}

std::vector<std::string> model_presets() {
  std::vector<std::string> names;
  for (const Arch& a : archs)
    for (const char* post : {"_", "_post_"})
      for (const Size& s : a.sizes) names.push_back(std::string(a.name) + post + s.name);
  return names;
}

ModelConfig model_preset(std::string_view name) {
  for (const Arch& a : archs)
    for (const bool post : {false, true})
      for (const Size& s : a.sizes)
        if (name == std::string(a.name) + (post ? "_post_" : "_") + s.name) {
          ModelConfig c;
          c.arch = a.name;
          c.post = post;
          c.d_model = s.d_model;
          c.layers = s.layers;
          c.heads = s.heads;
          c.head_dim = a.head_dim;
          c.vocab_multiple = a.vocab_multiple;
          return c;
        }
  fail(Exit::bad_config, "model: no preset is called '{}'; there are {}", name, fmt::to_string(fmt::join(model_presets(), ", ")));
}

LanguageModel::LanguageModel(const ModelConfig& config, uint64_t seed, Device& device, Dtype dtype)
    : config(config), device(device), dtype(dtype) {
  check_model_config(config);
  const Init init(seed, device, dtype);
  const int64_t rows = (config.vocab + config.vocab_multiple - 1) / config.vocab_multiple * config.vocab_multiple;
  embedding = init.make("embedding.weight", {rows, config.d_model}, fill_normal(0.02));
  for (int64_t i = 0; i < config.layers; ++i) {
    const Init layer = init.in("layers").in(std::to_string(i));
    blocks.push_back({.norm = layer.make("norm.weight", {config.d_model}, fill_constant(1)), .mixer = arch_of(config.arch).mixer(config, layer.in("mixer"))});
  }
  norm_f = init.make("norm_f.weight", {config.d_model}, fill_constant(1));
}

Var LanguageModel::logits(Tape& tape, const Tensor& ids, const Packing& given, ModelState* state) const {
  check(ids.rank() == 2 && ids.dtype() == Dtype::i32, "model: ids must be i32 [B,T]; got {} {}", name(ids.dtype()), ids.shape().text());
  const int64_t B = ids.size(0), T = ids.size(1);
  Packing packing = given;
  if (state) {
    state->layers.resize(blocks.size());
    state->position.resize(size_t(B), 0);
    packing.t0 = from_host<int64_t>(device, {B}, state->position);
  }

  const Var table = leaf(tape, embedding);
  Var x = taper::embedding(table, ids);  // [B,T,D]
  for (size_t i = 0; i < blocks.size(); ++i) {
    const Scope layers(tape, "layers"), layer(tape, std::to_string(i));
    const Var normed = rms_norm(x, leaf(tape, blocks[i].norm), config.norm_eps);
    x = add(x, blocks[i].mixer->forward(tape, normed, packing, state ? &state->layers[i] : nullptr));
  }
  x = rms_norm(x, leaf(tape, norm_f), config.norm_eps);

  if (state) {
    const std::vector<int32_t> start = packing.start ? to_host<int32_t>(packing.start) : std::vector<int32_t>(size_t(B * T), 0);
    for (int64_t b = 0; b < B; ++b) {
      const int64_t governs = start[size_t(b * T + T - 1)];
      int64_t& position = state->position[size_t(b)];
      position = governs ? T - governs : position + T;
    }
  }
  return matmul(x, table, {.b = true});
}

Var LanguageModel::nll(Tape& tape, const Tensor& ids, const Tensor& labels, const Packing& packing) const {
  return cross_entropy(logits(tape, ids, packing), labels);
}

void LanguageModel::each(const std::function<void(Parameter&)>& visit) {
  visit(embedding);
  for (Block& block : blocks) {
    visit(block.norm);
    block.mixer->each(visit);
  }
  visit(norm_f);
}

std::vector<Parameter*> LanguageModel::parameters() {
  std::vector<Parameter*> all;
  each([&](Parameter& p) { all.push_back(&p); });
  return all;
}

int64_t LanguageModel::parameter_count() {
  int64_t n = 0;
  each([&](Parameter& p) { n += p.value.numel(); });
  return n;
}

}  // namespace taper
