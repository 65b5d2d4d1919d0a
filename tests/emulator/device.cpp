// The emulated GPU: "cuda:0". Each allocation has its exact size, with bytes around it that nobody may write.
#include "tensor/device.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "tensor/raise.h"
#include "tests/emulator/api.h"
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
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake, const void* bottom,
                                                  size_t size);  // the address sanitizer runs
}

namespace {

using emulator::MemoryInUse;

constexpr size_t guard = 64, page = 4096;
constexpr unsigned char guard_byte = 0xa5;

struct Block {
  size_t bytes;
};
std::map<uintptr_t, Block>& blocks() {  // by address
  static auto& blocks = *new std::map<uintptr_t, Block>;
  return blocks;
}
bool sanitized() { return __sanitizer_start_switch_fiber != nullptr; }  // then its malloc guards the tensors

// Without the sanitizer: a range of addresses of its own, closed to the host.
class Arena {
 public:
  static constexpr size_t size = size_t(1) << 38;
  Arena() {
    void* p = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) taper::raise("emulator: no address space");
    begin_ = end_ = static_cast<char*>(p);
  }
  void* take(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (auto& kept = kept_[bytes]; !kept.empty()) {
      void* p = kept.back();
      kept.pop_back();
      return p;
    }
    void* p = end_;
    end_ += bytes;
    if (end_ > begin_ + size) taper::raise("emulator: memory is out");
    if (open_) protect(true);
    return p;
  }
  void give(void* p, size_t bytes) { kept_[(bytes + 63) / 64 * 64].push_back(p); }
  bool holds(const void* p) const { return begin_ <= p && p < begin_ + size; }
  bool open() const { return open_; }
  void protect(bool open) {
    open_ = open;
    const size_t used = (size_t(end_ - begin_) + page - 1) / page * page;
    if (used > 0) mprotect(begin_, used, open ? PROT_READ | PROT_WRITE : PROT_NONE);
  }

 private:
  char *begin_ = nullptr, *end_ = nullptr;
  bool open_ = false;
  std::map<size_t, std::vector<void*>> kept_;
};
Arena& arena() {
  static Arena& arena = *new Arena;
  return arena;
}
int users = 0;

bool intact(uintptr_t p, const Block& b) {
  const auto* before = reinterpret_cast<const unsigned char*>(p) - guard;
  const auto* after = reinterpret_cast<const unsigned char*>(p) + b.bytes;
  for (size_t i = 0; i < guard; ++i)
    if (before[i] != guard_byte || after[i] != guard_byte) return false;
  return true;
}

