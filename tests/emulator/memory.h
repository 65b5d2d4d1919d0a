// The emulated device's memory, as the launches see it.
#pragma once

namespace emulator {

bool points_into_memory(const void* p);       // into, or just past, a live allocation
void check_guards(const char* kernel);        // raises if bytes outside of the allocations were written

// While one lives, kernels may touch the device's memory; the host never may.
struct MemoryInUse {
  MemoryInUse();
  ~MemoryInUse();
  MemoryInUse(const MemoryInUse&) = delete;
};

}  // namespace emulator
