// ModelConfig: one table of what differs between the architectures.
#include "nn/config.h"

#include <fmt/ranges.h>

#include <array>
#include <cmath>

#include "tensor/error.h"

namespace taper {
namespace {

struct Size {
  const char* name;
  int64_t d_model, layers, heads;
};

// The multiple of 32 nearest to x, ties to the even multiple, 32 at least (specification 1.2).
int64_t adapter_rank(double x) { return std::max<int64_t>(32, 32 * int64_t(std::nearbyint(x / 32))); }

struct Arch {
  const char* name;
  double width;            // heads * head_dim over d_model, in the language model
  int64_t preset_head_dim, vocab_multiple;
  std::array<Size, 4> sizes;
};
const std::array archs = {
    Arch{"mamba2", 2, 64, 1, {Size{"180m", 768, 24, 24}, {"440m", 1024, 48, 32}, {"880m", 1536, 48, 48}, {"1.5b", 2048, 48, 64}}},
    Arch{"rwkv7", 1, 64, 16, {Size{"180m", 768, 12, 12}, {"440m", 1024, 24, 16}, {"880m", 1536, 24, 24}, {"1.5b", 2048, 24, 32}}},
    Arch{"gdn", 1, 128, 16, {Size{"180m", 768, 24, 6}, {"440m", 1024, 48, 8}, {"880m", 1536, 48, 12}, {"1.5b", 2048, 48, 16}}},
    Arch{"gla", 0.5, 0, 16, {Size{"180m", 768, 12, 4}, {"440m", 1024, 24, 4}, {"880m", 1536, 24, 4}, {"1.5b", 2048, 24, 4}}},
    Arch{"retnet", 1, 0, 16, {Size{"180m", 768, 12, 3}, {"440m", 1024, 24, 4}, {"880m", 1536, 24, 6}, {"1.5b", 2048, 24, 8}}},
};

const Arch& arch_of(const std::string& name) {
  for (const Arch& a : archs)
    if (a.name == name) return a;
  fail(Exit::bad_config, "model: arch must be one of {}; got '{}'", fmt::to_string(fmt::join(architectures(), ", ")), name);
}

}  // namespace

ModelConfig completed(ModelConfig c) {
  const Arch& arch = arch_of(c.arch);
  const auto positive = [](const char* what, int64_t value, int64_t least = 1) {
    check(value >= least, Exit::bad_config, "model: {} must be >= {}; got {}", what, least, value);
  };
  check(c.wiring == "lm" || c.wiring == "mixer" || c.wiring == "mqar", Exit::bad_config,
        "model: wiring must be lm, mixer or mqar; got '{}'", c.wiring);
  const bool lm = c.wiring == "lm", mqar = c.wiring == "mqar", attention = c.arch == "gla" || c.arch == "retnet";
  positive("d_model", c.d_model);
  positive("layers", c.layers);
  positive("heads", c.heads);
  positive("vocab", c.vocab);
  positive("vocab_multiple", c.vocab_multiple);

  const int64_t D = c.d_model, width = int64_t((lm || c.arch != "gla" ? arch.width : 1) * double(D));
  if (!c.head_dim) {
    check(width % c.heads == 0, Exit::bad_config, "model: heads must divide {}, the width of {}'s heads at d_model {}; got {}", width, c.arch,
          D, c.heads);
    c.head_dim = width / c.heads;
  }
  positive("head_dim", c.head_dim);
  check(c.heads * c.head_dim == width, Exit::bad_config, "model: heads * head_dim must be {} for {} at d_model {}; got {} * {} = {}", width,
        c.arch, D, c.heads, c.head_dim, c.heads * c.head_dim);
  if (c.arch == "retnet") check(c.head_dim % 2 == 0, Exit::bad_config, "model: retnet turns pairs of channels, head_dim must be even; got {}", c.head_dim);
  if (!c.d_state) c.d_state = mqar ? std::max<int64_t>(1, D / (2 * c.heads)) : 128;
  if (!c.expand_v) c.expand_v = mqar ? 1 : 2;
  if (c.conv_width == -1) c.conv_width = lm && attention ? 0 : 4;
  if (!c.ffn_width) {
    const int64_t ratio = c.arch == "retnet" ? 2 : 4;
    c.ffn_width = attention ? rounded_up(D * ratio * 2 / 3, 256) : rounded_up(4 * D, 32);
  }
  const double root = std::sqrt(double(D)), f = double(c.head_dim) / 64;
  if (!c.decay_rank) c.decay_rank = adapter_rank(2.5 * root * f);
  if (!c.rate_rank) c.rate_rank = adapter_rank(2.5 * root * f);
  if (!c.value_rank) c.value_rank = adapter_rank(1.7 * root * f);
  if (!c.gate_rank) c.gate_rank = c.arch == "rwkv7" ? adapter_rank(5 * root) : 16;
  if (c.norm_eps == 0) c.norm_eps = lm && attention ? 1e-6 : 1e-5;

  for (const auto& [what, value] : {std::pair{"d_state", c.d_state}, {"expand_v", c.expand_v}, {"ffn_width", c.ffn_width},
                                    {"decay_rank", c.decay_rank}, {"rate_rank", c.rate_rank}, {"value_rank", c.value_rank},
                                    {"gate_rank", c.gate_rank}})
    positive(what, value);
  positive("conv_width", c.conv_width, attention ? 0 : 1);
  check(c.train_length > 1, Exit::bad_config, "model: train_length must be > 1; got {}", c.train_length);
  check(c.norm_eps > 0, Exit::bad_config, "model: norm_eps must be > 0; got {}", c.norm_eps);
  check(c.dropout >= 0 && c.dropout < 1, Exit::bad_config, "model: dropout must be in [0,1); got {}", c.dropout);
  const PostConfig& p = c.post_options;
  check(p.position_reference > 0, Exit::bad_config, "post: position_reference must be > 0; got {}", p.position_reference);
  check(p.slowest_rate >= 0 && p.fastest_rate >= 0, Exit::bad_config, "post: slowest_rate and fastest_rate must be >= 0; got {} and {}",
        p.slowest_rate, p.fastest_rate);
  check(!p.data_dependent || c.arch == "retnet", Exit::bad_config, "post: data_dependent is a choice of retnet; arch is {}", c.arch);
  return c;
}

std::vector<std::string> architectures() {
  std::vector<std::string> names;
  for (const Arch& a : archs) names.push_back(a.name);
  return names;
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
          c.head_dim = a.preset_head_dim;
          c.vocab_multiple = a.vocab_multiple;
          return c;
        }
  fail(Exit::bad_config, "model: no preset is called '{}'; there are ARCH_SIZE and ARCH_post_SIZE with ARCH of {} and SIZE of 180m, 440m, 880m, 1.5b",
       name, fmt::to_string(fmt::join(architectures(), ", ")));
}

}  // namespace taper
