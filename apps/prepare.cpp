// prepare: texts into shards, with a line that shows how far it is.
#include "data/prepare.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/progress.h"
#include "apps/signals.h"
#include "tensor/error.h"

namespace taper {
namespace {

nlohmann::ordered_json split_json(const PrepareReport::Split& s) {
  return {{"documents", s.documents}, {"bytes", s.bytes}, {"tokens", s.tokens}, {"shards", s.shards}};
}

int run(const PrepareOptions& options, const Common& common) {
  const StopSignal stop;
  const bool terminal = terminal_stderr();
  auto drawn = std::chrono::steady_clock::now();
  const PrepareReport report = prepare(options, [&](const PrepareProgress& p) {
    if (const int signal = stop.received())
      throw Error("prepare: stopped by a signal; nothing was written", std::source_location::current(), Exit(128 + signal));
    const auto now = std::chrono::steady_clock::now();
    if (!terminal || now - drawn < std::chrono::milliseconds(100)) return;
    drawn = now;
    fmt::print(stderr, "\rfile {}/{} | {} documents | {:.1f} MB\x1b[K", p.file, p.files, p.documents, double(p.bytes) / 1e6);
  });
  if (terminal) fmt::print(stderr, "\r\x1b[K");
  if (common.json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"out", options.output.string()},
                                              {"tokenizer", options.tokenizer},
                                              {"files", report.files},
                                              {"skipped_files", report.skipped_files},
                                              {"train", split_json(report.train)},
                                              {"validation", split_json(report.validation)},
                                              {"unigram_bits_per_byte", report.unigram_bits_per_byte},
                                              {"note", report.note}}
                           .dump());
    return 0;
  }
  fmt::print("{}: {} files read, {} skipped (not text)\n", options.output.string(), report.files, report.skipped_files);
  for (const auto& [name, split] : {std::pair{"train", report.train}, {"validation", report.validation}})
    fmt::print("{:<10} {} documents, {} bytes, {} tokens, {} shards\n", name, split.documents, split.bytes, split.tokens, split.shards);
  fmt::print("unigram entropy {:.4f} bits per byte\n", report.unigram_bits_per_byte);
  if (!report.note.empty()) fmt::print("note: {}\n", report.note);
  return 0;
}

}  // namespace

void prepare_command(CLI::App& program, Common& common) {
  auto o = std::make_shared<PrepareOptions>();
  CLI::App& app = *program.add_subcommand("prepare", "Packs texts into token shards");
  app.add_option("INPUT", o->inputs, "Text files, .jsonl, .jsonl.zst, or directories of them")->required();
  app.add_option("-o,--out", o->output, "The directory to create")->required();
  app.add_option("--tokenizer", o->tokenizer, "bytes, or the path of a tokenizer file (bytes)");
  app.add_option("--text-field", o->text_field, "Of JSON lines (text)");
  app.add_option("--validation", o->validation, "Share of the documents that is held out (0.05)")->check(CLI::Range(0.0, 0.99));
  app.add_option("--shard-tokens", o->shard_tokens, "Most tokens in one shard (134217728)")->check(CLI::Range(int64_t(1024), int64_t(1) << 40));
  app.add_flag("--overwrite", o->overwrite, "Replace the directory if it exists");
  app.callback([=, &common] { common.chosen = [=, &common] { return run(*o, common); }; });
}

}  // namespace taper
