// What the emulator's tests share: arrays of the device, what is expected.
#pragma once
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "tensor/device.h"
#include "tensor/raise.h"
#include "tests/emulator/api.h"

extern "C" [[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake, const void* bottom, size_t size);

namespace selftest {

using namespace taper;

inline int faults = 0;
inline void expect(bool right, const std::string& what) {
  if (!right) std::printf("FAIL %s\n", what.c_str()), ++faults;
}

template <class T>
class Array {  // of the device, with its numbers at hand
 public:
  explicit Array(size_t n)
      : n_(n), device_(open_device("cuda:0")), p_(static_cast<T*>(device_.allocate(n * sizeof(T)))) {
    device_.fill(p_, 0, n * sizeof(T));
  }
  explicit Array(const std::vector<T>& values) : Array(values.size()) {
    device_.upload(p_, values.data(), n_ * sizeof(T));
  }
  ~Array() { device_.free(p_, n_ * sizeof(T)); }
  Array(const Array&) = delete;
  T* data() const { return p_; }
  std::vector<T> values() const {
    std::vector<T> v(n_);
    device_.download(v.data(), p_, n_ * sizeof(T));
    return v;
  }

 private:
  size_t n_;
  Device& device_;
  T* p_;
};

// Some of three launches differ: one forward, one backward, one shuffled.
template <class F>
bool depends_on_order(F&& f) {
  const auto first = f(), second = f(), third = f();
  return first != second || first != third;
}
inline void expect_raised(const std::string& what, const std::string& text, const std::function<void()>& f) {
  for (int order = 0; order < 3; ++order) {
    std::string said = "nothing";
    try {
      f();
      if (const cudaError_t e = cudaGetLastError()) raise(cudaGetErrorName(e));
    } catch (const Error& e) {
      said = e.what();
    }
    expect(said.find(text) != said.npos, what + ": must say '" + text + "', said: " + said);
  }
}

void hopper();  // selftest_hopper.cu

}  // namespace selftest
