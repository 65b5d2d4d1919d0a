// file: what was there stays whole under every fault, every message names the file and the reason.
#include "tensor/file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <functional>

#include "tests/support/scratch.h"

using namespace taper;
using test::expect_failure;
using test::Scratch;
namespace fs = std::filesystem;

namespace {

// f runs in a child process; it ends by itself, by a signal, or by _exit with the number of what went wrong.
void in_child(const std::function<void()>& f) {
  const pid_t child = ::fork();
  if (child == 0) {
    f();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK((WIFSIGNALED(status) || WEXITSTATUS(status) == 0));
}

}  // namespace

TEST_CASE("a file written is the file read") {
  const Scratch dir;
  std::string text = "first";
  write_file(dir / "a", text);
  CHECK(read_file(dir / "a") == "first");
  text.assign(3'000'001, 'x');
  text[2'999'999] = '\0';
  write_file(dir / "a", text);
  CHECK(read_file(dir / "a") == text);
  write_file(dir / "a", "");
  CHECK(read_file(dir / "a").empty());
  CHECK(dir.entries() == 1);
}

TEST_CASE("a header can be filled in at the end") {
  const Scratch dir;
  FileWriter file(dir / "a");
  file.write("????body");
  file.seek(0);
  file.write("HEAD");
  CHECK(file.written() == 8);
  CHECK(!fs::exists(dir / "a"));
  file.commit();
  CHECK(read_file(dir / "a") == "HEADbody");
}

TEST_CASE("a writer that is given up leaves nothing") {
  const Scratch dir;
  write_file(dir / "a", "old");
  { FileWriter(dir / "a").write("new"); }
  CHECK(read_file(dir / "a") == "old");
  CHECK(dir.entries() == 1);
}

TEST_CASE("every injected fault leaves the old content or the whole new one") {
  const Scratch dir;
  const std::string old(100, 'o'), fresh(5000, 'n');
  struct Case {
    const char* call;
    int error;
    Exit code;
    const char* text;
  };
  for (const Case& c : {Case{"open", ENOSPC, Exit::cannot_create, "cannot create: No space left on device"},
                        Case{"open", EACCES, Exit::cannot_create, "cannot create: Permission denied"},
                        Case{"write", ENOSPC, Exit::io, "write failed: No space left on device"},
                        Case{"write", EIO, Exit::io, "write failed: Input/output error"},
                        Case{"fsync", EIO, Exit::io, "fsync failed: Input/output error"},
                        Case{"rename", EIO, Exit::io, "rename failed: Input/output error"}}) {
    write_file(dir / "a", old);
    inject_file_fault(c.call, 1, c.error);
    expect_failure([&] { write_file(dir / "a", fresh); }, c.code, (dir / "a").string() + ": " + c.text);
    inject_file_fault(c.call, 0, 0);
    CHECK(read_file(dir / "a") == old);
    CHECK(dir.entries() == 1);
  }
  // The fsync of the directory comes after the rename: the file is already the new one, and whole.
  inject_file_fault("fsync", 2, EIO);
  expect_failure([&] { write_file(dir / "a", fresh); }, Exit::io, "fsync failed");
  CHECK(read_file(dir / "a") == fresh);
}

TEST_CASE("short writes, short reads and interruptions are no errors") {
  const Scratch dir;
  const std::string text(10'000, 't');
  for (const int error : {0, EINTR}) {
    inject_file_fault("write", 1, error);
    write_file(dir / "a", text);
    CHECK(read_file(dir / "a") == text);
  }
  inject_file_fault("read", 1, EINTR);
  CHECK(read_file(dir / "a") == text);
  inject_file_fault("read", 1, EIO);
  expect_failure([&] { read_file(dir / "a"); }, Exit::io, (dir / "a").string() + ": read failed: Input/output error");
}

TEST_CASE("a file size limit is an error, not a death, and loses nothing") {
  const Scratch dir;
  write_file(dir / "a", "old");
  write_file(dir / "log", "one\n");
  in_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(2);
    try {
      write_file(dir / "a", std::string(5000, 'n'));
      ::_exit(3);
    } catch (const Error& e) {
      if (e.code != Exit::io || std::string(e.what()).find("write failed: File too large") == std::string::npos)
        ::_exit(4);
    }
    try {
      append_line(dir / "log", std::string(5000, 'n'));
      ::_exit(5);
    } catch (const Error& e) {
      if (e.code != Exit::io) ::_exit(6);
    }
  });
  CHECK(read_file(dir / "a") == "old");
  CHECK(read_file(dir / "log") == "one\n");
  CHECK(dir.entries() == 2);
}

TEST_CASE("what a killed writer left is taken over by the next of that name") {
  const Scratch dir;
  in_child([&] {
    FileWriter file(dir / "a");
    file.write(std::string(5000, 'k'));
    DirectoryWriter directory(dir / "d");
    write_file(directory.temporary() / "half", "k");
    fs::create_directory(directory.temporary() / "below");
    ::raise(SIGKILL);
  });
  CHECK(dir.entries() == 2);
  CHECK(!fs::exists(dir / "a"));
  CHECK(!fs::exists(dir / "d"));
  SUBCASE("by writing") {
    write_file(dir / "a", "whole");
    DirectoryWriter directory(dir / "d");
    write_file(directory.temporary() / "one", "1");
    directory.commit();
    CHECK(read_file(dir / "a") == "whole");
    CHECK(read_file(dir / "d" / "one") == "1");
    CHECK(std::distance(fs::directory_iterator(dir / "d"), {}) == 1);
    CHECK(dir.entries() == 2);
  }
  SUBCASE("by cleaning up, which spares what is being written") {
    FileWriter alive(dir / "b");
    remove_temporaries(dir.path);
    CHECK(dir.entries() == 1);
    alive.commit();
    CHECK(fs::exists(dir / "b"));
  }
}

