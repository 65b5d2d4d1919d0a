// Foreign configurations: the tables of keys.
#include "nn/foreign_config.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "tensor/error.h"
#include "tensor/json.h"

namespace taper {
namespace {

using Json = nlohmann::ordered_json;

struct Reading {
  const std::string& who;
  const Json& all;
  ForeignConfig& to;
  ModelConfig& model;
};

struct Key {
  std::string name;
  Json missing;                                                // what a key that is not there means; discarded: it must be there
  std::function<void(const Reading&, const Json&)> read = {};  // none: carried along
  std::function<Json(const ModelConfig&)> write = {};          // none: `missing`
  bool written = true;                                         // false: another spelling, only read
};
using Keys = std::vector<Key>;

const Json required = Json::value_t::discarded, infinity = {{"__float__", "Infinity"}};
constexpr int64_t idle_width = 32;

std::string shown(const Json& j) {  // one line, plain characters, short
  const std::string text = j.dump(-1, ' ', true);
  return text.size() <= 80 ? text : text.substr(0, 77) + "...";
}

[[noreturn]] void wrong(const Reading& r, const std::string& key, const std::string& wanted, const Json& got) {
  fail(Exit::bad_config, "{}: {} must be {}; got {}", r.who, key, wanted, shown(got));
}

constexpr int64_t largest = 1 << 20;  // of a size: no product of three overflows

int64_t whole(const Reading& r, const std::string& key, const Json& value, int64_t most = largest) {
  const double x = value.is_number() ? value.get<double>() : 0;
  if (!(x >= 1 && x <= double(most) && x == std::floor(x)))
    wrong(r, key, fmt::format("a whole number from 1 to {}", most), value);
  return int64_t(x);
}

Key carried(const char* name, Json missing) { return {name, missing}; }

// The one value that we compute; `also`: another word for it.
Key only(const char* name, Json value, Json also = required) {
  return {name, value, [=](const Reading& r, const Json& got) {
            if (!(got == value || got == also)) wrong(r, name, shown(value) + " (taper has nothing else)", got);
          }};
}
Key spelled(Key key) {
  key.written = false;
  return key;
}

// null: left to completed().
Key size(const char* name, int64_t ModelConfig::*field, Json missing = required, int64_t most = largest) {
  return {name, missing, [=](const Reading& r, const Json& v) { r.model.*field = v.is_null() ? 0 : whole(r, name, v, most); },
          [=](const ModelConfig& m) { return m.*field; }};
}
Key flag(const char* name, bool ModelConfig::*field, Json missing) {
  return {name, missing,
          [=](const Reading& r, const Json& v) {
            if (!v.is_boolean()) wrong(r, name, "true or false", v);
            r.model.*field = v.get<bool>();
          },
          [=](const ModelConfig& m) { return m.*field; }};
}
Key norm_eps(double missing) {
  return {"norm_eps", missing,
          [](const Reading& r, const Json& v) {
            if (!v.is_number() || !(v.get<double>() > 0)) wrong(r, "norm_eps", "a number > 0", v);
            r.model.norm_eps = v.get<double>();
          },
          [](const ModelConfig& m) { return m.norm_eps; }};
}
Key vocabulary(Json missing = required) {
  Key k = size("vocab_size", &ModelConfig::vocab, missing, int64_t(1) << 31);
  k.write = vocabulary_rows;
  return k;
}
// null: as many as fill the width, which is `expand` times d_model. Stands after d_model and head_dim.
Key heads_to_fill(int64_t expand, Json missing) {
  return {"num_heads", missing,
          [=](const Reading& r, const Json& v) {
            if (v.is_null() && !r.model.head_dim) wrong(r, "num_heads", "a whole number where head_dim is none", v);
            r.model.heads = v.is_null() ? expand * r.model.d_model / r.model.head_dim : whole(r, "num_heads", v);
          },
          [](const ModelConfig& m) { return m.heads; }};
}
// As many as num_heads, or null.
Key same_heads(const char* name) {
  return {name, nullptr, [=](const Reading& r, const Json& v) {
            if (!v.is_null() && v != Json(r.model.heads)) wrong(r, name, fmt::format("null or num_heads = {}", r.model.heads), v);
          }};
}
// The feed-forward layer's width, or null: from hidden_ratio by `formula`.
Key ffn(const char* name, double usual_ratio, std::function<int64_t(int64_t D, double ratio)> formula) {
  return {name, nullptr,
          [=](const Reading& r, const Json& v) {
            const Json ratio = r.all.value("hidden_ratio", Json(usual_ratio));
            if (!ratio.is_null() && !(ratio.is_number() && ratio.get<double>() > 0))
              wrong(r, "hidden_ratio", "a number > 0", ratio);
            r.model.ffn_width =
                v.is_null() ? formula(r.model.d_model, ratio.is_null() ? 4 : ratio.get<double>()) : whole(r, name, v);
          },
          [](const ModelConfig& m) { return m.ffn_width; }};
}
int64_t swiglu_width(int64_t D, double ratio) { return rounded_up(int64_t(double(D) * ratio * 2 / 3), 256); }
int64_t channel_mix_width(int64_t D, double ratio) { return rounded_up(int64_t(double(D) * ratio), 32); }

Keys generic() {
  return {carried("architectures", nullptr),
          carried("model_type", nullptr),
          carried("dtype", nullptr),
          spelled(carried("torch_dtype", nullptr)),
          spelled(carried("transformers_version", nullptr)),
          spelled(carried("_name_or_path", nullptr)),
          spelled(carried("auto_map", nullptr)),
          spelled(carried("tokenizer_class", nullptr)),
          carried("use_cache", true),
          carried("bos_token_id", 1),
          carried("eos_token_id", 2)};
}
Keys fused(bool l2warp = false) {
  return {carried("initializer_range", 0.02), carried("fuse_norm", true), carried("fuse_cross_entropy", true),
          carried("fuse_linear_cross_entropy", false), carried("use_l2warp", l2warp)};
}
Keys attention_fla() {  // what FLA's own models share
  return {carried("pad_token_id", nullptr), carried("attn_mode", "chunk"), carried("max_position_embeddings", 2048),
          only("attn", nullptr)};
}
// +PoST, and whether it is there.
Keys post_keys() {
  return {size("train_length", &ModelConfig::train_length, 2048, int64_t(1) << 40),
          {"use_post", nullptr,
           [](const Reading& r, const Json& v) {
             if (v.is_null()) return;
             if (!v.is_boolean()) wrong(r, "use_post", "true or false", v);
             check(v.get<bool>() == r.model.post, Exit::bad_data,
                   "{}: use_post = {} contradicts the tensors, which are those of {}", r.who, shown(v),
                   r.model.post ? "PoST (a spectrum)" : "the baseline (no spectrum)");
           },
           [](const ModelConfig& m) { return m.post; }}};
}
Keys reference_head() {  // post_gated_deltanet and rwkv7_post
  return {vocabulary(),
          size("pad_vocab_size_multiple", &ModelConfig::vocab_multiple, 16),
          flag("tie_word_embeddings", &ModelConfig::tied_head, true),
          {"tie_embeddings", nullptr,
           [](const Reading& r, const Json& v) {
             if (!v.is_null() && v != Json(r.model.tied_head)) wrong(r, "tie_embeddings", "as tie_word_embeddings", v);
           },
           [](const ModelConfig& m) { return m.tied_head; }},
          carried("pad_token_id", 0)};
}

Keys mamba2(bool fla) {
  const auto limit = [](const char* name) { return only(name, {0.0, infinity}); };
  Keys keys{size("hidden_size", &ModelConfig::d_model, fla ? Json(2048) : required),
            size("num_hidden_layers", &ModelConfig::layers, fla ? Json(48) : required),
            size("head_dim", &ModelConfig::head_dim, 64),
            heads_to_fill(2, nullptr),
            size("state_size", &ModelConfig::d_state, 128),
            only("expand", 2),
            size("conv_kernel", &ModelConfig::conv_width, 4),
            only("n_groups", 1),
            carried("chunk_size", 256),
            only("use_bias", false),
            only("use_conv_bias", true),
            only("hidden_act", "silu", "swish"),
            norm_eps(1e-5),
            only("rms_norm", true),
            carried("rescale_prenorm_residual", true),
            carried("residual_in_fp32", true),
            {"time_step_rank", nullptr, {}, [](const ModelConfig& m) { return (m.d_model + 15) / 16; }},
            carried("time_step_min", 0.001),
            carried("time_step_max", 0.1),
            carried("time_step_floor", 1e-4),
            limit("time_step_limit"),
            vocabulary(fla ? Json(32000) : required),
            flag("tie_word_embeddings", &ModelConfig::tied_head, !fla),
            carried("pad_token_id", 0)};
  if (fla)  // as FLA has renamed and added them since
    for (const Key& k : {only("rmsnorm", true), only("norm_before_gate", false), only("D_has_hdim", false), limit("dt_limit"),
                         carried("dt_min", 0.001), carried("dt_max", 0.1), carried("dt_init_floor", 1e-4),
                         carried("conv_init", nullptr), carried("A_init_range", nullptr)})
      keys.push_back(spelled(k));
  return keys;
}

Keys gdn_post() {
  return {size("d_model", &ModelConfig::d_model),
          size("n_layer", &ModelConfig::layers),
          size("num_heads", &ModelConfig::heads),
          size("head_dim", &ModelConfig::head_dim, nullptr),
          size("expand_v", &ModelConfig::expand_v, 2),
          flag("use_gate", &ModelConfig::output_gate, true),
          only("use_short_conv", true),
          size("conv_size", &ModelConfig::conv_width, 4),
          norm_eps(1e-5)};
}

Keys ranks(Json decay, Json gate, Json a, Json v) {
  return {size("decay_low_rank_dim", &ModelConfig::decay_rank, decay), size("gate_low_rank_dim", &ModelConfig::gate_rank, gate),
          size("a_low_rank_dim", &ModelConfig::rate_rank, a), size("v_low_rank_dim", &ModelConfig::value_rank, v)};
}

Keys rwkv7_post() {
  Keys keys{size("d_model", &ModelConfig::d_model),
            size("n_layer", &ModelConfig::layers),
            size("head_dim", &ModelConfig::head_dim, 64),
            heads_to_fill(1, nullptr),
            carried("hidden_ratio", 4.0),
            ffn("dim_ffn", 4, channel_mix_width),
            norm_eps(1e-5)};
  for (const Key& k : ranks(nullptr, nullptr, nullptr, nullptr)) keys.push_back(k);
  return keys;
}

Keys sizes_fla(int64_t layers) {
  return {size("hidden_size", &ModelConfig::d_model, 2048), size("num_hidden_layers", &ModelConfig::layers, layers),
          vocabulary(32000), flag("tie_word_embeddings", &ModelConfig::tied_head, false)};
}

Keys rwkv7_fla() {
  Keys keys = sizes_fla(24);
  for (const Key& k : {size("head_dim", &ModelConfig::head_dim, 64), heads_to_fill(1, nullptr), carried("hidden_ratio", 4),
                       ffn("intermediate_size", 4, channel_mix_width), only("hidden_act", "sqrelu"), only("norm_first", true),
                       only("norm_bias", true), norm_eps(1e-5)})
    keys.push_back(k);
  for (const Key& k : ranks(64, 128, 64, 16)) keys.push_back(k);
  keys.push_back({"value_dim", nullptr,
                  [](const Reading& r, const Json& v) {  // of each layer
                    const Json D = r.model.d_model;
                    const bool same = v.is_null() || v == D ||
                                      (v.is_array() && v == Json(std::vector<int64_t>(size_t(r.model.layers), r.model.d_model)));
                    if (!same) wrong(r, "value_dim", "hidden_size in every layer", v);
                  },
                  [](const ModelConfig& m) { return std::vector<int64_t>(size_t(m.layers), m.d_model); }});
  return keys;
}

Keys swiglu_fla(double ratio) {
  return {carried("hidden_ratio", int64_t(ratio)), ffn("intermediate_size", ratio, swiglu_width), only("hidden_act", "swish"),
          carried("fuse_swiglu", true), spelled(only("attnres_block_size", nullptr))};
}

Keys gdn_fla() {
  Keys keys = sizes_fla(21);
  for (const Key& k : {size("num_heads", &ModelConfig::heads, 6), size("head_dim", &ModelConfig::head_dim, 256),
                       size("expand_v", &ModelConfig::expand_v, 2), same_heads("num_v_heads"),
                       flag("use_gate", &ModelConfig::output_gate, true), only("use_short_conv", true),
                       only("allow_neg_eigval", false), size("conv_size", &ModelConfig::conv_width, 4), norm_eps(1e-6)})
    keys.push_back(k);
  for (Key k : swiglu_fla(4)) {
    if (k.name == "intermediate_size") {
      k.read = [read = k.read](const Reading& r, const Json& v) {
        read(r, v);
        r.to.idle_ffn = r.model.ffn_width;
        r.model.ffn_width = 0;
      };
      k.write = [](const ModelConfig&) { return idle_width; };
    }
    keys.push_back(k);
  }
  return keys;
}

// FLA's expand_k and expand_v are widths over d_model; ours are K from the heads, and V over K.
Keys linear_attention(double expand_k, double expand_v, int64_t usual_heads, double ratio, bool convolutions) {
  Keys keys = sizes_fla(24);
  for (const Key& k :
       {size("num_heads", &ModelConfig::heads, usual_heads), only("expand_k", expand_k),
        Key{"expand_v", expand_v,
            [=](const Reading& r, const Json& v) {
              const double over = v.is_number() ? v.get<double>() / expand_k : 0;
              if (!(over >= 1 && over <= double(largest) && over == std::floor(over)))
                wrong(r, "expand_v", "a whole multiple of expand_k", v);
              r.model.expand_v = int64_t(over);
            },
            [=](const ModelConfig& m) { return double(m.expand_v) * expand_k; }},
        same_heads("num_kv_heads"), only("feature_map", nullptr), only("use_output_gate", true), only("elementwise_affine", true),
        only("fuse_norm", true), norm_eps(1e-6)})  // unfused, FLA gives a norm another name
    keys.push_back(k);
  if (convolutions) {
    keys.push_back(size("conv_size", &ModelConfig::conv_width, 4));
    keys.back().write = [](const ModelConfig& m) { return m.conv_width ? m.conv_width : 4; };
    keys.push_back({"use_short_conv", false,
                    [](const Reading& r, const Json& v) {
                      if (!v.is_boolean()) wrong(r, "use_short_conv", "true or false", v);
                      if (!v.get<bool>()) r.model.conv_width = 0;
                    },
                    [](const ModelConfig& m) { return m.conv_width > 0; }});
  } else {  // FLA's model does not hand the key on to its layers
    keys.push_back(only("use_short_conv", false));
    keys.push_back(carried("conv_size", 4));
  }
  for (const Key& k : swiglu_fla(ratio)) keys.push_back(k);
  return keys;
}
Keys gla(bool post) {
  Keys keys = linear_attention(0.5, 1, 4, 4, true);
  if (!post)
    for (const Key& k : {only("use_gk", true), only("use_gv", false), only("clamp_min", nullptr)}) keys.push_back(k);
  return keys;
}
Keys retnet() { return linear_attention(1, 2, 8, 2, false); }

struct Format {
  const char *dialect, *arch, *model_type, *architecture;
  std::vector<Keys> keys;  // all of them together
};

const std::vector<Format>& formats() {
  static const std::vector<Format> all{
      {"post", "mamba2", "mamba2_post", "Mamba2PoSTForCausalLM", {mamba2(false), fused(), post_keys(), generic()}},
      {"post", "rwkv7", "rwkv7_post", "RWKV7PoSTForCausalLM", {rwkv7_post(), reference_head(), post_keys(), generic()}},
      {"post", "gdn", "post_gated_deltanet", "GDNPoSTForCausalLM", {gdn_post(), reference_head(), post_keys(), generic()}},
      {"post", "gla", "gla_post", "GLAPoSTForCausalLM", {gla(true), attention_fla(), fused(), post_keys(), generic()}},
      {"post", "retnet", "retnet_post", "RetNetPoSTForCausalLM", {retnet(), attention_fla(), fused(), post_keys(), generic()}},
      {"fla", "mamba2", "mamba2", "Mamba2ForCausalLM", {mamba2(true), fused(), generic()}},
      {"fla", "rwkv7", "rwkv7", "RWKV7ForCausalLM", {rwkv7_fla(), attention_fla(), fused(true), generic()}},
      {"fla", "gdn", "gated_deltanet", "GatedDeltaNetForCausalLM", {gdn_fla(), attention_fla(), fused(), generic()}},
      {"fla", "gla", "gla", "GLAForCausalLM", {gla(false), attention_fla(), fused(), generic()}},
      {"fla", "retnet", "retnet", "RetNetForCausalLM", {retnet(), attention_fla(), fused(), generic()}},
  };
  return all;
}

// Python's json writes Infinity and NaN bare, where JSON has no word for them: as transformers 5 spells them.
std::string in_strict_json(const std::string& text) {
  std::string out;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto bare = [&](std::string_view word) { return !quoted && text.compare(i, word.size(), word) == 0; };
    for (const std::string_view word : {"-Infinity", "Infinity", "NaN"})
      if (bare(word)) {
        out += fmt::format("{{\"__float__\": \"{}\"}}", word);
        i += word.size();
        break;
      }
    if (i >= text.size()) break;
    if (quoted && text[i] == '\\' && i + 1 < text.size()) out += text[i++];
    else if (text[i] == '"') quoted = !quoted;
    out += text[i];
  }
  return out;
}

// The other way: {"__float__": "NaN"} becomes NaN.
std::string in_pythons_json(std::string text) {
  const std::string key = "\"__float__\"";
  for (size_t at = text.find(key); at != text.npos; at = text.find(key, at)) {
    const size_t open = text.rfind('{', at), word = text.find('"', at + key.size()) + 1, close = text.find('}', at);
    text.replace(open, close + 1 - open, text.substr(word, text.find('"', word) - word));
    at = open;
  }
  return text;
}

Json parse(const std::string& text, const std::string& who) {
  const std::string strict = in_strict_json(text);
  check_json_object(strict, who);
  return Json::parse(strict);
}

const Format* format_of(std::string_view model_type) {
  for (const Format& f : formats())
    if (model_type == f.model_type) return &f;
  return nullptr;
}

// The model with what does not change its function left out.
ModelConfig function_of(ModelConfig c) {
  c = completed(c);
  const auto unless = [](bool has, auto& field, auto value) {
    if (!has) field = value;
  };
  const bool rwkv = c.arch == "rwkv7", mamba = c.arch == "mamba2", gdn = c.arch == "gdn",
             attention = c.arch == "gla" || c.arch == "retnet";
  if ((mamba || gdn) && c.wiring == "mixer") c.wiring = "lm";
  c.vocab = vocabulary_rows(c);
  c.vocab_multiple = 1;
  c.dropout = 0;
  unless(mamba, c.d_state, 0);
  unless(gdn || attention, c.expand_v, 0);
  unless(!rwkv, c.conv_width, 0);
  unless(c.wiring == "lm" && (rwkv || attention), c.ffn_width, 0);
  unless(rwkv, c.decay_rank, 0);
  unless(rwkv, c.rate_rank, 0);
  unless(rwkv && c.layers > 1, c.value_rank, 0);
  unless(rwkv || (c.arch == "gla" && !c.post), c.gate_rank, 0);
  unless(gdn || attention, c.output_gate, true);
  unless(c.post && c.post_options.taper, c.train_length, 0);
  unless(c.post, c.post_options, PostConfig{});
  c.post_options.slowest_rate = c.post_options.fastest_rate = 0;
  return c;
}

}  // namespace

