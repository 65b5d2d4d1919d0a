// Scratch: a fresh directory for a test, and the assertion that an error has a code and a text.
#pragma once
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iterator>
#include <string>

#include "tensor/error.h"
#include "tensor/file.h"

namespace taper::test {

struct Scratch {  // removed at the end
  Path path;
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "taper-test-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~Scratch() { std::filesystem::remove_all(path); }
  Scratch(const Scratch&) = delete;
  Path operator/(const std::string& name) const { return path / name; }
  int64_t entries() const { return std::distance(std::filesystem::directory_iterator(path), {}); }
};

inline void expect_failure(const std::function<void()>& f, Exit code, const std::string& text) {
  try {
    f();
  } catch (const Error& e) {
    INFO(std::string(e.what()));  // of a char* doctest shows the address
    CHECK(e.code == code);
    const bool found = std::string(e.what()).find(text) != std::string::npos;
    CHECK_MESSAGE(found, "wanted: ", text);
    return;
  }
  FAIL_CHECK("no error; wanted: " << text);
}

}  // namespace taper::test