TEST_CASE("two writers of one name do not mix") {
  const Scratch dir;
  FileWriter first(dir / "a");
  first.write("first");
  expect_failure([&] { FileWriter(dir / "a"); }, Exit::cannot_create, "another process is writing it");
  first.commit();
  CHECK(read_file(dir / "a") == "first");
  DirectoryWriter d(dir / "d");
  expect_failure([&] { DirectoryWriter(dir / "d"); }, Exit::cannot_create, "another process is writing it");
}

TEST_CASE("a directory appears whole, and replaces an older one whole") {
  const Scratch dir;
  for (const char* content : {"1", "2"}) {
    DirectoryWriter d(dir.path / "x" / "d" / "");
    write_file(d.temporary() / "f", content);
    if (*content == '1') write_file(d.temporary() / "only-in-the-first", "");
    d.commit();
    CHECK(read_file(dir.path / "x" / "d" / "f") == content);
  }
  CHECK(!fs::exists(dir.path / "x" / "d" / "only-in-the-first"));
  {
    DirectoryWriter d(dir.path / "x" / "d");
    write_file(d.temporary() / "f", "3");
  }
  CHECK(read_file(dir.path / "x" / "d" / "f") == "2");
  for (const char* call : {"open", "fsync", "rename"}) {
    DirectoryWriter d(dir.path / "x" / "d");
    write_file(d.temporary() / "f", "4");
    inject_file_fault(call, 1, EIO);
    expect_failure([&] { d.commit(); }, Exit::io, "Input/output error");
    CHECK(read_file(dir.path / "x" / "d" / "f") == "2");
  }
  CHECK(std::distance(fs::directory_iterator(dir.path / "x"), {}) == 1);
}

TEST_CASE("readers name what is wrong") {
  const Scratch dir;
  write_file(dir / "a", "12345");
  expect_failure([&] { read_file(dir / "none"); }, Exit::no_input, (dir / "none").string() + ": no such file");
  expect_failure([&] { FileReader r(dir / "none"); }, Exit::no_input, "no such file");
  expect_failure([&] { read_file(dir.path); }, Exit::no_input, "is a directory, not a file");
  expect_failure([&] { FileReader r(dir.path); }, Exit::no_input, "is not a regular file");
  expect_failure([&] { FileWriter w(dir.path); }, Exit::cannot_create, "this is a directory");
  expect_failure([&] { FileWriter w(dir / "no/such"); }, Exit::cannot_create, "cannot create: No such file or directory");
  expect_failure([&] { DirectoryWriter w(dir / "a"); }, Exit::cannot_create, "this is a file");
  expect_failure([&] { DirectoryWriter w(dir / "a/b"); }, Exit::cannot_create, "cannot create: Not a directory");
  const FileReader r(dir / "a");
  CHECK(r.size() == 5);
  char two[2];
  r.read(3, two, 2);
  CHECK(std::string(two, 2) == "45");
  expect_failure([&] { r.read(4, two, 2); }, Exit::bad_data, "truncated: 2 bytes wanted at byte 4; the file has 5");
  expect_failure([&] { r.read(~uint64_t(0), two, 2); }, Exit::bad_data, "truncated");
}

TEST_CASE("lines are appended, files cut and removed") {
  const Scratch dir;
  append_line(dir / "log", "one");
  append_line(dir / "log", "two");
  CHECK(read_file(dir / "log") == "one\ntwo\n");
  truncate_file(dir / "log", 4);
  CHECK(read_file(dir / "log") == "one\n");
  expect_failure([&] { truncate_file(dir / "log", 5); }, Exit::bad_data, "truncated: 5 bytes wanted, the file has 4");
  expect_failure([&] { truncate_file(dir / "none", 0); }, Exit::no_input, "no such file");
  inject_file_fault("write", 1, ENOSPC);
  expect_failure([&] { append_line(dir / "log", "lost"); }, Exit::io, "No space left on device");
  CHECK(read_file(dir / "log") == "one\n");
  fs::create_directories(dir / "d/e");
  write_file(dir / "d/e/f", "x");
  remove_durably(dir / "d");
  remove_durably(dir / "log");
  remove_durably(dir / "none");
  CHECK(dir.entries() == 0);
}

TEST_CASE("checksums are XXH3") {
  const Scratch dir;
  CHECK(checksum_text(checksum("", 0)) == "2d06800538d394c2");  // the published value of no bytes
  CHECK(checksum("a", 1, 1) != checksum("a", 1));
  std::string text(2'500'000, '\0');
  for (size_t i = 0; i < text.size(); ++i) text[i] = char(i * 2654435761u >> 24);
  write_file(dir / "a", text);
  CHECK(checksum_file(dir / "a") == checksum(text.data(), text.size()));
  text[1'234'567] = char(text[1'234'567] ^ 1);
  CHECK(checksum_file(dir / "a") != checksum(text.data(), text.size()));
}
