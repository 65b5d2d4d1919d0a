// Import: documents between EODs, handed out like those of texts.
#include "data/import.h"

#include <algorithm>
#include <chrono>

#include "data/id_file.h"
#include "data/running_checksum.h"
#include "tensor/error.h"

namespace taper {

namespace fs = std::filesystem;

std::string_view import_name(Import kind) {
  constexpr std::string_view names[] = {"none", "nanogpt", "llmc", "megatron"};
  return names[int(kind)];
}

std::vector<InputFile> list_id_files(const std::vector<Path>& inputs) {
  std::vector<InputFile> files;
  std::error_code error;
  for (const Path& input : inputs) {
    check(fs::exists(input, error), Exit::no_input, "{}: no such file or directory", input.string());
    if (!fs::is_directory(input, error)) {
      Path path = input;
      files.push_back({.path = input.extension() == ".idx" ? path.replace_extension(".bin") : path, .named = true});
      continue;
    }
    std::vector<Path> found;
    for (fs::directory_iterator it(input, error), end; !error && it != end; it.increment(error))
      if (it->path().extension() == ".bin") found.push_back(it->path());
    check(!error, Exit::no_input, "{}: cannot read the directory: {}", input.string(), error.message());
    check(!found.empty(), Exit::no_input, "{}: holds no .bin file", input.string());
    std::ranges::sort(found);
    for (const Path& path : found) files.push_back({.path = path});
  }
  for (InputFile& file : files) stat_file(file);
  return files;
}

namespace {

class Ids final : public Corpus {
 public:
  Ids(std::vector<InputFile> files, const ImportOptions& options, const SplitRule& rule, const std::function<void()>& poll)
      : files_(std::move(files)), options_(options), rule_(rule), poll_(poll) {}

  const Place& place() const override { return place_; }
  const std::vector<InputFile>& files() const override { return files_; }
  uint64_t done() const override { return done_ + (ids_ && ids_->count() ? file().size * place_.at / uint64_t(ids_->count()) : 0); }

  bool next(Unit& unit) override {
    unit.clear();
    unit.kind = Unit::Kind::ids;
    for (; place_.file < int64_t(files_.size()); finish_file()) {
      if (!ids_) open();
      unit.file = place_.file;
      while (int64_t(unit.ids.size()) < options_.unit_ids && (at() < document_.end || find_document())) take(unit);
      if (!unit.ids.empty()) return true;
    }
    return false;
  }

  void seek(const Place& place) override {
    for (; place_.file < place.file; ++place_.file) done_ += file().size;
    place_ = place;
    if (place.at == 0) return;
    check(place.file < int64_t(files_.size()) && stamp() == place.sum, Exit::bad_data,
          "{}: is not what it was when the work stopped; bring it back, or start over with --restart",
          place.file < int64_t(files_.size()) ? file().path.string() : "an input");
    open();
    region_end_ = ids_->document_end(int64_t(place.begin), place_.empty);
    scan(int64_t(place.begin));
    place_ = place;
  }

  void survey(const std::function<bool(uint64_t)>& go_on) override {
    bool more = true;
    for (; more && place_.file < int64_t(files_.size()); finish_file()) {
      if (file().held_out) continue;
      open();
      while (more && find_document()) {
        more = go_on(document_.hash);
        place_.at = uint64_t(document_.end);
      }
    }
    place_ = {};
    done_ = 0;
    ids_.reset();
  }

 private:
  struct Document {
    int64_t end = 0, head = 0;  // [head, end) is validation
    uint64_t hash = 0;
  };

  const InputFile& file() const { return files_[size_t(place_.file)]; }
  int64_t at() const { return int64_t(place_.at); }
  uint64_t stamp() const {
    const uint64_t what[] = {file().size, uint64_t(file().modified)};
    return checksum(what, sizeof what);
  }

  void open() {
    if (poll_) poll_();
    ids_ = std::make_unique<IdFile>(file().path, options_);
    place_.sum = stamp();
    document_ = {};
    region_end_ = 0;
    content_ = true;
    after_eod_ = false;
  }

  // The document that begins at `begin`: up to an EOD, or where the index ends it.
  void scan(int64_t begin) {
    RunningChecksum sum;
    int64_t end = begin;
    for (bool found = false; !found && end < region_end_;) {
      if (poll_ && end > begin) poll_();
      std::span<const int32_t> ids = ids_->from(end);
      ids = ids.first(size_t(std::min(int64_t(ids.size()), region_end_ - end)));
      const auto eod = std::ranges::find(ids, options_.eod);
      found = eod != ids.end();
      ids = ids.first(size_t(eod - ids.begin()));
      sum.add(ids.data(), ids.size_bytes());
      end += int64_t(ids.size());
    }
    document_.end = end;
    document_.hash = sum.value();
    document_.head = begin + int64_t(file().held_out ? 0 : rule_.head(document_.hash, uint64_t(end - begin)));
    place_.begin = uint64_t(begin);
  }

  // Over EODs to the next document; false: there is none in this file.
  bool find_document() {
    while (at() < ids_->count()) {
      if (at() == region_end_) {
        leave_region();
        region_end_ = ids_->document_end(at(), place_.empty);
        content_ = false;
      }
      if (ids_->from(at())[0] != options_.eod) {
        content_ = true;
        after_eod_ = false;
        scan(at());
        return true;
      }
      if (!ids_->indexed() && after_eod_) ++place_.empty;
      after_eod_ = true;
      ++place_.at;
    }
    return false;
  }
  // A document of the index in which there was nothing but EODs.
  void leave_region() {
    if (ids_->indexed() && !content_) ++place_.empty;
    content_ = true;
  }

  // The document's next ids, as many as the unit has room for.
  void take(Unit& unit) {
    const bool validation = at() >= document_.head;
    const int64_t room = options_.unit_ids - int64_t(unit.ids.size());
    const int64_t left = (validation ? document_.end : document_.head) - at();
    const std::span<const int32_t> ids = ids_->from(at());
    const size_t n = size_t(std::min({room, left, int64_t(ids.size())}));
    unit.ids.insert(unit.ids.end(), ids.begin(), ids.begin() + int64_t(n));
    unit.parts.push_back({validation, place_.at == place_.begin || at() == document_.head, n});
    place_.at += n;
  }

  void finish_file() {
    if (ids_) {
      leave_region();
      ids_->document_end(ids_->count(), place_.empty);
      ++place_.files;
    }
    ids_.reset();
    document_ = {};
    done_ += file().size;
    ++place_.file;
    place_.at = place_.begin = place_.sum = 0;
  }

  std::vector<InputFile> files_;
  const ImportOptions options_;
  const SplitRule& rule_;
  const std::function<void()> poll_;
  Place place_;
  uint64_t done_ = 0;  // of the files before
  std::unique_ptr<IdFile> ids_;
  Document document_;       // that `at` is in, or behind
  int64_t region_end_ = 0;  // of the index's document, or of the file
  bool content_ = true, after_eod_ = false;
};

}  // namespace

std::unique_ptr<Corpus> id_corpus(std::vector<InputFile> files, const ImportOptions& options, const SplitRule& rule,
                                  const std::function<void()>& poll) {
  return std::make_unique<Ids>(std::move(files), options, rule, poll);
}

}  // namespace taper
