// The emulated GPU: "cuda:0". Each allocation has its exact size, with bytes around it that nobody may write.
#include "tensor/device.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>

#include "tensor/raise.h"
#include "tests/emulator/memory.h"

using taper::Device;

// The linker sends the calls of Device::allocate here (--wrap): it rounds sizes up, and the device below must know what
// was really asked for. Not called from within device.cpp itself.
static size_t exact_bytes = 0;
extern "C" {
void* __real__ZN5taper6Device8allocateEm(Device* device, size_t bytes);
void* __wrap__ZN5taper6Device8allocateEm(Device* device, size_t bytes) {
  exact_bytes = bytes;
  return __real__ZN5taper6Device8allocateEm(device, bytes);
}
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake, const void* bottom, size_t size);  // the address sanitizer runs
}

namespace {

constexpr size_t guard = 64;
constexpr unsigned char guard_byte = 0xa5;

struct Block {
  size_t bytes;
};
std::map<uintptr_t, Block>& blocks() {  // by address
  static auto& blocks = *new std::map<uintptr_t, Block>;
  return blocks;
}

bool intact(uintptr_t p, const Block& b) {
  const auto* before = reinterpret_cast<const unsigned char*>(p) - guard;
  const auto* after = reinterpret_cast<const unsigned char*>(p) + b.bytes;
  for (size_t i = 0; i < guard; ++i)
    if (before[i] != guard_byte || after[i] != guard_byte) return false;
  return true;
}

class EmulatedDevice final : public Device {
 public:
  taper::DeviceKind kind() const override { return taper::DeviceKind::cuda; }
  std::string name() const override { return "cuda:0"; }
  std::string product() const override { return "emulator"; }
  void fill(void* p, int byte, size_t bytes) override {
    const auto b = blocks().find(reinterpret_cast<uintptr_t>(p));
    std::memset(p, byte, b != blocks().end() && bytes > b->second.bytes ? b->second.bytes : bytes);
  }
  void upload(void* to, const void* from, size_t bytes) override { copy(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override { copy(to, from, bytes); }
  void copy(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) std::memmove(to, from, bytes);
  }

  using Clock = std::chrono::steady_clock;
  Mark mark() override { return std::make_shared<Clock::time_point>(Clock::now()); }
  double seconds_between(const Mark& begin, const Mark& end) override {
    const auto at = [](const Mark& m) { return *static_cast<Clock::time_point*>(m.get()); };
    return std::chrono::duration<double>(at(end) - at(begin)).count();
  }

 protected:
  void* take(size_t) override {
    const size_t bytes = exact_bytes;
    void* p = nullptr;
    if (posix_memalign(&p, 64, guarded() ? bytes + 2 * guard : bytes + (bytes == 0)) != 0)
      taper::raise("emulator: memory is out");
    if (guarded()) {
      std::memset(p, guard_byte, bytes + 2 * guard);
      p = static_cast<char*>(p) + guard;
    }
    // What was in it before: other numbers each time, as from a pool, so that reading them shows.
    static unsigned char before = 0;
    std::memset(p, 0x30 + (before = (before * 5 + 3) & 0xf), bytes);
    blocks()[reinterpret_cast<uintptr_t>(p)] = {bytes};
    return p;
  }
  void give(void* p, size_t) override {
    blocks().erase(reinterpret_cast<uintptr_t>(p));
    std::free(guarded() ? static_cast<char*>(p) - guard : p);
  }

 private:
  static bool guarded() { return __sanitizer_start_switch_fiber == nullptr; }
};

Device& open(int index) {
  if (index != 0) throw taper::Error("emulator: there is cuda:0 only", std::source_location::current(), taper::Exit::unavailable);
  static EmulatedDevice& device = *new EmulatedDevice;
  return device;
}
bool available() { return true; }
const taper::DeviceOpener opener{"cuda", open, available};

}  // namespace

namespace emulator {

bool points_into_memory(const void* p) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(p);
  auto after = blocks().upper_bound(at);
  if (after == blocks().begin()) return false;
  const auto& [begin, block] = *--after;
  return at <= begin + block.bytes;
}

void check_guards(const char* kernel) {
  if (__sanitizer_start_switch_fiber) return;
  for (auto& [p, block] : blocks())
    if (!intact(p, block)) {
      std::memset(reinterpret_cast<char*>(p) - guard, guard_byte, guard);
      std::memset(reinterpret_cast<char*>(p) + block.bytes, guard_byte, guard);
      taper::raise("emulator: " + std::string(kernel) + " wrote just outside of a tensor of " + std::to_string(block.bytes) + " bytes");
    }
}

MemoryInUse::MemoryInUse() {}
MemoryInUse::~MemoryInUse() {}

}  // namespace emulator
