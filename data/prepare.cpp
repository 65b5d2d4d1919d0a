// Prepare: documents into the shards of two splits.
//
// The work goes in rounds. In each, the pool's threads at once read a batch, encode the units of the batch
// read before, lay the tokens encoded before that into the blocks of the shards, compress the blocks laid
// before that, and write those compressed before. Only encoding and compressing take time, and their units
// are independent; the others are one after the other in the order of the input.
#include "data/prepare.h"

#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <memory>
#include <set>
#include <span>

#include "data/corpus.h"
#include "data/encode_units.h"
#include "data/journal.h"
#include "data/shard.h"
#include "data/split_shards.h"
#include "data/tokenizer.h"
#include "data/unicode.h"
#include "tensor/error.h"
#include "tensor/parallel.h"

namespace taper {
namespace {

constexpr size_t most_in_flight = size_t(32) << 20;  // while there is more, nothing is read
constexpr size_t most_spare_blocks = 64;

struct Batch {
  size_t count = 0;  // of the units and what they became; those behind are memory to use again
  std::vector<Unit> units;
  std::vector<EncodedUnit> encoded;
  Place end;
  uint64_t done = 0;
  std::exception_ptr error;  // of the reader, behind the units
  bool last = false;
  size_t weight() const {
    size_t n = 0;
    for (size_t i = 0; i < count; ++i) n += units[i].weight() + encoded[i].weight();
    return n;
  }
};

double unigram_bits(const ByteCounts& train, const ByteCounts& text) {
  double total = 256, bytes = 0, bits = 0;
  for (const int64_t n : train) total += double(n);
  for (size_t c = 0; c < 256; ++c) {
    bytes += double(text[c]);
    bits -= double(text[c]) * std::log2((double(train[c]) + 1) / total);
  }
  return bytes > 0 ? bits / bytes : 0;
}

class Preparation {
 public:
  Preparation(const PrepareOptions& options, const PrepareHooks& hooks)
      : options_(options), hooks_(hooks), tokenizer_(tokenizer_for(options)), format_(*tokenizer_) {
    check(options.validation >= 0 && options.validation < 1, Exit::bad_config,
          "prepare: the validation share must lie in [0,1); got {}", options.validation);
    check(options.shard_tokens >= 1, Exit::bad_config, "prepare: a shard holds at least 1 token; got {}",
          options.shard_tokens);
    check(options.unit_bytes >= 1 && options.batch_bytes >= 1, "prepare: units and batches hold at least a byte");
    check(valid_utf8(options.text_field) == options.text_field.size(), Exit::bad_config,
          "prepare: the field of JSON lines must be UTF-8, as they are; '{}' is not", options.text_field);
    check(!options.inputs.empty(), Exit::no_input, "prepare: no input was named");
    std::error_code error;
    check(options.overwrite || !std::filesystem::exists(options.output, error) ||
              std::filesystem::is_empty(options.output, error),
          Exit::cannot_create, "{}: exists and is not empty; name another directory, or overwrite it",
          options.output.string());
    const auto list = [&](const std::vector<Path>& inputs) {
      return options.import == Import::none ? list_files(inputs, listed_out_) : list_id_files(inputs);
    };
    std::vector<InputFile> files = list(options.inputs);
    for (InputFile& held : list(options.held_out)) {
      held.held_out = true;
      files.push_back(std::move(held));
    }
    for (const InputFile& file : files) now_.total += file.size;
    now_.files = int64_t(files.size());
    journal_.options = {{"tokenizer", tokenizer_->identity()},
                        {"import", std::string(import_name(options.import))},
                        {"field", options.text_field},
                        {"validation", fmt::format("{}", options.validation)},
                        {"shard-tokens", fmt::format("{}", options.shard_tokens)},
                        {"invalid-utf8", utf8_name(options.invalid_utf8)}};
    output_ = std::make_unique<DirectoryWriter>(options.output, DirectoryWriter::Stale::keep);
    go_on_ = std::filesystem::exists(output_->temporary() / journal_name, error);
    if (options.restart || !go_on_) {
      go_on_ = false;
      output_->clear();
    } else {
      output_->leave(true);
      take_over(files);
      kept_ = true;
    }
    const auto poll = [this] { report_progress(); };
    if (options.import == Import::none)
      corpus_ = text_corpus(std::move(files), {options.text_field, options.invalid_utf8, size_t(options.unit_bytes)}, *tokenizer_, rule_, poll);
    else
      corpus_ = id_corpus(std::move(files), {options.import, tokenizer_->vocab(), tokenizer_->eod(), std::max<int64_t>(1, options.unit_bytes / 4)}, rule_,
                          poll);
  }

