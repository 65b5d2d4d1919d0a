// File: durable writes, reads at offsets, checksums, and the faults that tests inject.
#include "tensor/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <mutex>
#include <system_error>
#include <vector>

#include "tensor/error.h"

namespace taper {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view temporary_suffix = ".partial";

struct Fault {
  std::mutex mutex;
  std::atomic<bool> armed = false;  // so that an unarmed call takes no lock
  std::string call;
  int64_t left = 0;
  int error = 0;
};
Fault& fault() {
  static Fault f;
  return f;
}

// True when this call is the one that must fail; errno is then set.
bool fails(std::string_view call) {
  Fault& f = fault();
  if (!f.armed) return false;
  const std::lock_guard lock(f.mutex);
  if (f.call != call || f.left == 0 || --f.left != 0) return false;
  f.armed = false;
  errno = f.error;
  return true;
}

std::string reason(int error) { return std::generic_category().message(error); }

[[noreturn]] void io_error(const Path& path, const char* what, int error = errno) {
  fail(Exit::io, "{}: {} failed: {}", path.string(), what, reason(error));
}

int try_open(const Path& path, int flags) {
  if (fails("open")) return -1;
  int fd;
  do fd = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  while (fd < 0 && errno == EINTR);
  return fd;
}

int open_to_read(const Path& path) {
  const int fd = try_open(path, O_RDONLY);
  if (fd >= 0) return fd;
  const int error = errno;
  if (error == ENOENT) fail(Exit::no_input, "{}: no such file", path.string());
  const bool refused = error == EACCES || error == ENOTDIR || error == ELOOP || error == ENAMETOOLONG;
  fail(refused ? Exit::no_input : Exit::io, "{}: cannot open: {}", path.string(), reason(error));
}

size_t write_some(int fd, const void* data, size_t bytes, uint64_t at) {
  for (;;) {
    if (fails("write")) {
      if (errno == EINTR) continue;
      if (errno != 0) return 0;
      bytes = (bytes + 1) / 2;
    }
    const ssize_t n = ::pwrite(fd, data, bytes, off_t(at));
    if (n > 0) return size_t(n);
    if (n == 0) errno = ENOSPC;
    if (errno != EINTR) return 0;
  }
}

void write_all(int fd, const Path& path, const void* data, size_t bytes, uint64_t at) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const size_t n = write_some(fd, p, bytes, at);
    if (n == 0) io_error(path, "write");
    p += n, bytes -= n, at += n;
  }
}

// Reads up to `bytes`; fewer only at the end of the file.
size_t read_up_to(int fd, const Path& path, void* into, size_t bytes, uint64_t at) {
  char* p = static_cast<char*>(into);
  size_t done = 0;
  while (done < bytes) {
    const ssize_t n = fails("read") ? -1 : ::pread(fd, p + done, bytes - done, off_t(at + done));
    if (n == 0) break;
    if (n > 0) done += size_t(n);
    else if (errno == EISDIR) fail(Exit::no_input, "{}: is a directory, not a file", path.string());
    else if (errno != EINTR) io_error(path, "read");
  }
  return done;
}

void sync(int fd, const Path& path) {
  // Not tried again: after a failed fsync the system may have dropped the pages.
  if (fails("fsync") || ::fsync(fd) != 0) io_error(path, "fsync");
}

void sync_directory(const Path& path) {
  const int fd = try_open(path.empty() ? Path(".") : path, O_RDONLY | O_DIRECTORY);
  if (fd < 0) io_error(path, "open");
  const bool ok = !fails("fsync") && ::fsync(fd) == 0;
  const int error = errno;
  ::close(fd);
  if (!ok && error != EINVAL) io_error(path, "fsync", error);  // EINVAL: this file system has none for directories
}

void rename_to(const Path& from, const Path& to) {
  if (fails("rename") || ::rename(from.c_str(), to.c_str()) != 0) io_error(to, "rename");
}

// "dir/" and "dir" are the same name.
Path without_slash(const Path& path) { return path.has_filename() ? path : path.parent_path(); }

Path temporary_of(const Path& path) {
  Path p = path;
  p += temporary_suffix;
  return p;
}

// Takes the lock of a living writer on fd; false: the name means another file by now, open it again.
bool lock_writer(int fd, const Path& temporary, const Path& path) {
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(fd);
    fail(Exit::cannot_create, "{}: another process is writing it ({} is in use)", path.string(), temporary.string());
  }
  struct stat mine, named;
  if (::fstat(fd, &mine) == 0 && ::stat(temporary.c_str(), &named) == 0 && mine.st_ino == named.st_ino &&
      mine.st_dev == named.st_dev)
    return true;
  ::close(fd);
  return false;
}

void remove_tree(const Path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) fail(Exit::io, "{}: remove failed: {}", path.string(), error.message());
}

