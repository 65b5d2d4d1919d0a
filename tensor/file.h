// File: the only way the program writes what it must not lose. A file appears whole or not at all:
// temporary name, write, fsync, rename, fsync of the directory. Also reading, and checksums.
//
// Errors name the file, the operation and the system's reason. Exit codes: 66 missing or unreadable,
// 65 shorter than it should be, 73 cannot create, 74 read or write failed. A process that may meet a
// file size limit must ignore SIGXFSZ, so that the write fails instead of the process.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace taper {

using Path = std::filesystem::path;

std::string read_file(const Path& path);
void write_file(const Path& path, std::string_view contents);  // durable and atomic

// A file written piece by piece under a temporary name beside `path`; commit() makes it appear.
// Destroyed without commit(): the temporary file is removed and `path` is as it was. What a killed
// writer left is overwritten; while another process writes the same file: 73.
class FileWriter {
 public:
  explicit FileWriter(const Path& path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  void write(const void* data, size_t bytes);
  void write(std::string_view s) { write(s.data(), s.size()); }
  void seek(uint64_t offset) { at_ = offset; }   // to fill in a header once the body is known
  uint64_t written() const { return written_; }  // bytes so far = the file's length
  void commit();

 private:
  Path path_, temporary_;
  int fd_ = -1;
  uint64_t written_ = 0, at_ = 0;
};

// A file that grows under its own name inside a directory that is not complete yet (DirectoryWriter). It
// begins with the first `keep` bytes of the file that is there (fewer: 65); what it wrote stays.
class GrowingFile {
 public:
  explicit GrowingFile(const Path& path, uint64_t keep = 0);
  ~GrowingFile();
  GrowingFile(const GrowingFile&) = delete;
  uint64_t size() const { return size_; }
  void append(const void* data, size_t bytes);
  void overwrite(uint64_t offset, const void* data, size_t bytes);  // within size()
  void sync();  // all of it is on the disk; its name is, once the directory is synced (write_file beside it does)

 private:
  Path path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

// A read-only file opened for reading at offsets.
class FileReader {
 public:
  explicit FileReader(const Path& path);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  uint64_t size() const { return size_; }
  const Path& path() const { return path_; }
  void read(uint64_t offset, void* into, size_t bytes) const;  // thread safe; a short file is an error

 private:
  Path path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

// A directory that appears whole: fill `temporary()`, then commit() renames it to its name. Each
// file in it is fsynced first; an older directory of that name is exchanged for it in one step.
// Without commit() the temporary directory is removed, or stays for a later writer that takes it over
// with `Stale::keep`. Missing parent directories are made.
class DirectoryWriter {
 public:
  enum class Stale { remove, keep };  // what an earlier writer left in the temporary directory
  explicit DirectoryWriter(const Path& path, Stale stale = Stale::remove);
  ~DirectoryWriter();
  DirectoryWriter(const DirectoryWriter&) = delete;
  const Path& temporary() const { return temporary_; }
  void clear();                       // empties the temporary directory
  void leave(bool on) { leave_ = on; }  // destroyed without commit(), the temporary directory stays
  void commit();

 private:
  Path path_, temporary_;
  bool leave_ = false;
  int fd_ = -1;  // holds the lock that tells a living writer from a killed one
};

// Appends and hands it to the system (no fsync): logs. What does not fit whole is taken back.
void append_bytes(const Path& path, std::string_view bytes);
void append_line(const Path& path, std::string_view line);
void truncate_file(const Path& path, uint64_t bytes);
void remove_durably(const Path& path);         // a file or a whole directory, then fsync of the parent
void remove_temporaries(const Path& directory);  // what killed writers and removers left directly in it

// XXH3, 64 bits; checksum_text gives its 16 hex digits.
uint64_t checksum(const void* data, size_t bytes, uint64_t seed = 0);
std::string checksum_text(uint64_t sum);
uint64_t checksum_file(const Path& path);

// For tests: the n-th (from 1) call of "open", "write", "fsync", "rename" or "read" from now on
// fails with this errno; n = 0 ends it. "write" with errno 0 writes half of what it was given.
void inject_file_fault(std::string_view call, int64_t nth, int error);

}  // namespace taper
