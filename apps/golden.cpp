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

// Which architecture's tensors these are: the first layer's mixer tells.
ModelConfig config_of(const SafetensorsFile& file) {
  const std::string mixer = "param.layers.0.mixer.";
  ModelConfig c;
  c.post = file.contains(mixer + "A_log_base");
  c.d_model = size_in(file, "d_model");
  c.layers = size_in(file, "n_layer");
  c.heads = size_in(file, "heads");
  c.head_dim = size_in(file, "head_dim");
  c.vocab = size_in(file, "vocab");
  c.train_length = size_in(file, "train_length");
  if (file.contains(mixer + "in_proj.weight")) {
    c.arch = "mamba2";
    c.d_state = size_in(file, "d_state");
  } else if (file.contains(mixer + "b_proj.weight")) {
    c.arch = "gdn";
    c.expand_v = size_in(file, "expand_v");
  } else {
    fail(Exit::bad_data, "golden {}: its tensors must be those of mamba2 or gdn; they fit neither", file.path().string());
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

}  // namespace

GoldenRecord check_golden(const Path& path) {
  const SafetensorsFile file(path);
  const ModelConfig config = config_of(file);
  Device& cpu = open_device("cpu");
  LanguageModel model(config, 0, cpu, Dtype::f64);
  for (Parameter* p : model.parameters()) {
    const Tensor stored = file.read("param." + p->name, cpu);
    check(stored.shape() == p->value.shape(), Exit::bad_data, "golden {}: param.{} must be {}; it is {}", path.string(), p->name,
          p->value.shape().text(), stored.shape().text());
    p->value = from_doubles(cpu, p->value.shape(), Dtype::f64, to_doubles(stored));
    p->trainable = file.contains("grad." + p->name);
  }

  const Tensor ids = file.read("ids", cpu);
  check(ids.rank() == 2 && ids.dtype() == Dtype::i32, Exit::bad_data, "golden {}: ids must be I32 [B,T]; they are {} {}", path.string(),
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

  GoldenRecord r;
  r.file = path.string();
  r.architecture = config.post ? config.arch + "_post" : config.arch;
  const std::vector<double> want_logits = to_doubles(file.read("logits", cpu));
  check(want_logits.size() == size_t(logits.value.numel()), Exit::bad_data, "golden {}: logits must be {}", path.string(), logits.shape().text());
  r.forward_error = std::max(relative(to_doubles(logits.value), want_logits), relative(to_doubles(loss.value), to_doubles(file.read("loss", cpu))));
  bool finite = std::isfinite(r.forward_error);
  for (Parameter* p : model.parameters()) {
    if (!p->trainable) continue;
    const double error = relative(to_doubles(gradients.at(p->name)), to_doubles(file.read("grad." + p->name, cpu)));
    finite = finite && std::isfinite(error);
    if (r.worst.empty() || !(error <= r.gradient_error)) r.gradient_error = error, r.worst = p->name;
  }
  r.pass = finite && r.forward_error <= 5e-6 && r.gradient_error <= 2e-4;
  return r;
}

}  // namespace taper
