// Interchange: the tables of names, and what must fit.
#include "nn/interchange.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "nn/model.h"
#include "tensor/error.h"
#include "tensor/json.h"

namespace taper {
namespace {

namespace fs = std::filesystem;

constexpr const char* single_file = "model.safetensors";
constexpr const char* index_file = "model.safetensors.index.json";

// '#' stands for the layer's number, '*' for the rest of the name. The first pattern that fits counts.
struct Name {
  const char *ours, *theirs;
};
using Names = std::vector<Name>;

const Names same_names{{"*", "*"}};
const Names head_at_top{{"lm_head.weight", "head.weight"}, {"*", "*"}};
const Names fla_mamba2{{"embedding.weight", "backbone.embeddings.weight"},
                       {"lm_head.weight", "lm_head.weight"},
                       {"*", "backbone.*"}};  // layers.#.norm, layers.#.mixer, norm_f
const Names fla_rwkv7{{"embedding.weight", "model.embeddings.weight"},
                      {"pre_norm.*", "model.layers.0.pre_norm.*"},
                      {"layers.#.norm.*", "model.layers.#.attn_norm.*"},
                      {"layers.#.mixer.*", "model.layers.#.attn.*"},
                      {"layers.#.ffn_norm.*", "model.layers.#.ffn_norm.*"},
                      {"layers.#.ffn.*", "model.layers.#.ffn.*"},
                      {"norm_f.*", "model.norm.*"},
                      {"lm_head.weight", "lm_head.weight"}};
const Names fla_gdn{{"embedding.weight", "model.embeddings.weight"},
                    {"layers.#.norm.weight", "model.layers.#.attn_norm.weight"},
                    {"layers.#.mixer.*", "model.layers.#.attn.*"},
                    {"norm_f.weight", "model.norm.weight"},
                    {"lm_head.weight", "lm_head.weight"}};
const Names fla_attention{{"embedding.weight", "model.embeddings.weight"},
                          {"layers.#.norm.weight", "model.layers.#.attn_norm.weight"},
                          {"layers.#.mixer.*", "model.layers.#.attn.*"},
                          {"layers.#.ffn_norm.weight", "model.layers.#.mlp_norm.weight"},
                          {"layers.#.ffn.*", "model.layers.#.mlp.*"},
                          {"norm_f.weight", "model.norm.weight"},
                          {"lm_head.weight", "lm_head.weight"}};

const Names& names_of(const std::string& dialect, const std::string& arch) {
  if (arch == "gla" || arch == "retnet") return fla_attention;
  if (dialect == "fla") return arch == "mamba2" ? fla_mamba2 : arch == "rwkv7" ? fla_rwkv7 : fla_gdn;
  return arch == "mamba2" ? same_names : head_at_top;
}

// `to` with what '#' and '*' of `pattern` stand for in `name`; nothing where it does not fit.
std::optional<std::string> renamed(std::string_view name, std::string_view pattern, std::string_view to) {
  std::string layer, rest;
  size_t at = 0;
  for (const char c : pattern) {
    if (c == '#') {
      while (at < name.size() && name[at] >= '0' && name[at] <= '9') layer += name[at++];
      if (layer.empty()) return {};
    } else if (c == '*') {
      rest = name.substr(at);
      at = name.size();
    } else if (at >= name.size() || name[at++] != c) {
      return {};
    }
  }
  if (at != name.size()) return {};
  std::string out;
  for (const char c : to) out += c == '#' ? layer : c == '*' ? rest : std::string(1, c);
  return out;
}

std::string their_name(const Names& names, const std::string& ours) {
  for (const Name& n : names)
    if (const auto theirs = renamed(ours, n.ours, n.theirs)) return *theirs;
  fail("interchange: no pattern fits the name '{}'", ours);
}

std::string shown(const std::string& name) { return nlohmann::json(name).dump(-1, ' ', true).substr(0, 100); }

// Takes tensors one by one, and names at the end all that did not fit.
class Fitting {
 public:
  Fitting(const Path& path, const std::vector<RawTensor>& tensors, std::string what) : path_(path), what_(std::move(what)) {
    for (const RawTensor& t : tensors) left_.emplace(t.name, t);
  }
  bool has(const std::string& name) const { return left_.contains(name); }
  // The tensor of this name; without data, and remembered, where it is missing or of another shape.
  RawTensor take(const std::string& name, const Shape& shape) {
    const auto found = left_.find(name);
    if (found == left_.end()) {
      problems_.push_back(fmt::format("{} is missing", shown(name)));
      return {};
    }
    const RawTensor t = found->second;
    left_.erase(found);
    if (!(t.shape == shape) || !t.is_float())
      problems_.push_back(fmt::format("{} must be floats {}; it is {} {}", shown(name), shape.text(), t.dtype, t.shape.text()));
    return t;
  }
  void finish() {
    for (const auto& [name, t] : left_) problems_.push_back(fmt::format("{} is surplus", shown(name)));
    if (problems_.empty()) return;
    constexpr size_t most = 4;
    std::string list;
    for (size_t i = 0; i < std::min(most, problems_.size()); ++i) list += (i ? "; " : "") + problems_[i];
    if (problems_.size() > most) list += fmt::format("; and {} more", problems_.size() - most);
    fail(Exit::bad_data, "{}: {} tensor{} not fit {}: {}", path_.string(), problems_.size(),
         problems_.size() == 1 ? " does" : "s do", what_, list);
  }