  PrepareReport run() {
    store_tokenizer(*tokenizer_, output_->temporary());
    rule_ = {options_.validation, journal_.by_hash};
    if (go_on_) corpus_->seek(journal_.place);
    else choose_rule();
    now_.begun = now_.done = corpus_->done();
    for (int i = 0; i < 2; ++i)
      splits_[i] = std::make_unique<SplitShards>(output_->temporary(), i == 1, format_, options_.shard_tokens, journal_.splits[i]);
    try {
      rounds();
      if (failure_) {
        if (hooks_.save && hooks_.save(true)) save();
        std::rethrow_exception(failure_);
      }
      for (auto& split : splits_) split->finish(laid_);
      flush();
    } catch (const Error& e) {
      if (!kept_) throw;
      throw Error(fmt::format("{}; what was done before is kept in {}: the same command goes on from there", e.what(),
                              output_->temporary().string()),
                  e.at, e.code);
    }
    const PrepareReport report = summary();
    check(report.train.documents > 0, Exit::bad_data,
          "prepare: a corpus of {} {} is too small to hold some of it out; use a validation share of 0",
          options_.import == Import::none ? report.validation.bytes : report.validation.tokens, options_.import == Import::none ? "bytes" : "tokens");
    return report;
  }

  void commit() {
    output_->commit();
    std::error_code ignored;  // the shards are complete with it too
    std::filesystem::remove(options_.output / journal_name, ignored);
    std::filesystem::remove(options_.output / journal_files_name, ignored);
  }

 private:
  static std::string utf8_name(InvalidUtf8 policy) {
    constexpr const char* names[] = {"error", "replace", "skip", "keep"};
    return names[int(policy)];
  }

  static std::unique_ptr<Tokenizer> tokenizer_for(const PrepareOptions& o) {
    if (o.import == Import::none || o.tokenizer != "ids") {
      auto tokenizer = open_tokenizer(o.tokenizer);
      if (o.import == Import::none) return tokenizer;
      check((o.vocab == 0 || o.vocab == tokenizer->vocab()) && (o.eod == -1 || o.eod == tokenizer->eod()), Exit::bad_config,
            "prepare: tokenizer {} has a vocabulary of {} and EOD {}; --vocab {} and --eod {} are given", o.tokenizer, tokenizer->vocab(),
            tokenizer->eod(), o.vocab, o.eod);
      return tokenizer;
    }
    check(o.vocab >= 1 && o.eod >= 0, Exit::bad_config,
          "prepare: to import {} tokens, give the tokenizer they were made with, or --vocab N and --eod ID", import_name(o.import));
    return open_tokenizer(fmt::format("ids:{}:{}", o.vocab, o.eod));
  }

  // The unfinished work that is there, if it is this one's.
  void take_over(std::vector<InputFile>& files) {
    const auto wanted = journal_.options;
    journal_ = read_journal(output_->temporary());
    check(journal_.options.size() == wanted.size(), Exit::cannot_create,
          "{}: holds the unfinished work of another version of this program; start over with --restart", output_->temporary().string());
    for (size_t i = 0; i < wanted.size(); ++i) {
      // What stopped at the first bad document has met none so far: any policy would have come here too.
      const bool free = wanted[i].first == "invalid-utf8" && journal_.options[i].second == "error";
      check(free || journal_.options[i] == wanted[i], Exit::cannot_create,
            "{}: holds unfinished work with {} {}; this is another: {}; give the same to go on, or start over with --restart",
            output_->temporary().string(), journal_.options[i].first, journal_.options[i].second, wanted[i].second);
    }
    journal_.options = wanted;
    check_files(output_->temporary(), journal_, files);
    recorded_ = journal_.place.file;
    remove_later_shards();
    resumed_ = journal_.splits[0].report.documents + journal_.splits[1].report.documents;
  }

  // Shards that were begun after the journal was written; the inputs of now may need fewer.
  void remove_later_shards() {
    std::set<std::string> known;
    for (int i = 0; i < 2; ++i)
      for (int64_t k = 0; k < journal_.splits[i].report.shards; ++k) known.insert(shard_name(split_names[i], k));
    std::vector<Path> later;
    for (const auto& entry : std::filesystem::directory_iterator(output_->temporary()))
      if (entry.path().extension() == ".shard" && !known.contains(entry.path().filename().string())) later.push_back(entry.path());
    for (const Path& path : later) remove_durably(path);
  }

