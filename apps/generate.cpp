// generate: text from a trained model, token by token, at a constant cost and state per token.
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/sample.h"
#include "apps/trained.h"
#include "data/tokenizer.h"
#include "tensor/error.h"

namespace taper {
namespace {

struct Options {
  std::string path, device = "auto", prompt, prompt_file;
  int64_t tokens = 256;
  Sampling sampling;
};

int generate(const Options& o, const Common& common) {
  Device& device = open_device(o.device);
  const Trained trained = load_trained(o.path, device);
  check(trained.config.data.task == "text", Exit::bad_config, "generate: a model of text is wanted; {} was trained on {}", o.path,
        trained.config.data.task);
  const auto tokenizer = open_tokenizer(trained.config.data.tokenizer);

  // A document begins with EOD.
  const std::string prompt = o.prompt_file.empty() ? o.prompt : read_file(o.prompt_file);
  std::vector<int32_t> ids{tokenizer->eod()}, made;
  tokenizer->encode(prompt, ids);

  Tape tape = Tape::constants();
  ModelState state;
  state.position = {0};
  const auto write = [&](const std::string& text) {
    if (common.json) return;
    check(std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0, Exit::io,
          "generate: writing to standard output failed");
  };
  write(prompt);
  std::vector<int32_t> next = ids;  // what the state has not seen
  for (int64_t i = 0; i < o.tokens; ++i) {
    const int64_t T = int64_t(next.size());
    const Tensor input = from_host<int32_t>(device, {1, T}, next);
    const Var logits = trained.model->logits(tape, input, {}, &state);  // [1,T,V]
    const std::vector<double> row = to_doubles(logits.value.reshape(Shape{T, logits.size(2)}).rows(T - 1, T));
    const int32_t id = sample(std::span(row).first(size_t(tokenizer->vocab())), o.sampling, i);
    if (id == tokenizer->eod()) break;
    made.push_back(id);
    write(tokenizer->decode({id}));
    next = {id};
  }
  if (common.json) {
    nlohmann::json out = {{"checkpoint", trained.checkpoint.path.string()}, {"prompt", prompt}, {"text", tokenizer->decode(made)}, {"ids", made}};
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
  app.callback([=, &common] { common.chosen = [=, &common] { return generate(*o, common); }; });
}

}  // namespace taper
