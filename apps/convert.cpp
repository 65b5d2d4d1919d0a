// convert: checkpoints of other programs into ours, ours into theirs, theirs into each other.
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/commands.h"
#include "apps/json_text.h"
#include "apps/trained.h"
#include "data/tokenizer.h"
#include "data/unicode.h"
#include "nn/interchange.h"
#include "tensor/error.h"
#include "tensor/json.h"

namespace taper {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Options {
  std::string path, to, out, dtype, tokenizer;
  bool lenient = false;
};

struct Source {
  std::string dialect;
  Config config;                   // ours: the run's; else the model alone
  std::vector<RawTensor> tensors;  // by our names
  std::string text = "";           // config.json that describes it; empty: there is none
  std::shared_ptr<WeightFiles> files;
  std::optional<Checkpoint> checkpoint = {};  // ours
};

Source read_ours(const Path& path) {
  const Checkpoint checkpoint = find_checkpoint(path);
  Source s{.dialect = "taper", .config = config_of(checkpoint), .tensors = {}, .files = {}};
  s.config.model = completed(s.config.model);
  s.files = std::make_shared<WeightFiles>(std::make_unique<SafetensorsFile>(checkpoint.path / "model.safetensors"));
  s.checkpoint = checkpoint;
  s.tensors = model_tensors(s.config.model, *s.files);
  const nlohmann::json state = nlohmann::json::parse(checkpoint.state);  // an object: config_of has looked
  if (state.contains("origin") && state["origin"].is_string()) s.text = state["origin"];
  return s;
}

Source read_theirs(const Path& path, bool lenient) {
  ForeignCheckpoint c = read_foreign(path);
  const std::vector<std::string>& unknown = c.config.unknown;
  if (!unknown.empty()) {
    std::string names;
    for (size_t i = 0; i < std::min<size_t>(unknown.size(), 5); ++i)
      names += (i ? ", " : "") + Json(unknown[i]).dump(-1, ' ', true).substr(0, 60);
    if (unknown.size() > 5) names += fmt::format(" and {} more", unknown.size() - 5);
    const std::string message =
        fmt::format("{}/config.json: {} {} no key{} of {} that taper knows", path.string(), names,
                    unknown.size() == 1 ? "is" : "are", unknown.size() == 1 ? "" : "s", c.config.model_type);
    check(lenient, Exit::bad_config, "{}; what it means for the model is not known; --lenient carries it along", message);
    fmt::print(stderr, "taper: warning: {}; carried along, where the dialect stays {}\n", message, c.config.dialect);
  }
  Source s{.dialect = c.config.dialect, .config = {}, .tensors = std::move(c.tensors), .text = c.text, .files = {}};
  s.config.model = c.config.model;
  s.files = std::make_shared<WeightFiles>(std::move(c.files));
  return s;
}

Source read_source(const Options& o) {
  const Path path = o.path;
  std::error_code error;
  check(fs::exists(path, error), Exit::no_input, "{}: no such checkpoint", o.path);
  check(fs::is_directory(path, error), Exit::no_input,
        "{}: a directory with config.json and model.safetensors is wanted; this is a file", o.path);
  if (fs::exists(path / "manifest.json", error) || fs::exists(path / "checkpoints", error)) return read_ours(path);
  check(fs::exists(path / "config.json", error), Exit::no_input,
        "{}: holds no checkpoint; config.json with model.safetensors, or a run or checkpoint of taper, is wanted", o.path);
  return read_theirs(path, o.lenient);
}

// Rates of decay differ by less than bf16 can tell: they stay f32.
bool sets_decays(const std::string& name) {
  const std::string last = name.substr(name.rfind('.') + 1);
  return last.starts_with("A_log") || last.starts_with("w0_") || last == "dt_bias";
}

void change_dtype(std::vector<RawTensor>& tensors, const std::string& dtype) {
  for (RawTensor& t : tensors) t = converted(t, dtype == "bf16" && !sets_decays(t.name) ? "BF16" : "F32");
}

std::string dtype_word(const std::vector<RawTensor>& tensors) {  // as config.json says it: that of the embedding
  const std::string& dtype = tensors.front().dtype;
  return dtype == "BF16" ? "bfloat16" : dtype == "F16" ? "float16" : dtype == "F64" ? "float64" : "float32";
}

// A run directory with one checkpoint, as if training had just begun, and fresh moments.
void write_ours(const Path& out, Source& s, const Tokenizer* tokenizer) {
  Device& cpu = open_device("cpu");
  Config& c = s.config;
  c.run.dir = out.string();
  if (s.dialect != "taper") {
    c.data.sequence = c.model.train_length;
    c.train.batch = 1;
  }
  if (tokenizer) c.data.tokenizer = tokenizer->identity();
  const bool narrow = std::ranges::any_of(s.tensors, [](const RawTensor& t) { return t.dtype == "F16"; });

  LanguageModel model(c.model, 0, open_device("plan"));
  std::vector<Parameter*> parameters = model.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) parameters[i]->value = to_tensor(s.tensors[i], cpu);
  AdamW optimizer({}, parameters);
  if (narrow && !s.text.empty()) s.text = with_dtype(s.text, "float32");  // F16 is no dtype of ours
  Json state = {{"config", write_config(c)}, {"data", "converted"}, {"epoch", 0}, {"index", 0}};
  if (!s.text.empty()) state["origin"] = s.text;