std::string model_difference(const ModelConfig& given_a, const ModelConfig& given_b) {
  const ModelConfig a = function_of(given_a), b = function_of(given_b);
  std::string found;
  const auto field = [&](const char* name, const auto& x, const auto& y) {
    if (found.empty() && x != y) found = fmt::format("{} = {} and {}", name, x, y);
  };
  field("arch", a.arch, b.arch);
  field("wiring", a.wiring, b.wiring);
  field("post", a.post, b.post);
  const PostConfig &p = a.post_options, &q = b.post_options;
  field("post.spectrum", p.spectrum, q.spectrum);
  field("post.taper", p.taper, q.taper);
  field("post.position_reference", p.position_reference, q.position_reference);
  field("post.data_dependent", p.data_dependent, q.data_dependent);
  for (const auto& [name, size] : {std::pair{"d_model", &ModelConfig::d_model},
                                   {"layers", &ModelConfig::layers},
                                   {"heads", &ModelConfig::heads},
                                   {"vocab", &ModelConfig::vocab},
                                   {"head_dim", &ModelConfig::head_dim},
                                   {"d_state", &ModelConfig::d_state},
                                   {"expand_v", &ModelConfig::expand_v},
                                   {"conv_width", &ModelConfig::conv_width},
                                   {"ffn_width", &ModelConfig::ffn_width},
                                   {"decay_rank", &ModelConfig::decay_rank},
                                   {"rate_rank", &ModelConfig::rate_rank},
                                   {"value_rank", &ModelConfig::value_rank},
                                   {"gate_rank", &ModelConfig::gate_rank},
                                   {"train_length", &ModelConfig::train_length}})
    field(name, a.*size, b.*size);
  field("output_gate", a.output_gate, b.output_gate);
  field("tied_head", a.tied_head, b.tied_head);
  field("norm_eps", a.norm_eps, b.norm_eps);
  return found;
}

