// Corpus of texts: lines in groups, plain texts in pieces.
#include "data/corpus.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "data/running_checksum.h"
#include "tensor/error.h"

namespace taper {

void Unit::clear() {
  if (text.capacity() > size_t(1) << 20) text = {};
  text.clear();
  ids.clear();
  parts.clear();
}

bool SplitRule::holds_out(uint64_t hash) const { return double(hash) < std::ldexp(validation, 64); }

uint64_t SplitRule::head(uint64_t hash, uint64_t size) const {
  if (by_hash) return holds_out(hash) ? 0 : size;
  const uint64_t cut = uint64_t(double(size) * (1 - validation));
  return std::clamp<uint64_t>(cut, std::min<uint64_t>(1, size - 1), size - 1);
}

uint64_t between_characters(std::string_view text, uint64_t at, uint64_t from) {
  const uint64_t lowest = std::max(from, at > 3 ? at - 3 : 0);  // a character has at most four bytes
  while (at > lowest && at < text.size() && (uint8_t(text[at]) & 0xc0) == 0x80) --at;
  return at;
}

size_t piece_of(const Tokenizer& tokenizer, std::string_view text, size_t unit_bytes, int64_t& forced) {
  for (size_t n = unit_bytes; n < text.size() && n <= word_bytes; n *= 2)
    if (const size_t cut = tokenizer.cut(text.substr(0, n))) return cut;
  if (text.size() <= word_bytes) return text.size();
  ++forced;
  return between_characters(text, word_bytes);
}

namespace {

constexpr size_t read_bytes = size_t(1) << 17;

[[noreturn]] void changed(const Path& path) {
  fail(Exit::bad_data, "{}: is not what it was when the work stopped; bring it back, or start over with --restart", path.string());
}

// A group of whole lines at a time.
class Lines {
 public:
  Lines(const Path& path, size_t unit_bytes) : source_(path), unit_bytes_(unit_bytes) {}