// A bad access: says whose, and where the code stands, then ends the program.
void on_bad_access(int, siginfo_t* info, void* context) {
  const std::string kernel = emulator::running_kernel();
  const std::string text = kernel.empty()
                               ? arena().holds(info->si_addr) ? "emulator: the host touches memory of the device\n"
                                                              : "emulator: a bad address\n"
                               : "emulator: " + kernel + " touches a bad address (or its thread's stack is full)\n";
  if (write(2, text.data(), text.size()) < 0) _exit(1);
  char pc[32];
  std::snprintf(pc, sizeof pc, "%#llx", static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
  const std::string self = "/proc/" + std::to_string(getpid()) + "/exe";
  if (const pid_t child = fork(); child == 0) {
    dup2(2, 1);
    execlp("addr2line", "addr2line", "-e", self.c_str(), "-f", "-C", "-i", "-s", pc, nullptr);
    _exit(1);
  } else {
    waitpid(child, nullptr, 0);
  }
  _exit(1);
}
void catch_bad_accesses() {
  if (sanitized()) return;  // it has a better report
  static char stack[1 << 16];
  stack_t alternative = {};
  alternative.ss_sp = stack;
  alternative.ss_size = sizeof stack;
  sigaltstack(&alternative, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = on_bad_access;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
}

class EmulatedDevice final : public Device {
 public:
  taper::DeviceKind kind() const override { return taper::DeviceKind::cuda; }
  std::string name() const override { return "cuda:0"; }
  std::string product() const override { return "emulator"; }

  using Clock = std::chrono::steady_clock;
  Mark mark() override { return std::make_shared<Clock::time_point>(Clock::now()); }
  double seconds_between(const Mark& begin, const Mark& end) override {
    const auto at = [](const Mark& m) { return *static_cast<Clock::time_point*>(m.get()); };
    return std::chrono::duration<double>(at(end) - at(begin)).count();
  }

 protected:
  void set(void* p, int byte, size_t bytes) override {
    const MemoryInUse in_use;
    const auto b = blocks().find(reinterpret_cast<uintptr_t>(p));
    std::memset(p, byte, b != blocks().end() && bytes > b->second.bytes ? b->second.bytes : bytes);
  }
  void send(void* to, const void* from, size_t bytes) override {
    cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice);
  }
  void receive(void* to, const void* from, size_t bytes) override {
    cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost);
  }
  void move(void* to, const void* from, size_t bytes) override {
    cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice);
  }
  void* take(size_t) override {
    const MemoryInUse in_use;
    const size_t bytes = exact_bytes;
    void* p = nullptr;
    if (sanitized()) {
      if (posix_memalign(&p, 64, bytes + (bytes == 0)) != 0) taper::raise("emulator: memory is out");
    } else {
      p = arena().take(bytes + 2 * guard);
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
    const auto b = blocks().find(reinterpret_cast<uintptr_t>(p));
    if (sanitized()) std::free(p);
    else arena().give(static_cast<char*>(p) - guard, b->second.bytes + 2 * guard);
    blocks().erase(b);
  }
};

Device& open(int index) {
  if (index != 0)
    throw taper::Error("emulator: there is cuda:0 only", std::source_location::current(), taper::Exit::unavailable);
  static EmulatedDevice& device = *[] {
    catch_bad_accesses();
    return new EmulatedDevice;
  }();
  return device;
}
bool available() { return true; }
taper::BackendFacts facts() { return {.driver = "emulator", .cublaslt = "", .devices = {}}; }
const taper::DeviceOpener opener{"cuda", open, available, facts};

bool on_device(const void* p) { return emulator::points_into_memory(p); }

}  // namespace

cudaError_t cudaMemsetAsync(void* p, int byte, size_t bytes, cudaStream_t) {
  if (bytes == 0) return cudaSuccess;
  const MemoryInUse in_use;
  if (!on_device(p))
    return emulator::last_error_text = "cudaMemsetAsync: not memory of the device", cudaErrorInvalidValue;
  std::memset(p, byte, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  if (bytes == 0) return cudaSuccess;
  const MemoryInUse in_use;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault && (on_device(to) != to_device || on_device(from) != from_device))
    taper::raise("emulator: a copy whose ends are not where it says");
  std::memmove(to, from, bytes);
  return cudaSuccess;
}

namespace emulator {

bool points_into_memory(const void* p) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(p);
  auto after = blocks().upper_bound(at);
  if (after == blocks().begin()) return false;
  const auto& [begin, block] = *--after;
  return at <= begin + block.bytes;
}

void check_guards(const char* kernel) {
  if (sanitized()) return;
  for (auto& [p, block] : blocks())
    if (!intact(p, block)) {
      std::memset(reinterpret_cast<char*>(p) - guard, guard_byte, guard);
      std::memset(reinterpret_cast<char*>(p) + block.bytes, guard_byte, guard);
      taper::raise("emulator: " + std::string(kernel) + " wrote just outside of a tensor of " +
                   std::to_string(block.bytes) + " bytes");
    }
}

MemoryInUse::MemoryInUse() {
  if (!sanitized() && users++ == 0 && !arena().open()) arena().protect(true);
}
MemoryInUse::~MemoryInUse() {
  // Closing is slow: one time in eight, at no fixed distance, finds what happens again and again.
  static uint32_t chance = 1;
  chance = chance * 1664525u + 1013904223u;
  if (!sanitized() && --users == 0 && chance >> 29 == 0) arena().protect(false);
}

}  // namespace emulator