  // Whether both splits get documents by their hashes is known as soon as both have one: in a large corpus soon.
  void choose_rule() {
    bool seen[2] = {false, false};
    const bool held = !options_.held_out.empty();
    if (options_.validation > 0 && !held) corpus_->survey([&](uint64_t hash) {
      seen[rule_.holds_out(hash)] = true;
      return !(seen[0] && seen[1]);
    });
    journal_.by_hash = rule_.by_hash = options_.validation == 0 || held || (seen[0] && seen[1]) || !(seen[0] || seen[1]);
  }

  void report_progress() {
    if (hooks_.progress) hooks_.progress(now_);
  }

  void read(Batch& batch) {
    batch.count = 0;
    batch.error = nullptr;
    batch.last = false;
    try {
      for (size_t bytes = 0; bytes < size_t(options_.batch_bytes) && !batch.last;) {
        if (batch.count == batch.units.size()) batch.units.emplace_back();
        Unit& unit = batch.units[batch.count];
        batch.last = !corpus_->next(unit);
        if (batch.last) break;
        bytes += unit.weight();
        ++batch.count;
      }
    } catch (...) {
      batch.error = std::current_exception();
      batch.last = true;
    }
    batch.end = corpus_->place();
    batch.done = corpus_->done();
    if (batch.encoded.size() < batch.count) batch.encoded.resize(batch.count);
  }

  // Lays a batch into blocks; one with an error is left out as a whole.
  void lay(Batch& batch, std::vector<ShardAction>& actions) {
    const std::span encoded = std::span(batch.encoded).first(batch.count);
    for (const EncodedUnit& e : encoded)
      if (e.error) return void(failure_ = e.error);
    if (batch.error) return void(failure_ = batch.error);
    for (EncodedUnit& e : encoded) {
      size_t chunk = 0, at = 0;
      for (const EncodedUnit::Part& part : e.parts) {
        if (part.chunk != chunk) e.chunks[chunk] = {}, chunk = part.chunk, at = 0;
        const size_t n = size_t(part.tokens * format_.width);
        splits_[part.validation]->add(part, std::span(e.chunks[chunk]).subspan(at, n), actions);
        at += n;
      }
      for (int i = 0; i < 2; ++i) splits_[i]->count(e.counts[i]);
      journal_.empty += e.empty, journal_.left_out += e.left_out, journal_.replaced += e.replaced, journal_.forced += e.forced;
      e.clear();
    }
    journal_.place = batch.end;
    laid_done_ = batch.done;
  }

  void pack(ShardAction& a) {
    if (a.kind == ShardAction::Kind::block) a.packed = pack_block(a.raw, a.number);
  }
  void write(std::vector<ShardAction>& actions) {
    for (ShardAction& a : actions) splits_[a.validation]->perform(a);
  }
  // Of actions that were written, the memory.
  void release(std::vector<ShardAction>& actions) {
    for (ShardAction& a : actions)
      if (auto& spare = splits_[a.validation]->spare; a.kind == ShardAction::Kind::block && spare.size() < most_spare_blocks)
        spare.push_back(std::move(a.raw));
    actions.clear();
  }

  void rounds() {
    const UnitEncoder encoder{*tokenizer_, format_, rule_, options_, corpus_->files()};
    bool more = true;
    std::unique_ptr<Batch> reading, encoding, laying;  // a batch moves from one to the next
    std::vector<std::unique_ptr<Batch>> spare;
    while (more || encoding || laying) {
      size_t in_flight = (encoding ? encoding->weight() : 0) + (laying ? laying->weight() : 0);
      for (const ShardAction& a : laid_) in_flight += a.raw.size();
      for (const ShardAction& a : packed_) in_flight += a.raw.size() + a.packed.bytes.size();
      const bool giant = encoding && encoding->weight() > most_in_flight / 4;  // what becomes of it will be larger
      if (giant) {
        spare.clear();
        for (auto& split : splits_) split->spare.clear();
        malloc_trim(0);  // what lies free between small blocks too
      }
      if (more && !giant && in_flight < most_in_flight) {
        if (spare.empty()) spare.push_back(std::make_unique<Batch>());
        reading = std::move(spare.back());
        spare.pop_back();
      }
      std::vector<ShardAction> laid_now;
      const int64_t units = encoding ? int64_t(encoding->count) : 0;
      parallel_for(3 + units + int64_t(laid_.size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          if (i == 0 && reading) read(*reading);
          else if (i == 1) write(packed_);
          else if (i == 2 && laying) lay(*laying, laid_now);
          else if (i >= 3 + units) pack(laid_[size_t(i - 3 - units)]);
          else if (i >= 3) {
            Unit& unit = encoding->units[size_t(i - 3)];
            encoder.encode(unit, encoding->encoded[size_t(i - 3)]);
            unit.clear();
          }
        }
      });
      release(packed_);
      packed_ = std::move(laid_);
      laid_ = std::move(laid_now);
      if (failure_) break;
      if (laying) spare.push_back(std::move(laying));
      if (reading) more = !reading->last;
      laying = std::move(encoding);
      encoding = std::move(reading);
      try {
        count_progress();
        report_progress();
      } catch (...) {
        failure_ = std::current_exception();
        break;
      }
      if (hooks_.save && hooks_.save(false)) save();
    }
    flush();
  }