  // False at the end.
  bool next(std::string& text, int64_t number) {
    text.assign(rest_);
    if (rest_.size() > 2 * unit_bytes_) rest_ = {};
    rest_.clear();
    while (true) {
      const size_t had = text.size(), wanted = std::max(unit_bytes_, had / 4);
      text.resize(had + wanted);
      const size_t n = source_.read(text.data() + had, wanted);
      text.resize(had + n);
      if (n < wanted) break;
      const size_t newline = text.rfind('\n');
      if (newline != text.npos) {
        rest_.assign(text, newline + 1);
        text.resize(newline + 1);
        break;
      }
      if (text.size() > line_cap) line_too_long(source_.path(), number);
    }
    sum_.add(text);
    return !text.empty();
  }
  // Over what came before a place.
  void skip(const Place& place) {
    std::string piece;
    for (uint64_t left = place.at; left > 0; left -= piece.size()) {
      piece.resize(size_t(std::min<uint64_t>(left, 65'536)));
      if (source_.read(piece.data(), piece.size()) < piece.size()) changed(source_.path());
      sum_.add(piece);
    }
    if (sum_.value() != place.sum) changed(source_.path());
  }
  uint64_t sum() const { return sum_.value(); }
  const ByteSource& source() const { return source_; }

 private:
  ByteSource source_;
  size_t unit_bytes_;
  std::string rest_;
  RunningChecksum sum_;
};

// A plain text, looked through once before the first piece is handed out.
struct Scan {
  bool text = true, left_out = false;
  bool replaced = false;
  uint64_t size = 0, hash = 0, sum = 0;
};

class Texts final : public Corpus {
 public:
  Texts(std::vector<InputFile> files, const TextOptions& options, const Tokenizer& tokenizer, const SplitRule& rule,
        const std::function<void()>& poll)
      : files_(std::move(files)), options_(options), tokenizer_(tokenizer), rule_(rule), poll_(poll) {}

  const Place& place() const override { return place_; }
  const std::vector<InputFile>& files() const override { return files_; }
  uint64_t done() const override { return done_ + (lines_ ? lines_->source().taken() : text_ ? text_->source().taken() : 0); }

  bool next(Unit& unit) override {
    for (; place_.file < int64_t(files_.size()); finish_file()) {
      if (!lines_ && !text_ && !open()) continue;
      unit.file = place_.file;
      unit.line = place_.line;
      unit.held_out = file().held_out;
      unit.parts.clear();
      if (lines_ ? next_lines(unit) : next_piece(unit)) return true;
    }
    return false;
  }

  void seek(const Place& place) override {
    for (; place_.file < place.file; ++place_.file) done_ += file().size;
    place_ = place;
    if (place.at == 0) return;
    if (place.file >= int64_t(files_.size())) changed(files_.empty() ? Path("prepare") : files_.back().path);
    if (holds_lines(file().path)) {
      lines_ = std::make_unique<Lines>(file().path, options_.unit_bytes);
      lines_->skip(place);
      return;
    }
    const Scan s = look_through(place.file);
    if (!s.text || s.left_out || s.hash != place.sum || place.at > s.size) changed(file().path);
    file().sum = s.sum;
    begin_text(s);
    while (buffer_at_ + buffer_.size() < place.at) {
      if (poll_) poll_();
      if (!text_->more(buffer_, read_bytes)) changed(file().path);
      drop(size_t(std::min<uint64_t>(buffer_.size(), place.at - buffer_at_)));
    }
    drop(size_t(place.at - buffer_at_));
  }

  void survey(const std::function<bool(uint64_t)>& go_on) override {
    for (int64_t i = 0; i < int64_t(files_.size()); ++i) {
      if (files_[size_t(i)].held_out) continue;
      if (holds_lines(files_[size_t(i)].path)) {
        if (!survey_lines(files_[size_t(i)].path, go_on)) return;
        continue;
      }
      const Scan s = look_through(i);
      if (s.text && !s.left_out && s.size > 0 && !go_on(s.hash)) return;
    }
  }

 private:
  InputFile& file() { return files_[size_t(place_.file)]; }

  bool survey_lines(const Path& path, const std::function<bool(uint64_t)>& go_on) const {
    Lines lines(path, options_.unit_bytes);
    std::string group, text;
    for (int64_t number = 1; lines.next(group, number);) {
      if (poll_) poll_();
      bool more = true;
      for_each_line(group, [&](std::string_view line) {
        if (!more) return;
        const auto kind = line_text(line, options_.field, options_.invalid_utf8, path, number++, text).kind;
        if (kind == LineText::Kind::text && !text.empty()) more = go_on(checksum(text.data(), text.size()));
      });
      if (!more) return false;
    }
    return true;
  }

  bool next_lines(Unit& unit) {
    unit.kind = Unit::Kind::lines;
    if (!lines_->next(unit.text, place_.line)) {
      file().sum = lines_->source().sum();
      ++place_.files;
      return false;
    }
    place_.at += unit.text.size();
    place_.line += std::ranges::count(unit.text, '\n');
    place_.sum = lines_->sum();
    return true;
  }

  // What a text is: read to its end, with the errors that are its reader's.
  Scan look_through(int64_t index) {
    if (const auto known = scans_.find(index); known != scans_.end()) return known->second;
    const InputFile& input = files_[size_t(index)];
    const std::string name = input.path.string();
    CleanText text(input.path, options_.invalid_utf8);
    RunningChecksum sum;
    std::string piece;
    Scan s;
    for (piece.clear(); s.text && text.more(piece, read_bytes); piece.clear()) {
      if (poll_) poll_();
      sum.add(piece);
      s.size += piece.size();
      check(text.nul() < 0 || !input.named, Exit::bad_data, "{}: not a text: byte {} is NUL", name, text.nul());
      check(text.invalid() < 0 || !input.named || options_.invalid_utf8 != InvalidUtf8::error, Exit::bad_data,
            "{}: not UTF-8 at byte {}; {}", name, text.invalid(), hint);
      s.text = text.nul() < 0;
    }
    const bool bad = s.text && text.invalid() >= 0;
    check(!bad || options_.invalid_utf8 != InvalidUtf8::error, Exit::bad_data,
          "{}: not UTF-8 at byte {}; {}", name, text.invalid(), hint);
    s.left_out = bad && options_.invalid_utf8 == InvalidUtf8::skip;
    s.replaced = bad && options_.invalid_utf8 == InvalidUtf8::replace;
    s.hash = sum.value();
    s.sum = text.source().sum();
    if (scans_.size() < 1'024) scans_[index] = s;
    return s;
  }
  static constexpr std::string_view hint = "give --invalid-utf8 replace, skip or keep to go on";

  // False: there is nothing in it to read.
  bool open() {
    if (poll_) poll_();
    if (holds_lines(file().path)) {
      lines_ = std::make_unique<Lines>(file().path, options_.unit_bytes);
      return true;
    }
    const Scan s = look_through(place_.file);
    file().sum = s.sum;
    ++(s.text ? place_.files : place_.skipped_files);
    if (!s.text) return false;
    if (s.left_out) ++place_.left_out;
    else if (s.size == 0) ++place_.empty;
    if (s.left_out || s.size == 0) return false;
    if (s.replaced) ++place_.replaced;
    begin_text(s);
    return true;
  }
  void begin_text(const Scan& s) {
    text_ = std::make_unique<CleanText>(file().path, options_.invalid_utf8);
    scan_ = s;
    place_.sum = s.hash;
    head_ = file().held_out ? 0 : rule_.head(s.hash, s.size);
    buffer_.clear();
    buffer_at_ = 0;
    used_ = 0;
  }

  // The buffer holds the text from place_.at on, behind `used_` bytes that are done with.
  std::string_view ahead(size_t wanted) {
    while (buffer_.size() - used_ < wanted && buffer_at_ + buffer_.size() < scan_.size) {
      if (used_ > 0 && used_ * 2 >= buffer_.size()) drop(used_), used_ = 0;
      if (!text_->more(buffer_, read_bytes)) changed_meanwhile();
    }
    return std::string_view(buffer_).substr(used_);
  }
  void drop(size_t n) {
    buffer_.erase(0, n);
    buffer_at_ += n;
  }
  [[noreturn]] void changed_meanwhile() const {
    fail(Exit::bad_data, "{}: became shorter while it was read", text_->source().path().string());
  }

  bool next_piece(Unit& unit) {
    unit.kind = Unit::Kind::text;
    if (place_.at == scan_.size) return false;
    std::string_view text = ahead(word_bytes + 4);
    if (place_.at < head_ && head_ < scan_.size && head_ - place_.at < text.size())
      head_ = place_.at + between_characters(text, head_ - place_.at);
    const bool validation = place_.at >= head_;
    const uint64_t left = (validation ? scan_.size : head_) - place_.at;
    text = text.substr(0, size_t(std::min<uint64_t>(left, text.size())));
    const size_t n = piece_of(tokenizer_, text, options_.unit_bytes, place_.forced);
    unit.text.assign(text.substr(0, n));
    unit.parts.push_back({validation, place_.at == 0 || place_.at == head_, n});
    used_ += n;
    place_.at += n;
    return true;
  }

  void finish_file() {
    lines_.reset();
    text_.reset();
    done_ += file().size;
    ++place_.file;
    place_.at = 0;
    place_.line = 1;
    place_.sum = 0;
  }

  std::vector<InputFile> files_;
  const TextOptions options_;
  const Tokenizer& tokenizer_;
  const SplitRule& rule_;
  const std::function<void()> poll_;
  Place place_;
  uint64_t done_ = 0;  // of the files before
  std::map<int64_t, Scan> scans_;
  std::unique_ptr<Lines> lines_;
  std::unique_ptr<CleanText> text_;
  Scan scan_;
  uint64_t head_ = 0;
  std::string buffer_;
  uint64_t buffer_at_ = 0;
  size_t used_ = 0;
};

}  // namespace

std::unique_ptr<Corpus> text_corpus(std::vector<InputFile> files, const TextOptions& options, const Tokenizer& tokenizer,
                                    const SplitRule& rule, const std::function<void()>& poll) {
  return std::make_unique<Texts>(std::move(files), options, tokenizer, rule, poll);
}

}  // namespace taper
