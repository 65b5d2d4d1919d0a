// info: what this build is, what a preset or configuration amounts to, and what a run has learned.
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/commands.h"
#include "apps/json_text.h"
#include "apps/trained.h"
#include "apps/version.h"
#include "tensor/error.h"
#include "tensor/gemm.h"
#include "tensor/kernel.h"
#include "tensor/ops/matmul.h"
#include "tensor/parallel.h"

namespace taper {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string path, preset, config;
  int64_t vocab = 0;
};

// Who multiplies which product there, a line per dtype.
Json matmul_rules(Device& gpu) {
  std::string text;
  kernels::matmul_backends({.on = &gpu, .text = &text});
  Json lines = Json::array();
  std::istringstream all(text);
  for (std::string line; std::getline(all, line);) lines.push_back(line);
  return lines;
}

Json build_info() {
  Json kernels = Json::object();
  for (const KernelSlots& k : registered_kernels())
    for (int d = 0; d < device_kinds_with_kernels; ++d)
      if (k.filled[d]) kernels[k.name].push_back(name(DeviceKind(d)));
  Json out{{"version", version},
           {"compiler", __VERSION__},
           {"device", open_device("auto").name()},
           {"threads", thread_count()},
           {"gemm", gemm_backend()}};
  out["driver"] = "none: this build has no CUDA backend";
  out["cublaslt"] = nullptr;
  out["gpus"] = Json::array();
  for (const BackendFacts& backend : backends()) {
    out["driver"] = backend.driver;
    if (!backend.cublaslt.empty()) out["cublaslt"] = backend.cublaslt;
    for (const DeviceFacts& d : backend.devices) {
      Json gpu{{"name", d.name}, {"product", d.product}, {"capability", d.capability}, {"memory_bytes", d.memory}};
      if (d.fault.empty()) gpu["kernels"] = d.kernels, gpu["matmul"] = matmul_rules(open_device(d.name));
      else gpu["fault"] = d.fault;
      out["gpus"].push_back(gpu);
    }
  }
  out["presets"] = model_presets();
  out["kernels"] = kernels;
  return out;
}

// Counted by building the model where memory costs nothing.
Json model_info(const ModelConfig& given) {
  LanguageModel model(given, 0, open_device("plan"));
  const ModelConfig& config = model.config;
  int64_t trainable = 0;
  for (const Parameter* p : model.parameters()) trainable += p->trainable ? p->value.numel() : 0;
  return {{"arch", config.arch},           {"post", config.post},         {"d_model", config.d_model},   {"layers", config.layers},
          {"heads", config.heads},         {"head_dim", config.head_dim}, {"vocab", config.vocab},
          {"parameters", model.parameter_count()}, {"trainable", trainable}};
}

Json spectrum_info(const LanguageModel& model) {
  Json layers = Json::array();
  for (const Block& block : model.blocks) {
    Json rate = Json::array(), time = Json::array(), alpha = Json::array();
    for (const HeadSpectrum& h : block.mixer->spectrum()) rate.push_back(h.rate), time.push_back(h.time_constant), alpha.push_back(h.alpha);
    layers.push_back({{"rate", rate}, {"time_constant", time}, {"alpha", alpha}});
  }
  return layers;
}

// One "key: value" line each; layers as a table of heads or channels, slowest first.
void print_plain(const Json& info) {
  for (const auto& [key, value] : info.items()) {
    if (key == "layers_learned") {
      for (size_t layer = 0; layer < value.size(); ++layer)
        for (const char* what : {"time_constant", "alpha"}) {
          const Json& all = value[layer][what];
          const size_t shown = std::min<size_t>(all.size(), 64);  // of many channels, evenly spaced ones
          fmt::print("layer {} {}{}:", layer, what, shown < all.size() ? fmt::format(" ({} of {} channels)", shown, all.size()) : "");
          for (size_t i = 0; i < shown; ++i) fmt::print(" {:.4g}", all[i * (all.size() - 1) / std::max<size_t>(1, shown - 1)].get<double>());
          fmt::print("\n");
        }
    } else if (key == "gpus") {
      if (value.empty()) fmt::print("gpus: none\n");
      for (const Json& gpu : value) {
        const auto text = [&](const char* field) { return gpu[field].get<std::string>(); };
        fmt::print("{}: {}, compute capability {}, {:.1f} GiB; {}\n", text("name"), text("product"), text("capability"),
                   gpu["memory_bytes"].get<double>() / double(1 << 30),
                   gpu.contains("fault") ? "does not run this build's kernels: " + text("fault") : "runs kernels compiled for " + text("kernels"));
        if (gpu.contains("matmul"))
          for (const Json& line : gpu["matmul"]) fmt::print("  {}\n", line.get<std::string>());
      }
    } else if (key == "cublaslt") {
      fmt::print("cublaslt: {}\n", value.is_null() ? "not here" : value.get<std::string>());
    } else if (key == "kernels") {
      fmt::print("kernels:\n");
      for (const auto& [kernel, devices] : value.items()) {
        std::string list;
        for (const auto& d : devices) list += " " + d.get<std::string>();
        fmt::print("  {:<28}{}\n", kernel, list);
      }
    } else {
      fmt::print("{}: {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
}

int info(const Options& o, const Common& common) {
  Json out;
  if (!o.path.empty()) {
    const Trained t = load_trained(o.path, open_device("cpu"));
    out = model_info(t.config.model);
    out["checkpoint"] = t.checkpoint.path.string();
    out["step"] = t.checkpoint.step;
    out["steps"] = t.config.train.steps;
    out["layers_learned"] = spectrum_info(*t.model);
  } else if (!o.preset.empty() || !o.config.empty()) {
    ModelConfig config = o.preset.empty() ? load_config(o.config).model : model_preset(o.preset);
    if (o.vocab) config.vocab = o.vocab;
    check(config.vocab > 0, Exit::usage, "info: a vocabulary is wanted to count parameters; give --vocab N");
    out = model_info(config);
  } else {
    out = build_info();
  }
  if (common.json) fmt::print("{}\n", json_text(out, 2));
  else print_plain(out);
  return 0;
}

}  // namespace

void info_command(CLI::App& program, Common& common) {
  auto o = std::make_shared<Options>();
  CLI::App& app = *program.add_subcommand("info", "This build; or a preset, a configuration, a run");
  auto* path = app.add_option("RUN", o->path, "A run directory or a checkpoint: time constants and alpha per layer");
  auto* preset = app.add_option("--preset", o->preset, "Sizes and parameters of a preset (`taper info` lists them)")->excludes(path);
  app.add_option("--config", o->config, "The same of a configuration")->excludes(path)->excludes(preset);
  app.add_option("--vocab", o->vocab, "Vocabulary size")->check(CLI::Range(int64_t(1), int64_t(1) << 31));
  app.callback([=, &common] { common.chosen = [=, &common] { return info(*o, common); }; });
}

}  // namespace taper