  DirectoryWriter writer(out);
  save_checkpoint(writer.temporary() / "checkpoints",
                  {.step = 0, .parameters = parameters, .optimizer = optimizer, .state = state.dump(2) + "\n"}, 1);
  write_file(writer.temporary() / "config.toml", write_config(c));
  if (tokenizer) store_tokenizer(*tokenizer, writer.temporary());
  writer.commit();
}

void write_theirs(const Path& out, const std::string& config, const std::vector<RawTensor>& tensors,
                  const std::map<std::string, std::string>& metadata, const Tokenizer* tokenizer) {
  DirectoryWriter writer(out);
  write_safetensors(writer.temporary() / "model.safetensors", tensors, metadata);
  write_file(writer.temporary() / "config.json", config);
  if (tokenizer) store_tokenizer(*tokenizer, writer.temporary());
  writer.commit();
}

void check_vocabulary(const Tokenizer& tokenizer, int64_t rows) {
  check(tokenizer.vocab() <= rows, Exit::bad_config, "convert: tokenizer {} has {} tokens; the model's vocabulary has {}", tokenizer.identity(),
        tokenizer.vocab(), rows);
}

// The tokenizer whose file lies beside another program's checkpoint; null: there is none. One that cannot be used stops nothing:
// nobody asked for it.
std::unique_ptr<Tokenizer> tokenizer_beside(const Path& checkpoint, int64_t rows) {
  for (const char* name : {"tokenizer.json", "vocab.txt", "rwkv_vocab_v20230424.txt"}) {
    std::error_code error;
    if (!fs::exists(checkpoint / name, error)) continue;
    try {
      std::unique_ptr<Tokenizer> tokenizer = open_tokenizer((checkpoint / name).string());
      check_vocabulary(*tokenizer, rows);
      return tokenizer;
    } catch (const Error& e) {
      fmt::print(stderr, "taper: warning: the tokenizer beside the checkpoint is left out: {}\n", e.what());
      return nullptr;
    }
  }
  return nullptr;
}

// --tokenizer's, the run's own, the one beside the checkpoint, or bytes where the vocabulary is theirs; null: not known.
std::unique_ptr<Tokenizer> tokenizer_for(const Options& o, const Source& s, int64_t rows) {
  std::unique_ptr<Tokenizer> tokenizer;
  if (!o.tokenizer.empty()) tokenizer = open_tokenizer(o.tokenizer);
  else if (!s.config.data.tokenizer.empty()) tokenizer = tokenizer_of(s.config, *s.checkpoint);
  if (tokenizer) check_vocabulary(*tokenizer, rows);
  if (tokenizer || s.dialect == "taper") return tokenizer;
  if ((tokenizer = tokenizer_beside(o.path, rows))) return tokenizer;
  auto bytes = open_tokenizer("bytes");
  return o.to == "taper" && rounded_up(bytes->vocab(), s.config.model.vocab_multiple) == rows ? std::move(bytes) : nullptr;
}

