// Golden: reads the sizes, fills the model, compares.
#include "apps/golden.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "nn/model.h"
#include "nn/safetensors.h"
#include "tensor/error.h"

namespace taper {
namespace {

int64_t size_in(const SafetensorsFile& file, const char* key) {
  const auto found = file.metadata().find(key);
  check(found != file.metadata().end(), Exit::bad_data, "golden {}: its metadata must hold '{}'", file.path().string(), key);
  int64_t value = 0;
  const std::string& text = found->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  check(error == std::errc() && end == text.data() + text.size(), Exit::bad_data, "golden {}: metadata '{}' must be a whole number; got '{}'",
        file.path().string(), key, text);
  return value;
}

// Which architecture's tensors these are, and of what sizes: the names tell, then the metadata and the shapes.
ModelConfig config_of(const SafetensorsFile& file, bool layer) {
  const std::string mixer = layer ? "param." : "param.layers.0.mixer.";
  const auto has = [&](const char* name) { return file.contains(mixer + name); };
  const auto rows = [&](const char* name) { return file.info(mixer + name).shape[0]; };
  ModelConfig c;
  c.d_model = size_in(file, "d_model");
  c.heads = size_in(file, "heads");
  c.post = has("A_log_base") || has("w0_base");
  if (c.post || !layer) c.train_length = size_in(file, "train_length");
  if (layer) {
    c.layers = c.vocab = c.expand_v = 1;
    c.wiring = "mixer";
    c.norm_eps = 1e-5;
    c.arch = has("gk_proj.0.weight") || has("A_log_base") ? "gla" : "retnet";
    if (has("gk_proj.0.weight")) c.gate_rank = rows("gk_proj.0.weight");
    return c;
  }
  c.layers = size_in(file, "n_layer");
  c.head_dim = size_in(file, "head_dim");
  c.vocab = size_in(file, "vocab");
  if (has("in_proj.weight")) {
    c.arch = "mamba2";
    c.d_state = size_in(file, "d_state");
  } else if (has("b_proj.weight")) {
    c.arch = "gdn";
    c.expand_v = size_in(file, "expand_v");
  } else if (has("w_lora.lora.0.weight")) {
    c.arch = "rwkv7";
    c.decay_rank = rows("w_lora.lora.0.weight");
    c.rate_rank = rows("a_lora.lora.0.weight");
    c.gate_rank = rows("g_lora.lora.0.weight");
    if (file.contains("param.layers.1.mixer.v_lora.lora.0.weight"))
      c.value_rank = file.info("param.layers.1.mixer.v_lora.lora.0.weight").shape[0];
  } else {
    fail(Exit::bad_data, "golden {}: its tensors must be those of mamba2, rwkv7, gdn, gla or retnet; they fit none", file.path().string());
  }
  return c;
}

double relative(const std::vector<double>& got, const std::vector<double>& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(difference / norm);
}

// The stored value of a parameter or an output, of this shape.
Tensor stored(const SafetensorsFile& file, const std::string& name, const Shape& shape) {
  const Tensor t = file.read(name, open_device("cpu"));
  check(t.shape() == shape, Exit::bad_data, "golden {}: {} must be {}; it is {}", file.path().string(), name, shape.text(), t.shape().text());
  return t;
}

void fill(const SafetensorsFile& file, Parameter& p) {
  p.value = from_doubles(p.value.device(), p.value.shape(), Dtype::f64, to_doubles(stored(file, "param." + p.name, p.value.shape())));
  p.trainable = file.contains("grad." + p.name);
}

// Keeps the worst gradient, and whether all were numbers.
struct Compared {
  GoldenRecord& r;
  bool finite = true;
  void operator()(const std::string& name, const Tensor& got, const Tensor& want) {
    const double error = relative(to_doubles(got), to_doubles(want));
    finite = finite && std::isfinite(error);
    if (r.worst.empty() || !(error <= r.gradient_error)) r.gradient_error = error, r.worst = name;
  }
  void forward(const Tensor& got, const Tensor& want) {
    const double error = relative(to_doubles(got), to_doubles(want));
    finite = finite && std::isfinite(error);
    r.forward_error = std::max(r.forward_error, error);
  }
};

bool check_model(const SafetensorsFile& file, const ModelConfig& config, GoldenRecord& r) {
  Device& cpu = open_device("cpu");
  LanguageModel model(config, 0, cpu, Dtype::f64);
  model.fused = false;
  model.each([&](Parameter& p) { fill(file, p); });
  const Tensor ids = file.read("ids", cpu);
  check(ids.rank() == 2 && ids.dtype() == Dtype::i32, Exit::bad_data, "golden {}: ids must be I32 [B,T]; they are {} {}", file.path().string(),
        name(ids.dtype()), ids.shape().text());
  const int64_t B = ids.size(0), T = ids.size(1);
  const std::vector<int32_t> tokens = to_host<int32_t>(ids);
  std::vector<int32_t> labels(tokens.size(), -100);
  for (int64_t i = 0; i < B * T; ++i)
    if (i % T != T - 1) labels[size_t(i)] = tokens[size_t(i + 1)];

  Tape tape;
  const Var logits = model.logits(tape, ids, {});
  const Var loss = scale(sum(cross_entropy(logits, from_host<int32_t>(cpu, {B, T}, labels))), 1 / double(B * (T - 1)));
  const auto gradients = backward(loss, full(cpu, {}, Dtype::f64, 1));
  Compared compare{r};
  compare.forward(logits.value, stored(file, "logits", logits.shape()));
  compare.forward(loss.value, stored(file, "loss", {1}));
  for (Parameter* p : model.parameters())
    if (p->trainable) compare(p->name, gradients.at(p->name), stored(file, "grad." + p->name, p->value.shape()));
  return compare.finite;
}

bool check_layer(const SafetensorsFile& file, const ModelConfig& config, GoldenRecord& r) {
  Device& cpu = open_device("cpu");
  const auto mixer = make_mixer(completed(config), Init(0, cpu, Dtype::f64), 0);
  std::vector<Parameter*> parameters;
  mixer->each([&](Parameter& p) { fill(file, p), parameters.push_back(&p); });
  const auto in_f64 = [&](const Tensor& t) { return from_doubles(cpu, t.shape(), Dtype::f64, to_doubles(t)); };
  const Tensor x = in_f64(file.read("x", cpu));
  Tape tape;
  const Packing one_document;
  Pass pass{.packing = one_document};
  const Var y = mixer->forward(tape, tape.leaf("x", x), pass, nullptr);
  const auto gradients = backward(y, in_f64(stored(file, "dy", y.shape())));
  Compared compare{r};
  compare.forward(y.value, stored(file, "y", y.shape()));
  compare("x", gradients.at("x"), stored(file, "dx", x.shape()));
  for (Parameter* p : parameters)
    if (p->trainable) compare(p->name, gradients.at(p->name), stored(file, "grad." + p->name, p->value.shape()));
  return compare.finite;
}

}  // namespace

GoldenRecord check_golden(const Path& path) {
  const SafetensorsFile file(path);
  const bool layer = file.contains("dy");
  const ModelConfig config = config_of(file, layer);
  GoldenRecord r;
  r.file = path.string();
  r.architecture = config.post ? config.arch + "_post" : config.arch;
  const bool finite = layer ? check_layer(file, config, r) : check_model(file, config, r);
  r.pass = finite && r.forward_error <= 5e-6 && r.gradient_error <= 2e-4;
  return r;
}

}  // namespace taper
