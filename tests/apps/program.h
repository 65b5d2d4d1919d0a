// Program: runs the real binary, as a user would, and keeps what it said.
#pragma once
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "tensor/file.h"

namespace taper::test {

namespace fs = std::filesystem;

// A directory that is gone after the test.
class Scratch {
 public:
  Scratch() {
    std::string name = (fs::temp_directory_path() / "taper_apps_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    dir_ = name;
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(dir_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Path operator/(const std::string& name) const { return dir_ / name; }
  const Path& path() const { return dir_; }

 private:
  Path dir_;
};

inline std::string binary = TAPER_BINARY;  // the program that is run

struct Ended {
  int code = -1;  // exit code, or 128 + the signal that ended it
  std::string out, err;
  int64_t peak_bytes = 0;
};

class Process {
 public:
  // file_limit: RLIMIT_FSIZE in bytes, 0: none. input: what it reads on stdin; empty: what the test does.
  Process(const Scratch& scratch, const std::vector<std::string>& arguments, uint64_t file_limit = 0, const Path& input = {}) {
    static int number = 0;
    out_ = scratch / ("out" + std::to_string(number));
    err_ = scratch / ("err" + std::to_string(number++));
    std::vector<char*> argv{binary.data()};
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    pid_ = fork();
    REQUIRE(pid_ >= 0);
    if (pid_ > 0) return;
    const int out = open(out_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666), err = open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    if (!input.empty()) dup2(open(input.c_str(), O_RDONLY), STDIN_FILENO);
    if (file_limit) {
      const struct rlimit limit{file_limit, file_limit};
      setrlimit(RLIMIT_FSIZE, &limit);
    }
    setenv("NO_COLOR", "1", 1);
    execv(binary.c_str(), argv.data());
    _exit(127);
  }
  ~Process() {
    if (pid_ > 0) kill(SIGKILL), wait();
  }
  Process(const Process&) = delete;

  void kill(int signal) { ::kill(pid_, signal); }
  // Waits until what it says on stderr contains `text`; false after a minute or when it ends first.
  bool says(const std::string& text) {
    for (int i = 0; i < 12000; ++i) {
      std::error_code error;
      if (fs::exists(err_, error) && read_file(err_).find(text) != std::string::npos) return true;
      siginfo_t info{};
      if (waitid(P_PID, id_t(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid_) return read_file(err_).find(text) != std::string::npos;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }
  Ended wait() {
    int status = 0;
    struct rusage usage{};
    wait4(pid_, &status, 0, &usage);
    pid_ = -1;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_file(out_), read_file(err_), int64_t(usage.ru_maxrss) * 1024};
  }

 private:
  pid_t pid_ = -1;
  Path out_, err_;
};

inline Ended run(const Scratch& scratch, const std::vector<std::string>& arguments, uint64_t file_limit = 0) {
  return Process(scratch, arguments, file_limit).wait();
}

inline Ended run_with_input(const Scratch& scratch, const std::vector<std::string>& arguments, const Path& input) {
  return Process(scratch, arguments, 0, input).wait();
}

// One line on stderr that contains `message`, the exit code, nothing on stdout.
inline void refuses(const Scratch& s, const std::vector<std::string>& arguments, int code, const std::string& message, uint64_t file_limit = 0) {
  const Ended e = run(s, arguments, file_limit);
  CAPTURE(e.err);
  CHECK(e.code == code);
  const size_t at = e.err.rfind("taper: ");
  REQUIRE(at != std::string::npos);
  const std::string last = e.err.substr(at);
  CHECK(last.find(message) != std::string::npos);
  CHECK(last.find('\n') == last.size() - 1);
  CHECK(e.out.empty());
}

// Text that a model can learn a little of, the same in every run: `documents` files of about a kilobyte.
inline void write_corpus(const Path& dir, int documents = 30) {
  const char* words[] = {"state ", "decays ", "with ", "position ", "and ", "the ", "slow ", "head ", "remembers ", "longest.\n"};
  fs::create_directories(dir);
  uint32_t x = 1;
  for (int d = 0; d < documents; ++d) {
    std::string text;
    while (text.size() < 1000) text += words[(x = x * 1664525 + 1013904223) >> 16 & 7], text += words[(x >> 24) % 10];
    write_file(dir / ("doc" + std::to_string(100 + d) + ".txt"), text);
  }
}

inline void flip_bit(const Path& path, double where) {  // at this share of the file
  std::string bytes = read_file(path);
  bytes[size_t(where * double(bytes.size() - 1))] ^= 4;
  write_file(path, bytes);
}

}  // namespace taper::test
