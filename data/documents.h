// Documents: walks the inputs of `taper prepare` and hands out one document at a time, in pieces.
//
// A plain text file is one document; a line of a .jsonl or .jsonl.zst file is one, in its text field.
// A directory is walked recursively in sorted order, without hidden entries; in it, files with NUL
// bytes or a known binary extension are skipped. Errors: missing or unreadable 66; a named file that
// is not text, a bad line (FILE:LINE), damaged compression 65.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/file.h"

namespace taper {

struct Document {
  uint64_t bytes = 0, hash = 0;  // never empty; XXH3 of the bytes
  // Calls with the text from begin to end, piece by piece, in order; memory stays bounded.
  std::function<void(uint64_t begin, uint64_t end, const std::function<void(std::string_view)>&)> read;
};

struct InputFile {
  Path path;
  bool named = false;  // by the user, not found in a directory: it must be readable text
};

// Files to read, in order; `skipped` grows by those left out.
std::vector<InputFile> list_files(const std::vector<Path>& inputs, int64_t& skipped);

// Every document of a file; false: the file is not text and was found in a directory.
bool read_documents(const InputFile& file, const std::string& text_field,
                    const std::function<void(const Document&)>& f);

}  // namespace taper
