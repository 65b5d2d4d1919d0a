// Id file: headers, Megatron's index, and ids of eight types.
#include "data/id_file.h"

#include <algorithm>
#include <cstring>

#include "tensor/error.h"

namespace taper {
namespace {

constexpr int64_t window_ids = 1 << 16;
constexpr uint64_t index_head = 34;  // bytes before the lengths

Path index_of(Path path) { return path.replace_extension(".idx"); }

}  // namespace

IdFile::IdFile(const Path& path, const ImportOptions& options) : file_(path), options_(options) {
  if (options.kind == Import::llmc) open_llmc();
  if (options.kind == Import::megatron) open_megatron();
  if (index_) return;
  const uint64_t bytes = file_.size() - begin_;
  check(bytes % width_ == 0, Exit::bad_data, "{}: {} bytes of ids are not a multiple of {}; is it a file of u{}, and whole?", path.string(),
        bytes, width_, 8 * width_);
  const int64_t n = int64_t(bytes / width_);
  check(options.kind != Import::llmc || n == count_, Exit::bad_data, "{}: its header says {} ids; there are {}; truncated?", path.string(), count_, n);
  count_ = n;
}

void IdFile::open_llmc() {
  const std::string name = path().string();
  check(file_.size() >= 1024, Exit::bad_data, "{}: shorter than the 1024 bytes of an llm.c header", name);
  int32_t head[3];
  file_.read(0, head, sizeof head);
  check(head[0] != 20240522, Exit::bad_data, "{}: llm.c evaluation data (magic 20240522), not tokens to train on", name);
  const bool narrow = head[0] == 20240520 && head[1] == 1, wide = head[0] == 20240801 && head[1] == 7;
  check(narrow || wide, Exit::bad_data, "{}: an llm.c file begins with magic 20240520 version 1 or 20240801 version 7; this one with {} version {}", name,
        head[0], head[1]);
  check(head[2] >= 0, Exit::bad_data, "{}: its header says {} ids", name, head[2]);
  begin_ = 1024;
  width_ = narrow ? 2 : 4;
  code_ = narrow ? 8 : 4;
  count_ = head[2];
}

void IdFile::open_megatron() {
  const Path index_path = index_of(path());
  const std::string name = index_path.string();
  std::error_code error;
  check(std::filesystem::exists(index_path, error), Exit::no_input, "{}: missing; the index beside {}", name, path().string());
  index_ = std::make_unique<FileReader>(index_path);
  auto good = [&](bool ok, const char* what) { check(ok, Exit::bad_data, "{}: not a good index: {}", name, what); };
  good(index_->size() >= index_head, "shorter than its header");
  char head[index_head];
  index_->read(0, head, sizeof head);
  good(std::memcmp(head, "MMIDIDX\0\0", 9) == 0, "it does not begin with MMIDIDX");
  uint64_t version, sequences, documents;
  std::memcpy(&version, head + 9, 8);
  std::memcpy(&sequences, head + 18, 8);
  std::memcpy(&documents, head + 26, 8);
  check(version == 1, Exit::bad_data, "{}: index version {}; version 1 is read", name, version);
  code_ = uint8_t(head[17]);
  check((1 <= code_ && code_ <= 5) || code_ == 8, Exit::bad_data,
        "{}: ids of type code {} are not read; integers are: 1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 8 u16", name, code_);
  constexpr uint64_t widths[] = {0, 1, 1, 2, 4, 8, 0, 0, 2};
  width_ = widths[code_];
  const uint64_t body = index_->size() - index_head;
  good(sequences <= body / 12 && documents <= body / 8 && (body == 12 * sequences + 8 * documents || body == 13 * sequences + 8 * documents),
       "its size does not fit the numbers of sequences and documents in its header; truncated?");
  sequences_ = int64_t(sequences);
  documents_ = int64_t(documents);
  good(documents >= 1, "it lists no document, not even the end");
  // Every length and pointer: the sequences lie one after the other.
  std::vector<int32_t> lengths;
  std::vector<uint64_t> pointers;
  uint64_t at = 0;
  for (uint64_t i = 0; i < sequences; i += lengths.size()) {
    const size_t n = size_t(std::min<uint64_t>(sequences - i, 65'536));
    lengths.resize(n), pointers.resize(n);
    index_->read(index_head + 4 * i, lengths.data(), 4 * n);
    index_->read(index_head + 4 * sequences + 8 * i, pointers.data(), 8 * n);
    for (size_t k = 0; k < n; ++k) {
      check(lengths[k] >= 0, Exit::bad_data, "{}: sequence {} has a length of {}", name, i + k, lengths[k]);
      check(pointers[k] == at, Exit::bad_data, "{}: sequence {} begins at byte {}; by the lengths before it, {} is wanted", name, i + k, pointers[k], at);
      at += uint64_t(lengths[k]) * width_;
      check(at <= file_.size(), Exit::bad_data, "{}: sequence {} ends at byte {} of {}, which has {}", name, i + k, at, path().string(), file_.size());
    }
  }
  check(at == file_.size(), Exit::bad_data, "{}: the sequences end at byte {} of {}, which has {}", name, at, path().string(), file_.size());
  uint64_t last = 0;
  for (uint64_t i = 0; i < documents; i += pointers.size()) {
    pointers.resize(size_t(std::min<uint64_t>(documents - i, 65'536)));
    index_->read(index_head + 12 * sequences + 8 * i, pointers.data(), 8 * pointers.size());
    for (size_t k = 0; k < pointers.size(); ++k) {
      check(pointers[k] >= last && pointers[k] <= sequences && (i + k > 0 || pointers[k] == 0), Exit::bad_data,
            "{}: document {} begins at sequence {}; at least {} and at most {} is wanted", name, i + k, pointers[k], last, sequences);
      last = pointers[k];
    }
  }
  check(last == sequences, Exit::bad_data, "{}: the documents end at sequence {} of {}", name, last, sequences);
  count_ = int64_t(file_.size() / width_);
}

int64_t IdFile::boundary(int64_t document) const {
  uint64_t sequence, byte;
  index_->read(index_head + 12 * uint64_t(sequences_) + 8 * uint64_t(document), &sequence, 8);
  if (sequence == uint64_t(sequences_)) return count_;
  index_->read(index_head + 4 * uint64_t(sequences_) + 8 * sequence, &byte, 8);
  return int64_t(byte / width_);
}

int64_t IdFile::document_end(int64_t at, int64_t& empty) {
  if (!index_) return count_;
  while (end_ <= at && document_ + 1 < documents_) {
    const int64_t begin = end_;
    end_ = boundary(++document_);
    empty += end_ == begin;
  }
  return end_;
}

template <class T>
void IdFile::decode(int64_t at, std::span<int32_t> into) const {
  std::vector<T> raw(into.size());
  file_.read(begin_ + uint64_t(at) * width_, raw.data(), raw.size() * sizeof(T));
  for (size_t i = 0; i < raw.size(); ++i) {
    const bool inside = raw[i] >= T(0) && uint64_t(raw[i]) < uint64_t(options_.vocab);
    check(inside, Exit::bad_data, "{}: id {} at position {} is outside the vocabulary of {}", path().string(), int64_t(raw[i]), at + int64_t(i),
          options_.vocab);
    into[i] = int32_t(raw[i]);
  }
}

std::span<const int32_t> IdFile::from(int64_t at) {
  if (at < window_at_ || at >= window_at_ + int64_t(window_.size())) {
    window_.resize(size_t(std::min(window_ids, count_ - at)));
    window_at_ = at;
    switch (options_.kind == Import::llmc && width_ == 4 ? 0 : code_) {
      case 0: decode<uint32_t>(at, window_); break;
      case 1: decode<uint8_t>(at, window_); break;
      case 2: decode<int8_t>(at, window_); break;
      case 3: decode<int16_t>(at, window_); break;
      case 4: decode<int32_t>(at, window_); break;
      case 5: decode<int64_t>(at, window_); break;
      case 8: decode<uint16_t>(at, window_); break;
      default: fail("id file: type code {}", code_);
    }
  }
  return std::span<const int32_t>(window_).subspan(size_t(at - window_at_));
}

}  // namespace taper