ForeignConfig read_foreign_config(const std::string& text, const std::string& who, const TensorFacts& facts) {
  const Json all = parse(text, who);
  const Json type = all.value("model_type", Json());
  const Format* format = type.is_string() ? format_of(type.get<std::string>()) : nullptr;
  if (!format) {
    std::string known;
    for (const Format& f : formats()) known += (known.empty() ? "" : ", ") + std::string(f.model_type);
    fail(Exit::bad_config, "{}: model_type must be one of {}; got {}", who, known, shown(type));
  }

  ForeignConfig to{.dialect = format->dialect, .model_type = format->model_type, .model = {}, .unknown = {}};
  ModelConfig& model = to.model;
  model.arch = format->arch;
  model.post = facts.post && to.dialect == "post";
  model.post_options.data_dependent = model.post && model.arch == "retnet" && facts.data_dependent;
  std::set<std::string> known;
  const Reading reading{who, all, to, model};
  for (const Keys& keys : format->keys)
    for (const Key& key : keys) {
      known.insert(key.name);
      if (!key.read) continue;
      const auto found = all.find(key.name);
      if (found == all.end() && !key.written) continue;
      check(found != all.end() || !key.missing.is_discarded(), Exit::bad_config, "{}: {} is missing; a {} has it", who, key.name,
            format->model_type);
      key.read(reading, found == all.end() ? key.missing : *found);
    }
  for (const auto& [key, value] : all.items())
    if (!known.contains(key)) to.unknown.push_back(key);
  try {
    model = completed(model);
  } catch (const Error& e) {
    fail(e.code, "{}: {}", who, e.what());
  }
  return to;
}

