// Run: making or taking up a run directory, and its two logs.
#include "apps/run.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cmath>

#include "tensor/error.h"

namespace taper {

namespace fs = std::filesystem;

bool may_change(std::string_view key) {
  return key == "run.dir" || key == "run.device" || key == "train.graph" || key.starts_with("checkpoint.") || key.starts_with("log.") ||
         key.starts_with("eval.");
}

std::string json_number(double x) { return std::isfinite(x) ? fmt::format("{}", x) : "null"; }

DirectoryLock::DirectoryLock(const Path& dir) : fd_(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  check(fd_ >= 0, Exit::cannot_create, "run {}: cannot open: {}", dir.string(), std::generic_category().message(errno));
  if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) return;
  ::close(fd_);
  fail(Exit::cannot_create, "run {}: another process is training it", dir.string());
}

DirectoryLock::~DirectoryLock() { ::close(fd_); }

Run::Run(const Config& config, bool resume) : dir_(config.run.dir) {
  check(!dir_.empty(), Exit::bad_config, "run: [run] dir must name the directory of the run; it is empty");
  std::error_code error;
  if (dir_.has_parent_path()) fs::create_directories(dir_.parent_path(), error);
  check(!error, Exit::cannot_create, "run {}: cannot create {}: {}", dir_.string(), dir_.parent_path().string(), error.message());
  const bool made = fs::create_directory(dir_, error);
  check(!error, Exit::cannot_create, "run {}: cannot create: {}", dir_.string(), error.message());
  check(made || resume, Exit::cannot_create, "run {}: exists already; give --resume to continue it, or another run.dir", dir_.string());

  lock_.emplace(dir_);
  const Path file = dir_ / "config.toml";
  if (fs::exists(file, error)) {
    for (const Difference& d : differences(load_config(file), config))
      check(may_change(d.key), Exit::bad_config, "run {}: {} was {} and is now {}; a resumed run keeps its configuration: change it back, or begin another run",
            dir_.string(), d.key, d.before, d.after);
  }
  write_file(file, write_config(config));
}

static constexpr const char* reproducible[] = {"metrics", "spectra"};

std::map<std::string, int64_t> Run::settle() const {
  std::map<std::string, int64_t> lengths;
  for (const std::string name : reproducible) {
    const Path file = dir_ / (name + ".jsonl");
    std::error_code error;
    const uint64_t bytes = fs::file_size(file, error);
    if (!error) truncate_file(file, bytes);  // changes nothing, and fsyncs
    lengths[name + "_bytes"] = error ? 0 : int64_t(bytes);  // none: nothing was logged yet
  }
  return lengths;
}

void Run::rewind(const std::map<std::string, int64_t>& lengths) const {
  for (const std::string name : reproducible) {
    const Path file = dir_ / (name + ".jsonl");
    const auto at = lengths.find(name + "_bytes");
    const int64_t bytes = at == lengths.end() ? 0 : at->second;
    std::error_code error;
    if (bytes != 0 || fs::exists(file, error)) truncate_file(file, uint64_t(bytes));
  }
}

}  // namespace taper
