// What the tests of nn share: a scratch directory, errors by code and text, tensors by their bytes.
#pragma once
#include <doctest/doctest.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/random.h"
#include "tensor/tensor.h"

namespace taper {

struct Scratch {  // a fresh directory, removed at the end
  Path path;
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "taper-nn-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~Scratch() { std::filesystem::remove_all(path); }
  Path operator/(const std::string& name) const { return path / name; }
};

inline void expect_error(Exit code, const std::string& text, const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    INFO(std::string(e.what()));
    INFO(text);
    CHECK(int(e.code) == int(code));
    CHECK(std::string(e.what()).find(text) != std::string::npos);
    CHECK(std::string(e.what()).find('\n') == std::string::npos);  // one line, whatever the input held
    return;
  }
  FAIL("no error; wanted: " << text);
}

inline void put(const Path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

inline std::string file_of(const std::string& header, const std::string& data) {  // a safetensors file
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

inline std::string bytes_of(const Tensor& t) {
  std::string bytes(t.bytes(), '\0');
  t.device().download(bytes.data(), t.data<void>(), bytes.size());
  return bytes;
}

inline Tensor drawn(const Shape& shape, Dtype dtype, uint64_t seed) {
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = Random(seed, "test").normal(i);
  return from_doubles(open_device("cpu"), shape, dtype, values);
}

}  // namespace taper
