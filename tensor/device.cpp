// Devices: the CPU, the plan, and the table of names. What all devices share stands in graph.cpp.
#include "tensor/device.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "tensor/error.h"
#include "tensor/kernel.h"

namespace taper {
namespace {

// Where work is done when the call returns, the clock tells when.
class HostDevice : public Device {
 public:
  using Clock = std::chrono::steady_clock;
  Mark mark() override { return std::make_shared<Clock::time_point>(Clock::now()); }
  double seconds_between(const Mark& begin, const Mark& end) override {
    const auto at = [](const Mark& m) { return *static_cast<Clock::time_point*>(m.get()); };
    return std::chrono::duration<double>(at(end) - at(begin)).count();
  }
};

class Cpu final : public HostDevice {
 public:
  DeviceKind kind() const override { return DeviceKind::cpu; }
  std::string name() const override { return "cpu"; }

 protected:
  void set(void* p, int byte, size_t bytes) override { std::memset(p, byte, bytes); }
  // An empty vector's data is null, which memcpy must not see.
  void send(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void receive(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void move(void* to, const void* from, size_t bytes) override { std::memmove(to, from, bytes); }
  void* take(size_t bytes) override {
    if (const auto kept = kept_.find(bytes); kept != kept_.end()) {
      void* p = kept->second.back();
      kept->second.pop_back();
      if (kept->second.empty()) kept_.erase(kept);
      kept_bytes_ -= bytes;
      return p;
    }
    if (bytes >= large) release(std::max(bytes_peak(), bytes_live() + bytes) - bytes_live() - bytes);
    void* p = std::aligned_alloc(64, bytes);
    check(p != nullptr, Exit::unavailable, "cpu: {} bytes wanted beside {} in use; memory is out; use a smaller batch",
          bytes, bytes_live());
    return p;
  }
  void give(void* p, size_t bytes) override {
    if (bytes < large) return std::free(p);
    kept_[bytes].push_back(p);
    kept_bytes_ += bytes;
  }

 private:
  // A step asks for the same large blocks as the one before; from the system each would come with new
  // pages to zero. So they are kept by size when freed, but never so many that the process holds more
  // than was once in use.
  static constexpr size_t large = 1 << 17;
  std::map<size_t, std::vector<void*>> kept_;
  size_t kept_bytes_ = 0;

  void release(size_t may_keep) {  // the largest first
    while (kept_bytes_ > may_keep) {
      const auto last = --kept_.end();
      std::free(last->second.back());
      kept_bytes_ -= last->first;
      last->second.pop_back();
      if (last->second.empty()) kept_.erase(last);
    }
  }
};

// Hands out addresses that nobody may read; what is downloaded from it is zero.
class Plan final : public HostDevice {
 public:
  DeviceKind kind() const override { return DeviceKind::plan; }
  std::string name() const override { return "plan"; }

 protected:
  void set(void*, int, size_t) override {}
  void send(void*, const void*, size_t) override {}
  void receive(void* to, const void*, size_t bytes) override { std::memset(to, 0, bytes); }
  void move(void*, const void*, size_t) override {}
  bool captures() const override { return true; }
  void* take(size_t bytes) override {
    char* p = next_;
    next_ += bytes;
    return p;
  }
  void give(void*, size_t) override {}

 private:
  char* next_ = reinterpret_cast<char*>(64);
};

struct Opener {
  Device& (*open)(int);
  bool (*available)();
  BackendFacts (*facts)();
};
std::map<std::string, Opener, std::less<>>& openers() {
  static std::map<std::string, Opener, std::less<>> table;
  return table;
}

// A build whose GPU backend lacks a room would stop in the middle of a step: "auto" must not choose it.
bool every_kernel_runs_on_gpus() {
  return std::ranges::all_of(registered_kernels(), [](const KernelSlots& k) { return k.filled[size_t(DeviceKind::cuda)]; });
}

}  // namespace

DeviceOpener::DeviceOpener(std::string_view prefix, Device& (*open)(int), bool (*available)(), BackendFacts (*facts)()) {
  openers().emplace(prefix, Opener{open, available, facts});
}

std::vector<BackendFacts> backends() {
  std::vector<BackendFacts> all;
  for (const auto& [prefix, opener] : openers()) all.push_back(opener.facts());
  return all;
}

Device& open_device(std::string_view name) {
  // Never destroyed: tensors in static storage may outlive any order of destruction.
  static Cpu& cpu = *new Cpu;
  static Plan& plan = *new Plan;
  if (name == "cpu") return cpu;
  if (name == "plan") return plan;
  if (name == "auto") {
    for (const auto& [prefix, opener] : openers())
      if (every_kernel_runs_on_gpus() && opener.available()) return opener.open(0);
    return cpu;
  }
  const size_t colon = name.find(':');
  const std::string prefix(name.substr(0, colon));
  const std::string digits(colon == name.npos ? "0" : name.substr(colon + 1));
  const bool number = !digits.empty() && digits.size() < 4 && digits.find_first_not_of("0123456789") == digits.npos;
  check((prefix == "cuda" || openers().contains(prefix)) && number, Exit::bad_config,
        "device: must be auto, cpu or cuda:INDEX; got '{}'", name);
  const auto found = openers().find(prefix);
  check(found != openers().end(), Exit::unavailable,
        "device: this build has no {}; got '{}'; use cpu, or build with TAPER_CUDA=ON", prefix, name);
  return found->second.open(std::stoi(digits));
}

}  // namespace taper