// Files before the directories that list them.
void sync_tree(const Path& directory) {
  std::error_code error;
  std::vector<Path> files, directories{directory};
  for (size_t i = 0; i < directories.size(); ++i) {
    for (fs::directory_iterator it(directories[i], error), end; !error && it != end; it.increment(error))
      (it->is_directory() ? directories : files).push_back(it->path());
    if (error) fail(Exit::io, "{}: read failed: {}", directories[i].string(), error.message());
  }
  for (const Path& path : files) {
    const int fd = open_to_read(path);
    const bool ok = !fails("fsync") && ::fsync(fd) == 0;
    const int reported = errno;
    ::close(fd);
    if (!ok) io_error(path, "fsync", reported);
  }
  for (auto it = directories.rbegin(); it != directories.rend(); ++it) sync_directory(*it);
}

}  // namespace

std::string read_file(const Path& path) {
  const int fd = open_to_read(path);
  const std::unique_ptr<const int, void (*)(const int*)> close(&fd, [](const int* f) { ::close(*f); });
  struct stat s;
  std::string text;
  size_t piece = ::fstat(fd, &s) == 0 && s.st_size > 0 ? size_t(s.st_size) + 1 : 65536;
  for (size_t n = piece; n == piece;) {
    const size_t had = text.size();
    text.resize(had + piece);
    n = read_up_to(fd, path, text.data() + had, piece, had);
    text.resize(had + n);
  }
  return text;
}

void write_file(const Path& path, std::string_view contents) {
  FileWriter file(path);
  file.write(contents);
  file.commit();
}

FileWriter::FileWriter(const Path& path) : path_(path), temporary_(temporary_of(path)) {
  std::error_code error;
  check(path.has_filename() && !fs::is_directory(path, error), Exit::cannot_create,
        "{}: cannot create: a file is wanted here, this is a directory", path.string());
  do {
    fd_ = try_open(temporary_, O_RDWR | O_CREAT);
    check(fd_ >= 0, Exit::cannot_create, "{}: cannot create: {}", path.string(), reason(errno));
  } while (!lock_writer(fd_, temporary_, path));
  if (::ftruncate(fd_, 0) != 0) {  // a killed writer's bytes
    const int error = errno;
    ::close(fd_);
    io_error(path, "truncate", error);
  }
}

FileWriter::~FileWriter() {
  if (fd_ < 0) return;
  ::unlink(temporary_.c_str());
  ::close(fd_);
}

void FileWriter::write(const void* data, size_t bytes) {
  write_all(fd_, path_, data, bytes, at_);
  at_ += bytes;
  written_ = std::max(written_, at_);
}

void FileWriter::commit() {
  check(fd_ >= 0, "{}: commit() called twice", path_.string());
  sync(fd_, path_);
  rename_to(temporary_, path_);
  ::close(fd_);
  fd_ = -1;
  sync_directory(path_.parent_path());
}

GrowingFile::GrowingFile(const Path& path, uint64_t keep) : path_(path), size_(keep) {
  fd_ = try_open(path, O_RDWR | O_CREAT);
  check(fd_ >= 0, Exit::cannot_create, "{}: cannot create: {}", path.string(), reason(errno));
  struct stat s;
  const bool known = ::fstat(fd_, &s) == 0, enough = known && uint64_t(s.st_size) >= keep;
  if (enough && ::ftruncate(fd_, off_t(keep)) == 0) return;
  const int error = errno;
  ::close(fd_);
  check(!known || enough, Exit::bad_data, "{}: truncated: {} bytes wanted, the file has {}", path.string(), keep, s.st_size);
  io_error(path, "truncate", error);
}

GrowingFile::~GrowingFile() { ::close(fd_); }

void GrowingFile::append(const void* data, size_t bytes) {
  write_all(fd_, path_, data, bytes, size_);
  size_ += bytes;
}

void GrowingFile::overwrite(uint64_t offset, const void* data, size_t bytes) {
  check(offset <= size_ && bytes <= size_ - offset, "{}: overwrites {} bytes at {} of {}", path_.string(), bytes, offset, size_);
  write_all(fd_, path_, data, bytes, offset);
}

void GrowingFile::sync() { taper::sync(fd_, path_); }

FileReader::FileReader(const Path& path) : path_(path), fd_(open_to_read(path)) {
  struct stat s;
  if (::fstat(fd_, &s) == 0 && S_ISREG(s.st_mode)) {
    size_ = uint64_t(s.st_size);
    return;
  }
  ::close(fd_);
  fail(Exit::no_input, "{}: is not a regular file", path.string());
}

FileReader::~FileReader() { ::close(fd_); }

void FileReader::read(uint64_t offset, void* into, size_t bytes) const {
  const bool inside = offset <= size_ && bytes <= size_ - offset;
  check(inside && read_up_to(fd_, path_, into, bytes, offset) == bytes, Exit::bad_data,
        "{}: truncated: {} bytes wanted at byte {}; the file has {}", path_.string(), bytes, offset, size_);
}