int convert(const Options& o, const Common& common) {
  std::error_code error;
  check(!fs::exists(o.out, error) || fs::is_empty(o.out, error), Exit::cannot_create,
        "{}: exists; name a directory that does not", o.out);
  check(o.to != "taper" || valid_utf8(o.out) == o.out.size(), Exit::usage,
        "convert: {}: a run's directory stands in its config.toml, so that its name must be UTF-8; give another", o.out);
  Source s = read_source(o);
  const ModelConfig& model = s.config.model;
  const int64_t rows = vocabulary_rows(model);
  const std::unique_ptr<Tokenizer> tokenizer = tokenizer_for(o, s, rows);

  std::vector<RawTensor> stored = s.files->tensors();
  if (!o.dtype.empty()) {
    change_dtype(s.tensors, o.dtype);
    if (s.dialect == o.to) change_dtype(stored, o.dtype);
    if (!s.text.empty()) s.text = with_dtype(s.text, dtype_word(s.tensors));
  }
  if (o.to == "taper") {
    write_ours(o.out, s, tokenizer.get());
  } else if (s.dialect == o.to) {
    write_theirs(o.out, s.text, stored, s.files->metadata(), tokenizer.get());
  } else {
    const ForeignFiles files =
        in_dialect(model, s.tensors,
                   {.dialect = o.to, .dtype = dtype_word(s.tensors), .origin = s.text, .eod = tokenizer ? tokenizer->eod() : -1});
    write_theirs(o.out, files.config, files.tensors, {}, tokenizer.get());
  }

  int64_t parameters = 0;
  for (const RawTensor& t : s.tensors) parameters += t.shape.numel();
  const Json record = {{"out", o.out},
                       {"from", s.dialect},
                       {"to", o.to},
                       {"arch", model.arch},
                       {"post", model.post},
                       {"tensors", s.tensors.size()},
                       {"parameters", parameters},
                       {"dtype", dtype_word(s.tensors)},
                       {"tokenizer", tokenizer ? Json(tokenizer->identity()) : Json(nullptr)}};
  if (o.to == "taper" && !tokenizer)
    fmt::print(
        stderr,
        "taper: warning: no tokenizer is known for a vocabulary of {}; to evaluate or generate text, convert with --tokenizer\n",
        rows);
  if (common.json) fmt::print("{}\n", json_text(record));
  else
    fmt::print("{}: {}{} from {} to {}, {} tensors, {} parameters, {}\n", o.out, model.arch, model.post ? " + PoST" : "",
               s.dialect, o.to, s.tensors.size(), parameters, dtype_word(s.tensors));
  return 0;
}

}  // namespace

void convert_command(CLI::App& program, Common& common) {
  auto o = std::make_shared<Options>();
  CLI::App& app = *program.add_subcommand("convert", "Reads and writes the checkpoints of other programs");
  app.add_option("CHECKPOINT", o->path, "A directory: a run or checkpoint, or config.json with model.safetensors")->required();
  app.add_option("--to", o->to, "taper; post, the reference of PoST; or fla, flash-linear-attention (baselines)")
      ->required()
      ->check(CLI::IsMember({"taper", "post", "fla"}));
  app.add_option("--out", o->out, "The directory to write; it must not exist")->required();
  app.add_option("--dtype", o->dtype, "f32 or bf16, in which decays stay f32 (as they are)")
      ->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--tokenizer", o->tokenizer,
                 "The model's tokenizer: bytes, or the path of its file (the tokenizer.json beside the checkpoint; bytes, where the vocabulary is theirs)");
  app.add_flag("--lenient", o->lenient, "Carry keys of config.json along that are not known");
  app.callback([=, &common] { common.chosen = [=, &common] { return convert(*o, common); }; });
}

}  // namespace taper