 private:
  const Path path_;
  const std::string what_;
  std::map<std::string, RawTensor> left_;
  std::vector<std::string> problems_;
};

// What FLA's gated_deltanet has beside ours, in each layer. Ours is the same function where `down` is zero.
struct IdleLayer {
  std::string norm, gate, up, down;
  explicit IdleLayer(int64_t i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    norm = layer + "mlp_norm.weight";
    gate = layer + "mlp.gate_proj.weight";
    up = layer + "mlp.up_proj.weight";
    down = layer + "mlp.down_proj.weight";
  }
};

// RWKV-7 in FLA's first version has x_r x_w x_k x_v x_a x_g as the rows of one x_x.
std::vector<RawTensor> without_x_x(const std::vector<RawTensor>& stored) {
  std::vector<RawTensor> tensors;
  for (const RawTensor& t : stored) {
    if (!t.name.ends_with(".attn.x_x") || t.shape.rank() != 2 || t.shape[0] != 6) {
      tensors.push_back(t);
      continue;
    }
    const std::string prefix = t.name.substr(0, t.name.size() - 1);
    for (int64_t i = 0; i < 6; ++i) tensors.push_back(part(t, i, prefix + "rwkvag" [i], { 1, 1, t.shape[1] }));
  }
  return tensors;
}

std::vector<RawTensor> fitted(const ModelConfig& given, const Path& path, const std::vector<RawTensor>& stored,
                              const Names& names, int64_t idle_ffn) {
  LanguageModel model(given, 0, open_device("plan"));
  const ModelConfig& c = model.config;
  Fitting fitting(path, stored,
                  fmt::format("{}{} of {} layers, d_model {}, {} heads, vocabulary {}", c.arch, c.post ? " + PoST" : "", c.layers,
                              c.d_model, c.heads, c.vocab));
  std::vector<RawTensor> tensors, heads, idle;
  for (const Parameter* p : model.parameters()) {
    tensors.push_back(fitting.take(their_name(names, p->name), p->value.shape()));
    tensors.back().name = p->name;
  }
  for (const char* head : {"lm_head.weight", "head.weight"})
    if (c.tied_head && fitting.has(head)) heads.push_back(fitting.take(head, model.embedding.value.shape()));
  for (int64_t i = 0; idle_ffn && i < c.layers; ++i) {
    const IdleLayer layer(i);
    fitting.take(layer.norm, {c.d_model});
    for (const std::string& name : {layer.gate, layer.up}) fitting.take(name, {idle_ffn, c.d_model});
    idle.push_back(fitting.take(layer.down, {c.d_model, idle_ffn}));
  }
  fitting.finish();
  for (const RawTensor& head : heads)
    check(same_bytes(head, tensors.front()), Exit::bad_data, "{}: {} must equal {} (the head is tied); it differs", path.string(),
          shown(head.name), shown(their_name(names, "embedding.weight")));
  for (const RawTensor& down : idle)
    check(all_zero(down), Exit::bad_config,
          "{}: {} must be zero: gdn has no feed-forward layer in taper; here it has one that does something", path.string(),
          shown(down.name));
  return tensors;
}

bool any(const std::vector<RawTensor>& tensors, std::string_view end) {
  return std::ranges::any_of(tensors, [&](const RawTensor& t) { return t.name.ends_with(end); });
}

TensorFacts facts_of(const std::vector<RawTensor>& tensors) {
  return {.post = any(tensors, ".A_log_base") || any(tensors, ".w0_base"), .data_dependent = any(tensors, ".a_proj.weight")};
}

// Whose tensors these are, by one that only it has; empty: nobody's.
std::string arch_of(const std::vector<RawTensor>& tensors) {
  for (const auto& [end, arch] : {std::pair{".in_proj.weight", "mamba2"},
                                  {".w_lora.lora.0.weight", "rwkv7"},
                                  {".b_proj.weight", "gdn"},
                                  {".gk_proj.0.weight", "gla"},
                                  {".a_proj.weight", "gla or retnet"},
                                  {".q_proj.weight", "retnet"}})
    if (any(tensors, end)) return arch;
  return "";
}

nlohmann::json parsed(const Path& path) {
  const std::string text = read_file(path);
  check_json_object(text, path.string());
  return nlohmann::json::parse(text);
}

// Does config.json, read in its dialect, say this model?
bool describes(const std::string& text, const std::string& dialect, const ModelConfig& model) {
  const ForeignConfig c = read_foreign_config(text, "convert: the checkpoint's own config.json",
                                              {.post = model.post, .data_dependent = model.post_options.data_dependent});
  return c.dialect == dialect && model_difference(c.model, model).empty();
}

}  // namespace

WeightFiles::WeightFiles(std::unique_ptr<SafetensorsFile> file) : path_(file->path()) {
  files_.push_back(std::move(file));
  for (const std::string& name : files_[0]->names()) tensors_.push_back(files_[0]->raw(name));
}

WeightFiles::WeightFiles(const Path& directory) : path_(directory) {
  std::error_code error;
  if (fs::exists(directory / single_file, error)) {
    *this = WeightFiles(std::make_unique<SafetensorsFile>(directory / single_file));
    return;
  }
  const Path index = directory / index_file;
  const bool pickle =
      fs::exists(directory / "pytorch_model.bin", error) || fs::exists(directory / "pytorch_model.bin.index.json", error);
  check(fs::exists(index, error), Exit::no_input, "{}: {} is missing{}", directory.string(), single_file,
        pickle ? "; pytorch_model.bin is a pickle, which can run code and is not read: save it as safetensors first" : "");
  const nlohmann::json json = parsed(index), map = json.value("weight_map", nlohmann::json());
  check(map.is_object() && !map.empty(), Exit::bad_data, "{}: weight_map must be an object of tensors and files", index.string());
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [name, file] : map.items()) {
    // A file beside the index, whatever the index says.
    const bool plain = file.is_string() && file.get_ref<const std::string&>().find_first_of("/\\") == std::string::npos &&
                       file.get_ref<const std::string&>().ends_with(".safetensors");
    check(plain, Exit::bad_data, "{}: {} must be in a file of this directory, NAME.safetensors; got {}", index.string(),
          shown(name), file.dump(-1, ' ', true).substr(0, 100));
    shards[file.get<std::string>()].insert(name);
  }
  for (const auto& [file, names] : shards) {
    files_.push_back(std::make_unique<SafetensorsFile>(directory / file));
    for (const std::string& name : files_.back()->names())
      check(names.contains(name), Exit::bad_data, "{}: {} is in {}; the index does not say so", index.string(), shown(name),
            file);
    for (const std::string& name : names) tensors_.push_back(files_.back()->raw(name));
  }
  std::ranges::sort(tensors_, {}, &RawTensor::name);
}

