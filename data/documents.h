// Documents: what `taper prepare` takes for text, and where one document ends.
//
// A line of a .jsonl or .ndjson file is a document, in its text field; any other file is one. Both may be
// packed (.gz, .zst). A directory is walked recursively in sorted order, without hidden entries; in it,
// files with NUL bytes or a known binary extension are skipped.
//
// Errors: missing or unreadable 66; a named file that is not text, a bad line (FILE:LINE), invalid UTF-8 65.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/byte_source.h"
#include "tensor/file.h"

namespace taper {

struct InputFile {
  Path path;
  bool named = false;  // by the user, not found in a directory: it must be readable text
  bool held_out = false;  // all of it goes to the validation split
  uint64_t size = 0;
  int64_t modified = 0;  // nanoseconds
  uint64_t sum = 0;      // XXH3, once it was read
};

// Files to read, in order, with their sizes; `skipped` grows by those left out.
std::vector<InputFile> list_files(const std::vector<Path>& inputs, int64_t& skipped);
void stat_file(InputFile& file);     // its size and time
bool holds_lines(const Path& path);  // by its name

// What becomes of a document that is not UTF-8: an error, U+FFFD for each sequence that is none, left out,
// or (plain texts; a tokenizer of bytes) kept as it is.
enum class InvalidUtf8 { error, replace, skip, keep };

// One line's document.
struct LineText {
  enum class Kind { text, blank, left_out } kind = Kind::blank;
  bool replaced = false;
};
constexpr size_t line_cap = size_t(48) << 20;  // longer lines are refused
LineText line_text(std::string_view line, const std::string& field, InvalidUtf8 policy, const Path& path, int64_t number,
                   std::string& text);
[[noreturn]] void line_too_long(const Path& path, int64_t number);

// A plain text from front to back, as the policy leaves it. It reports what it meets and judges nothing.
class CleanText {
 public:
  CleanText(const Path& path, InvalidUtf8 policy) : source_(path), replace_(policy == InvalidUtf8::replace), keep_(policy == InvalidUtf8::keep) {}
  bool more(std::string& append_to, size_t bytes);  // about so many; false at the end
  const ByteSource& source() const { return source_; }
  int64_t nul() const { return nul_; }          // the first NUL byte of the text as it lies in the file; -1: none so far
  int64_t invalid() const { return invalid_; }  // the first byte of the first sequence that is not UTF-8; -1

 private:
  ByteSource source_;
  bool replace_, keep_;
  std::string raw_;  // a character cut short, and what is read behind it
  uint64_t at_ = 0;
  int64_t nul_ = -1, invalid_ = -1;
};

}  // namespace taper
