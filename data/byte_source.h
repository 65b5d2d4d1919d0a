// Byte source: the bytes of a file from front to back, unpacked where its name ends in .zst or .gz.
//
// Both may hold several frames (members) one after the other. Memory: a piece of the file and the window
// of its compression, at most 128 MiB. Errors: 65 for data that are cut short, damaged, or want a larger
// window, with the file, the byte in it and the bytes of text before.
#pragma once
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "data/running_checksum.h"
#include "tensor/file.h"

namespace taper {

class ByteSource {
 public:
  explicit ByteSource(const Path& path);
  ~ByteSource();
  ByteSource(const ByteSource&) = delete;

  size_t read(char* into, size_t bytes);        // less than `bytes` only at the end
  const Path& path() const { return file_.path(); }
  uint64_t size() const { return file_.size(); }  // of the file, packed as it is
  uint64_t taken() const { return at_; }          // bytes of the file so far
  uint64_t given() const { return given_; }       // bytes of text so far
  uint64_t sum() const { return sum_.value(); }   // XXH3 of the bytes of the file so far; at the end: checksum_file()

  struct Unpacker {
    virtual ~Unpacker() = default;
    virtual size_t unpack(ByteSource& source, char* into, size_t bytes) = 0;  // 0 only at the end
  };

 private:
  friend struct ZstdUnpacker;
  friend struct GzipUnpacker;
  size_t take(char* into, size_t bytes);
  bool refill();  // packed_ holds the file's next bytes; false: there are none
  [[noreturn]] void truncated(int64_t frame) const;
  [[noreturn]] void damaged(int64_t frame, std::string_view why) const;

  FileReader file_;
  uint64_t at_ = 0, given_ = 0;
  uint64_t newlines_ = 0;  // in the text so far, where it is unpacked: errors name the line
  RunningChecksum sum_;
  std::vector<char> packed_;
  std::unique_ptr<Unpacker> unpacker_;
};

Path without_packing(const Path& path);  // "a.txt" of "a.txt.zst" and "a.txt.gz"

}  // namespace taper
