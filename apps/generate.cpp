// generate: text from a trained model, token by token, at a constant cost and state per token.
#include <CLI/CLI.hpp>
#include <chrono>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/sample.h"
#include "apps/trained.h"
#include "nn/decoder.h"
#include "tensor/error.h"

namespace taper {
namespace {

struct Options {
  std::string path, device = "auto", prompt, prompt_file;
  int64_t tokens = 256;
  bool no_graph = false;
  Sampling sampling;
};

int generate(const Options& o, const Common& common) {
  Device& device = open_device(o.device);
  const Trained trained = load_trained(o.path, device);
  check(trained.config.data.task == "text", Exit::bad_config, "generate: a model of text is wanted; {} was trained on {}", o.path,
        trained.config.data.task);
  const auto tokenizer = tokenizer_of(trained.config, trained.checkpoint);

  // A document begins with EOD.
  const std::string prompt = o.prompt_file.empty() ? o.prompt : read_file(o.prompt_file);
  std::vector<int32_t> ids{tokenizer->eod()}, made;
  tokenizer->encode(prompt, ids);

  const auto write = [&](const std::string& text) {
    if (common.json) return;
    check(std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0, Exit::io,
          "generate: writing to standard output failed");
  };
  write(prompt);
  const auto chosen = [&](const Tensor& logits, int64_t i) { return next_token(logits, tokenizer->vocab(), o.sampling, i); };
  using Clock = std::chrono::steady_clock;
  Clock::time_point decoding = Clock::now();
  double seconds = 0;  // from the first new token to the last
  if (o.tokens > 0) {
    const LanguageModel& model = *trained.model;
    const int64_t T = int64_t(ids.size());
    Tape tape = Tape::constants();
    ModelState state;
    const Var x = model.trunk(tape, from_host<int32_t>(device, {1, T}, ids), {}, &state);
    int32_t id = chosen(model.head_logits(tape, model.rows_at(x, from_host(device, {1}, std::vector{int32_t(T - 1)}))).value, 0);
    Decoder decoder(model, state, device.kind() == DeviceKind::cuda && !o.no_graph);
    decoding = Clock::now();
    while (id != tokenizer->eod()) {
      made.push_back(id);
      write(tokenizer->decode({id}));
      seconds = std::chrono::duration<double>(Clock::now() - decoding).count();
      const int64_t i = int64_t(made.size());
      if (i == o.tokens) break;
      id = chosen(decoder.step({&id, 1}), i);
    }
  }
  if (common.json) {
    nlohmann::json out = {{"checkpoint", trained.checkpoint.path.string()}, {"prompt", prompt}, {"text", tokenizer->decode(made)}, {"ids", made}};
    if (made.size() > 1) out["tokens_per_second"] = double(made.size() - 1) / seconds;  // after the first, which the prompt gave
    // Bytes that are no UTF-8 become U+FFFD; "ids" has them all.
    fmt::print("{}\n", out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    write("\n");
  }
  return 0;
}

}  // namespace

void generate_command(CLI::App& program, Common& common) {
  auto o = std::make_shared<Options>();
  CLI::App& app = *program.add_subcommand("generate", "Writes text with a trained model, to stdout");
  app.add_option("RUN", o->path, "A run directory, or one of its checkpoints")->required();
  app.add_option("--prompt", o->prompt, "Text to continue");
  app.add_option("--prompt-file", o->prompt_file, "The same, from a file")->excludes("--prompt");
  app.add_option("--tokens", o->tokens, "At most so many; the end of the document ends it too (256)")->check(CLI::Range(int64_t(0), int64_t(1) << 40));
  app.add_option("--temperature", o->sampling.temperature, "0: always the likeliest token (1)")->check(CLI::Range(0.0, 1e6));
  app.add_option("--top-k", o->sampling.top_k, "Only the K likeliest tokens; 0: all (0)")->check(CLI::Range(int64_t(0), int64_t(1) << 40));
  app.add_option("--top-p", o->sampling.top_p, "Only the likeliest that together reach P (1)")->check(CLI::Range(0.0, 1.0));
  app.add_option("--seed", o->sampling.seed, "Of the draws (0)");
  app.add_option("--device", o->device, "auto, cpu or cuda:N (auto)");
  app.add_flag("--no-graph", o->no_graph, "On a GPU: queue every kernel of every token, instead of launching a recorded step");
  app.callback([=, &common] { common.chosen = [=, &common] { return generate(*o, common); }; });
}

}  // namespace taper
