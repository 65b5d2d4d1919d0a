// prepare: texts into shards, with a line that shows how far it is.
#include "data/prepare.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/json_text.h"
#include "apps/progress.h"
#include "apps/signals.h"
#include "tensor/error.h"

namespace taper {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

nlohmann::ordered_json split_json(const PrepareReport::Split& s) {
  return {{"documents", s.documents}, {"bytes", s.bytes}, {"tokens", s.tokens}, {"shards", s.shards}};
}

std::string progress_line(const PrepareProgress& p, double seconds) {
  std::string line = fmt::format("file {}/{} | {} documents | {:.1f}/{:.1f} MB", p.file, p.files, p.documents, double(p.done) / 1e6, double(p.total) / 1e6);
  if (const double rate = double(p.done - p.begun) / seconds; p.done > p.begun && seconds > 0.5)
    line += fmt::format(" | {:.1f} MB/s | eta {}", rate / 1e6, duration_text(double(p.total - p.done) / rate));
  return line;
}

// What the work tells on its way: a line that changes on a terminal, elsewhere one every half a minute.
class Watch {
 public:
  PrepareHooks hooks() {
    return {[this](const PrepareProgress& p) { progress(p); }, [this](bool ending) { return save(ending); }};
  }
  double seconds() const { return since(begin_); }
  void finish() const {
    if (terminal_) fmt::print(stderr, "\r\x1b[K");
  }

 private:
  void progress(const PrepareProgress& p) {
    if (const int signal = stop_.received())
      throw Error("prepare: stopped by a signal", std::source_location::current(), Exit(128 + signal));
    if (since(drawn_) < (terminal_ ? 0.1 : 30)) return;
    drawn_ = Clock::now();
    const std::string line = progress_line(p, seconds());
    if (terminal_) fmt::print(stderr, "\r{}\x1b[K", line);
    else fmt::print(stderr, "{}\n", line);
  }
  // Work of less than some seconds is sooner done again.
  bool save(bool ending) {
    if (ending) finish();
    if (since(saved_) < (ending ? 5 : 30)) return false;
    saved_ = Clock::now();
    return true;
  }

  const StopSignal stop_;
  const bool terminal_ = terminal_stderr();
  const Clock::time_point begin_ = Clock::now();
  Clock::time_point drawn_ = begin_, saved_ = begin_;
};

void print(const PrepareOptions& options, const PrepareReport& report, double seconds) {
  fmt::print("{}: {} files read, {} skipped (not text)\n", options.output.string(), report.files, report.skipped_files);
  for (const auto& [name, split] : {std::pair{"train", report.train}, {"validation", report.validation}})
    fmt::print("{:<10} {} documents, {} bytes, {} tokens, {} shards\n", name, split.documents, split.bytes, split.tokens, split.shards);
  for (const auto& [count, what] : {std::pair{report.empty, "documents without text left out"},
                                    {report.left_out, "documents that are not UTF-8 left out"},
                                    {report.replaced, "documents that are not UTF-8 repaired"},
                                    {report.forced_cuts, "places inside words of more than 1 MiB cut"},
                                    {report.resumed_documents, "documents were packed by the run before"}})
    if (count > 0) fmt::print("{:<10} {}\n", count, what);
  if (report.unigram_bits_per_byte > 0) fmt::print("unigram entropy {:.4f} bits per byte\n", report.unigram_bits_per_byte);
  if (!report.note.empty()) fmt::print("note: {}\n", report.note);
  if (const double bytes = double(report.train.bytes + report.validation.bytes); seconds > 1 && report.resumed_documents == 0)
    fmt::print("{:.1f} MB of text in {}: {:.1f} MB/s\n", bytes / 1e6, duration_text(seconds), bytes / 1e6 / seconds);
}

int run(const PrepareOptions& options, const Common& common) {
  Watch watch;
  const PrepareReport report = prepare(options, watch.hooks());
  watch.finish();
  if (!common.json) {
    print(options, report, watch.seconds());
    return 0;
  }
  fmt::print("{}\n", json_text(nlohmann::ordered_json{{"out", options.output.string()},
                                                      {"tokenizer", options.tokenizer},
                                                      {"files", report.files},
                                                      {"skipped_files", report.skipped_files},
                                                      {"train", split_json(report.train)},
                                                      {"validation", split_json(report.validation)},
                                                      {"empty_documents", report.empty},
                                                      {"invalid_utf8", {{"left_out", report.left_out}, {"replaced", report.replaced}}},
                                                      {"forced_cuts", report.forced_cuts},
                                                      {"resumed_documents", report.resumed_documents},
                                                      {"unigram_bits_per_byte", report.unigram_bits_per_byte},
                                                      {"note", report.note}}));
  return 0;
}

}  // namespace

void prepare_command(CLI::App& program, Common& common) {
  auto o = std::make_shared<PrepareOptions>();
  CLI::App& app = *program.add_subcommand(
      "prepare", "Packs texts into token shards. Stopped or killed, it goes on where it was when the same command is given again.");
  app.add_option("INPUT", o->inputs, "Text files, .jsonl files, either of them also .gz or .zst, or directories of them")->required();
  app.add_option("-o,--out", o->output, "The directory to create")->required();
  auto* tokenizer = app.add_option("--tokenizer", o->tokenizer, "bytes, or the path of a tokenizer file (bytes)");
  app.add_option("--field,--text-field", o->text_field, "Of JSON lines (text)");
  auto* share = app.add_option("--validation", o->validation, "Share of the documents that is held out (0.05)")->check(CLI::Range(0.0, 0.99));
  auto* from = app.add_option("--validation-from", o->held_out, "Inputs that are held out as a whole; then no others are, unless --validation is given");
  app.add_option("--shard-tokens", o->shard_tokens, "Most tokens in one shard (134217728)")->check(CLI::Range(int64_t(1024), int64_t(1) << 40));
  app.add_option("--invalid-utf8", o->invalid_utf8,
                 "A document that is not UTF-8: error, replace (U+FFFD for what is wrong), skip the document, keep its bytes (plain texts) (error)")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, InvalidUtf8>{
              {"error", InvalidUtf8::error}, {"replace", InvalidUtf8::replace}, {"skip", InvalidUtf8::skip}, {"keep", InvalidUtf8::keep}})
              .description(""));
  auto* import = app.add_option("--import", o->import, "The inputs are token files: nanogpt (raw u16), llmc, or megatron (.bin beside .idx)")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, Import>{{"nanogpt", Import::nanogpt}, {"llmc", Import::llmc}, {"megatron", Import::megatron}})
              .description(""));
  app.add_option("--vocab", o->vocab, "Of an import: ids are below it (--tokenizer's)")->check(CLI::Range(int64_t(1), int64_t(1) << 30))->needs(import);
  app.add_option("--eod", o->eod, "Of an import: the id that separates documents (--tokenizer's)")
      ->check(CLI::Range(int64_t(0), int64_t(1) << 30))
      ->needs(import);
  app.add_flag("--overwrite", o->overwrite, "Replace the directory if it exists");
  app.add_flag("--restart", o->restart, "Throw unfinished work of an earlier run away instead of going on with it");
  app.callback([=, &common] {
    if (o->import != Import::none && tokenizer->count() == 0) o->tokenizer = "ids";
    if (from->count() > 0 && share->count() == 0) o->validation = 0;
    common.chosen = [=, &common] { return run(*o, common); };
  });
}

}  // namespace taper