std::string write_foreign_config(const ModelConfig& given, const ForeignWish& wish) {
  const ModelConfig model = completed(given);
  const std::string name = model.arch + (model.post ? " + PoST" : "");
  check(model.wiring != "mqar", Exit::bad_config,
        "convert: {} models of the recall task (model.wiring = \"mqar\") have no form in other programs", name);
  check(wish.dialect != "fla" || !model.post, Exit::bad_config, "convert: fla has baselines only, this is {}; use --to post",
        name);
  check(wish.dialect != "post" || model.post || (model.arch != "gla" && model.arch != "retnet"), Exit::bad_config,
        "convert: the reference of PoST has no baseline {}; use --to fla", name);
  const auto format =
      std::ranges::find_if(formats(), [&](const Format& f) { return f.dialect == wish.dialect && f.arch == model.arch; });
  check(format != formats().end(), "convert: no dialect {} for {}", wish.dialect, model.arch);

  const Json origin = wish.origin.empty() ? Json::object() : parse(wish.origin, "convert: the origin's config.json");
  nlohmann::json out;  // sorted, as transformers writes
  for (const Keys& keys : format->keys)
    for (const Key& key : keys) {
      if (!key.written) continue;
      const bool carries = !key.read && !key.write && origin.contains(key.name);
      out[key.name] = carries ? origin[key.name] : key.write ? key.write(model) : key.missing;
    }
  out["model_type"] = format->model_type;
  out["architectures"] = {format->architecture};
  out["dtype"] = wish.dtype;
  for (const char* id : {"bos_token_id", "eos_token_id"})
    if (wish.eod >= 0 && !origin.contains(id)) out[id] = wish.eod;
  const std::string text = out.dump(2) + "\n";

  const ForeignConfig back = read_foreign_config(text, "convert: config.json",
                                                 {.post = model.post, .data_dependent = model.post_options.data_dependent});
  const std::string difference = model_difference(model, back.model);
  check(difference.empty(), Exit::bad_config, "convert: {} has no way to say all of this {}: {} there", format->model_type, name,
        difference);
  return text;
}

std::string with_dtype(const std::string& text, const std::string& dtype) {
  Json all = parse(text, "config.json");
  all[all.contains("torch_dtype") ? "torch_dtype" : "dtype"] = dtype;
  const std::string out = all.dump(2) + "\n";
  if (in_strict_json(text) == text) return out;
  return in_pythons_json(out);  // as they stood
}

}  // namespace taper