ForeignCheckpoint read_foreign(const Path& directory) {
  const Path config = directory / "config.json";
  ForeignCheckpoint c{.config = {}, .text = read_file(config), .files = WeightFiles(directory), .tensors = {}};
  const std::vector<RawTensor> stored = without_x_x(c.files.tensors());
  const TensorFacts facts = facts_of(stored);
  c.config = read_foreign_config(c.text, config.string(), facts);
  const std::string arch = c.config.model.arch, tensors = arch_of(stored);
  check(tensors.find(arch) != tensors.npos, Exit::bad_data, "{}: config.json says {} ({}); the tensors are those of {}",
        directory.string(), c.config.model_type, arch, tensors.empty() ? "no architecture that is known" : tensors);
  check(facts.post || c.config.dialect == "fla" || (arch != "gla" && arch != "retnet"), Exit::bad_data,
        "{}: config.json says {}; the tensors have no spectrum (A_log_base): a baseline has model_type {}", directory.string(),
        c.config.model_type, arch);
  check(c.config.model.layers <= int64_t(stored.size()), Exit::bad_data, "{}: config.json says {} layers; there are {} tensors",
        directory.string(), c.config.model.layers, stored.size());
  c.tensors = fitted(c.config.model, directory, stored, names_of(c.config.dialect, arch), c.config.idle_ffn);
  return c;
}

std::vector<RawTensor> model_tensors(const ModelConfig& model, const WeightFiles& files) {
  return fitted(model, files.path(), files.tensors(), same_names, 0);
}

ForeignFiles in_dialect(const ModelConfig& model, const std::vector<RawTensor>& tensors, const ForeignWish& wish) {
  ForeignFiles files;
  const bool keep = !wish.origin.empty() && describes(wish.origin, wish.dialect, model);
  files.config = write_foreign_config(model, wish);  // also where the origin is kept: it refuses what cannot be said
  if (keep) files.config = wish.origin;
  const Names& names = names_of(wish.dialect, model.arch);
  for (const RawTensor& t : tensors) files.tensors.push_back(t), files.tensors.back().name = their_name(names, t.name);

  const TensorFacts facts{.post = model.post, .data_dependent = model.post_options.data_dependent};
  const int64_t idle = read_foreign_config(files.config, "convert: config.json", facts).idle_ffn;
  for (int64_t i = 0; idle && i < model.layers; ++i) {
    const IdleLayer layer(i);
    const std::string& dtype = tensors.front().dtype;
    files.tensors.push_back(filled(layer.norm, dtype, {model.d_model}, true));
    for (const std::string& name : {layer.gate, layer.up})
      files.tensors.push_back(filled(name, dtype, {idle, model.d_model}, false));
    files.tensors.push_back(filled(layer.down, dtype, {model.d_model, idle}, false));
  }
  return files;
}

}  // namespace taper
