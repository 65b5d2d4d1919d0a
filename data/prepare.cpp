// Prepare: documents into the shards of two splits.
#include "data/prepare.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

#include "data/documents.h"
#include "data/shard.h"
#include "data/tokenizer.h"
#include "tensor/error.h"

namespace taper {
namespace {

using Counts = std::array<int64_t, 256>;

// One split's shards, written one after the other.
class SplitWriter {
 public:
  SplitWriter(Path directory, std::string name, const Tokenizer& tokenizer, int64_t shard_tokens)
      : directory_(std::move(directory)), name_(std::move(name)), tokenizer_(tokenizer), shard_tokens_(shard_tokens) {}

  void add(const Document& document, uint64_t begin, uint64_t end) {
    const int32_t eod = tokenizer_.eod();
    make_room();
    shard_->begin_document();
    append({&eod, 1});
    PieceEncoder encoder(tokenizer_, {.special = false});  // a document is text: no part of it may pass for EOD
    const auto hand_over = [&] {
      append(tokens_);
      tokens_.clear();
    };
    document.read(begin, end, [&](std::string_view piece) {
      encoder.add(piece, tokens_);
      hand_over();
      for (const char c : piece) ++counts[uint8_t(c)];
    });
    encoder.finish(tokens_);
    hand_over();
    ++report.documents;
    report.bytes += int64_t(end - begin);
  }

  void finish() {
    if (shard_) shard_->finish(true);
    shard_.reset();
  }

  PrepareReport::Split report;
  Counts counts{};

 private:
  void make_room() {
    if (shard_ && shard_->tokens() == shard_tokens_) {
      shard_->finish(false);
      shard_.reset();
    }
    if (shard_) return;
    shard_ = std::make_unique<ShardWriter>(directory_ / shard_name(name_, report.shards), tokenizer_, report.shards);
    ++report.shards;
  }

  void append(std::span<const int32_t> tokens) {
    report.tokens += int64_t(tokens.size());
    while (!tokens.empty()) {
      make_room();
      const size_t n = std::min(tokens.size(), size_t(shard_tokens_ - shard_->tokens()));
      shard_->append(tokens.first(n));
      tokens = tokens.subspan(n);
    }
  }

  Path directory_;
  std::string name_;
  const Tokenizer& tokenizer_;
  int64_t shard_tokens_;
  std::unique_ptr<ShardWriter> shard_;
  std::vector<int32_t> tokens_;
};

double unigram_bits(const Counts& train, const Counts& text) {
  double total = 256, bytes = 0, bits = 0;
  for (const int64_t n : train) total += double(n);
  for (size_t c = 0; c < 256; ++c) {
    bytes += double(text[c]);
    bits -= double(text[c]) * std::log2((double(train[c]) + 1) / total);
  }
  return bits / bytes;
}

// Where the last part of a document, which validation gets, begins: never inside a UTF-8 character.
uint64_t head_of(const Document& document, double validation) {
  uint64_t cut = uint64_t(double(document.bytes) * (1 - validation));
  cut = std::clamp<uint64_t>(cut, std::min<uint64_t>(1, document.bytes - 1), document.bytes - 1);
  std::string window;
  const uint64_t from = cut > 3 ? cut - 3 : 0;
  document.read(from, cut + 1, [&](std::string_view piece) { window += piece; });
  while (cut > from && (uint8_t(window[size_t(cut - from)]) & 0xc0) == 0x80) --cut;
  return cut;
}

class Preparation {
 public:
  Preparation(const PrepareOptions& options, const std::function<void(const PrepareProgress&)>& progress)
      : options_(options), progress_(progress), tokenizer_(open_tokenizer(options.tokenizer)) {
    check(options.validation >= 0 && options.validation < 1, Exit::bad_config,
          "prepare: the validation share must lie in [0,1); got {}", options.validation);
    check(options.shard_tokens >= 1, Exit::bad_config, "prepare: a shard holds at least 1 token; got {}",
          options.shard_tokens);
    check(!options.inputs.empty(), Exit::no_input, "prepare: no input was named");
    std::error_code error;
    check(options.overwrite || !std::filesystem::exists(options.output, error) ||
              std::filesystem::is_empty(options.output, error),
          Exit::cannot_create, "{}: exists and is not empty; name another directory, or overwrite it",
          options.output.string());
    files_ = list_files(options.inputs, listed_out_);
  }

  PrepareReport run() {
    PrepareReport report = write(true);
    check(report.train.documents + report.validation.documents > 0, Exit::bad_data,
          "prepare: the corpus is empty: {} files read, {} skipped, no text in them", report.files,
          report.skipped_files);
    const bool whole = report.train.documents > 0 && (report.validation.documents > 0 || options_.validation == 0);
    if (!whole) report = write(false);
    check(report.train.documents > 0, Exit::bad_data,
          "prepare: a corpus of {} bytes is too small to hold some of it out; use a validation share of 0",
          report.validation.bytes);
    return report;
  }

  void commit() { output_->commit(); }

 private:
  // One pass over the corpus. A split that stays empty is only known at its end: then the corpus is
  // small, and a second pass by the other rule costs little.
  PrepareReport write(bool by_hash) {
    output_.reset();
    output_ = std::make_unique<DirectoryWriter>(options_.output);
    store_tokenizer(*tokenizer_, output_->temporary());
    SplitWriter train(output_->temporary(), "train", *tokenizer_, options_.shard_tokens);
    SplitWriter validation(output_->temporary(), "validation", *tokenizer_, options_.shard_tokens);
    const double limit = std::ldexp(options_.validation, 64);
    PrepareReport report;
    report.skipped_files = listed_out_;
    PrepareProgress now{0, int64_t(files_.size()), 0, 0};
    for (const InputFile& file : files_) {
      ++now.file;
      const bool text = read_documents(file, options_.text_field, [&](const Document& d) {
        const uint64_t head = !by_hash                  ? head_of(d, options_.validation)
                              : double(d.hash) < limit ? 0
                                                       : d.bytes;
        if (head > 0) train.add(d, 0, head);
        if (head < d.bytes) validation.add(d, head, d.bytes);
        ++now.documents;
        now.bytes += int64_t(d.bytes);
        if (progress_) progress_(now);
      });
      ++(text ? report.files : report.skipped_files);
      if (progress_) progress_(now);
    }
    train.finish();
    validation.finish();
    report.train = train.report;
    report.validation = validation.report;
    if (!by_hash) report.note = "few documents: the last part of each is the validation split";
    if (now.documents > 0)
      report.unigram_bits_per_byte =
          unigram_bits(train.counts, validation.report.bytes > 0 ? validation.counts : train.counts);
    return report;
  }

  const PrepareOptions& options_;
  const std::function<void(const PrepareProgress&)>& progress_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<InputFile> files_;
  int64_t listed_out_ = 0;
  std::unique_ptr<DirectoryWriter> output_;
};

}  // namespace

PrepareReport prepare(const PrepareOptions& options, const std::function<void(const PrepareProgress&)>& progress) {
  Preparation preparation(options, progress);
  const PrepareReport report = preparation.run();
  preparation.commit();
  return report;
}

}  // namespace taper