DirectoryWriter::DirectoryWriter(const Path& path, Stale stale)
    : path_(without_slash(path)), temporary_(temporary_of(path_)) {
  std::error_code error;
  if (path_.has_parent_path()) fs::create_directories(path_.parent_path(), error);
  check(!error, Exit::cannot_create, "{}: cannot create: {}", path_.parent_path().string(), error.message());
  check(!fs::exists(path_, error) || fs::is_directory(path_, error), Exit::cannot_create,
        "{}: cannot create: a directory is wanted here, this is a file", path_.string());
  do {
    const bool made = !fails("open") && (::mkdir(temporary_.c_str(), 0777) == 0 || errno == EEXIST);
    fd_ = made ? ::open(temporary_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    check(fd_ >= 0 || (made && errno == ENOENT), Exit::cannot_create, "{}: cannot create: {}", path_.string(),
          reason(errno));
  } while (fd_ < 0 || !lock_writer(fd_, temporary_, path_));
  if (stale == Stale::remove) clear();
}

DirectoryWriter::~DirectoryWriter() {
  if (fd_ < 0) return;
  std::error_code ignored;
  if (!leave_) fs::remove_all(temporary_, ignored);
  ::close(fd_);
}

void DirectoryWriter::clear() {
  std::error_code error;
  std::vector<Path> entries;
  for (const auto& entry : fs::directory_iterator(temporary_, error)) entries.push_back(entry.path());
  for (const Path& p : entries) remove_tree(p);
}

void DirectoryWriter::commit() {
  check(fd_ >= 0, "{}: commit() called twice", path_.string());
  sync_tree(temporary_);
  std::error_code error;
  if (!fs::exists(path_, error)) {
    rename_to(temporary_, path_);
  } else {
    if (fails("rename") || ::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) != 0)
      fail(Exit::io, "{}: cannot replace the directory: {}; remove it first", path_.string(), reason(errno));
    remove_tree(temporary_);  // the old one
  }
  ::close(fd_);
  fd_ = -1;
  sync_directory(path_.parent_path());
}

void append_bytes(const Path& path, std::string_view bytes) {
  const int fd = try_open(path, O_WRONLY | O_CREAT);
  check(fd >= 0, Exit::cannot_create, "{}: cannot open to append: {}", path.string(), reason(errno));
  const std::unique_ptr<const int, void (*)(const int*)> close(&fd, [](const int* f) { ::close(*f); });
  struct stat s;
  if (::fstat(fd, &s) != 0) io_error(path, "stat");
  try {
    write_all(fd, path, bytes.data(), bytes.size(), uint64_t(s.st_size));
  } catch (const Error&) {
    if (::ftruncate(fd, s.st_size) != 0) fail(Exit::io, "{}: ends in a part of a line: disk full?", path.string());
    throw;
  }
}

void append_line(const Path& path, std::string_view line) { append_bytes(path, std::string(line) + '\n'); }

void truncate_file(const Path& path, uint64_t bytes) {
  const int fd = try_open(path, O_WRONLY);
  if (fd < 0 && errno == ENOENT) fail(Exit::no_input, "{}: no such file", path.string());
  if (fd < 0) io_error(path, "open");
  const std::unique_ptr<const int, void (*)(const int*)> close(&fd, [](const int* f) { ::close(*f); });
  struct stat s;
  if (::fstat(fd, &s) != 0) io_error(path, "stat");
  check(uint64_t(s.st_size) >= bytes, Exit::bad_data, "{}: truncated: {} bytes wanted, the file has {}", path.string(),
        bytes, s.st_size);
  if (::ftruncate(fd, off_t(bytes)) != 0) io_error(path, "truncate");
  sync(fd, path);
}

void remove_durably(const Path& path) {
  Path name = without_slash(path), doomed = name;
  std::error_code error;
  if (fs::is_directory(fs::symlink_status(name, error))) {  // it disappears in one step, then its parts
    doomed = temporary_of(name);
    remove_tree(doomed);
    rename_to(name, doomed);
  }
  remove_tree(doomed);
  sync_directory(name.parent_path());
}

void remove_temporaries(const Path& directory) {
  std::error_code error;
  std::vector<Path> found;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error))
    if (it->path().extension() == temporary_suffix) found.push_back(it->path());
  for (const Path& path : found) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) continue;
    const bool in_use = ::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (!in_use) remove_tree(path);
    ::close(fd);
  }
}

uint64_t checksum(const void* data, size_t bytes, uint64_t seed) { return XXH3_64bits_withSeed(data, bytes, seed); }

std::string checksum_text(uint64_t sum) { return fmt::format("{:016x}", sum); }

uint64_t checksum_file(const Path& path) {
  const FileReader file(path);
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), XXH3_freeState);
  XXH3_64bits_reset(state.get());
  std::vector<char> piece(size_t(1) << 20);
  for (uint64_t at = 0; at < file.size(); at += piece.size()) {
    const size_t n = size_t(std::min<uint64_t>(piece.size(), file.size() - at));
    file.read(at, piece.data(), n);
    XXH3_64bits_update(state.get(), piece.data(), n);
  }
  return XXH3_64bits_digest(state.get());
}

void inject_file_fault(std::string_view call, int64_t nth, int error) {
  Fault& f = fault();
  const std::lock_guard lock(f.mutex);
  f.call = call;
  f.left = nth;
  f.error = error;
  f.armed = nth > 0;
}

}  // namespace taper
