// Id file: the ids of one imported file, by position, and where its index ends documents.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "data/import.h"

namespace taper {

class IdFile {
 public:
  IdFile(const Path& path, const ImportOptions& options);  // checks header, index and size
  int64_t count() const { return count_; }
  uint64_t bytes() const { return uint64_t(count_) * width_; }
  const Path& path() const { return file_.path(); }

  // The ids from `at` on that are at hand, at least one. Valid until the next call.
  std::span<const int32_t> from(int64_t at);
  bool indexed() const { return index_ != nullptr; }
  // The first end of a document behind `at`, by the index; without one, the file's end. `at` never falls.
  // `empty` grows by the documents without ids that are passed over.
  int64_t document_end(int64_t at, int64_t& empty);

 private:
  void open_llmc();
  void open_megatron();
  int64_t boundary(int64_t document) const;  // where it begins
  template <class T>
  void decode(int64_t at, std::span<int32_t> into) const;

  FileReader file_;
  ImportOptions options_;
  uint64_t begin_ = 0, width_ = 2;  // of the ids in the file; bytes of one
  int code_ = 8;                    // Megatron's for the type
  int64_t count_ = 0;
  std::vector<int32_t> window_;
  int64_t window_at_ = 0;

  std::unique_ptr<FileReader> index_;
  int64_t sequences_ = 0, documents_ = 0;
  int64_t document_ = 0, end_ = 0;  // end_ is where document_ begins
};

}  // namespace taper
