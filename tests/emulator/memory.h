// The emulated device's memory, as launches and copies see it.
#pragma once
#include <cstddef>
#include <string>

namespace emulator {

bool points_into_memory(const void* p);  // into, or just past, a live allocation
void check_guards(const char* kernel);   // raises if bytes outside of the allocations were written
std::string running_kernel();            // its text, or "" between launches

// While one lives, the device's memory may be touched; else it ends the program, as host code that does so would.
struct MemoryInUse {
  MemoryInUse();
  ~MemoryInUse();
  MemoryInUse(const MemoryInUse&) = delete;
};

}  // namespace emulator