  void count_progress() {
    const PrepareReport::Split &t = splits_[0]->state().report, &v = splits_[1]->state().report;
    now_.file = std::min(journal_.place.file + 1, now_.files);
    now_.documents = t.documents + v.documents;
    now_.bytes = t.bytes + v.bytes;
    now_.tokens = t.tokens + v.tokens;
    now_.done = std::max(now_.done, laid_done_);
  }

  // Everything that was laid is written.
  void flush() {
    write(packed_);
    release(packed_);
    parallel_for(int64_t(laid_.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) pack(laid_[size_t(i)]);
    });
    write(laid_);
    release(laid_);
  }

  void save() {
    flush();
    for (int i = 0; i < 2; ++i) journal_.splits[i] = splits_[i]->saved();
    if (!records_) records_ = std::make_unique<GrowingFile>(output_->temporary() / journal_files_name, journal_.files_bytes);
    std::string lines;
    for (; recorded_ < journal_.place.file; ++recorded_) lines += file_record(corpus_->files()[size_t(recorded_)]);
    records_->append(lines.data(), lines.size());
    records_->sync();
    journal_.files_bytes = records_->size();
    write_journal(output_->temporary(), journal_);
    output_->leave(true);
    kept_ = true;
    for (auto& split : journal_.splits) split = {};
  }

  PrepareReport summary() const {
    PrepareReport r;
    const SplitState &train = splits_[0]->state(), &validation = splits_[1]->state();
    const Place& p = journal_.place;
    r.train = train.report;
    r.validation = validation.report;
    r.files = p.files;
    r.skipped_files = p.skipped_files + listed_out_;
    r.empty = p.empty + journal_.empty;
    r.left_out = p.left_out + journal_.left_out;
    r.replaced = p.replaced + journal_.replaced;
    r.forced_cuts = p.forced + journal_.forced;
    r.resumed_documents = resumed_;
    check(r.train.documents + r.validation.documents > 0, Exit::bad_data,
          "prepare: the corpus is empty: {} files read, {} skipped, no text in them", r.files, r.skipped_files);
    if (!rule_.by_hash) r.note = "few documents: the last part of each is the validation split";
    r.unigram_bits_per_byte = unigram_bits(train.counts, r.validation.bytes > 0 ? validation.counts : train.counts);
    return r;
  }

  const PrepareOptions& options_;
  const PrepareHooks& hooks_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ShardFormat format_;
  SplitRule rule_;
  std::unique_ptr<Corpus> corpus_;
  int64_t listed_out_ = 0;
  std::unique_ptr<DirectoryWriter> output_;
  std::unique_ptr<SplitShards> splits_[2];
  std::vector<ShardAction> laid_, packed_;  // laid into blocks, not yet packed; packed, not yet written
  std::exception_ptr failure_;         // of the input or the progress: what was done before can be saved. Others are thrown
  Journal journal_;                    // `place` and the counts keep up with what was laid
  bool go_on_ = false, kept_ = false;  // an earlier run's work is taken up; there is a journal
  int64_t recorded_ = 0, resumed_ = 0;
  std::unique_ptr<GrowingFile> records_;
  PrepareProgress now_;
  uint64_t laid_done_ = 0;
};

}  // namespace

PrepareReport prepare(const PrepareOptions& options, const PrepareHooks& hooks) {
  Preparation preparation(options, hooks);
  const PrepareReport report = preparation.run();
  preparation.commit();
  return report;
}

}  // namespace taper
