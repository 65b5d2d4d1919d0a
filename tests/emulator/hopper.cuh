// The part of cuda/hopper.cuh that other GPUs could do too: barriers of some warps, matrices to shared memory, fences.
#pragma once
#include "tests/emulator/mma.cuh"

namespace taper::cuda::hopper {

inline void named_barrier(int id, int threads, emulator::Place at = emulator::Place::current()) {
  emulator::named_barrier(id, threads, true, at);
}
inline void named_barrier_arrive(int id, int threads, emulator::Place at = emulator::Place::current()) {
  emulator::named_barrier(id, threads, false, at);
}
inline void store_release(int* g, int x) { *g = x; }
inline int load_acquire(const int* g) { return *g; }
inline void fence_async() {}
template <int registers>
void registers_give() {}
template <int registers>
void registers_take() {}

struct Store {
  void* row;
  uint32_t r[4];
};
inline void finish_store(void* const* items, unsigned) {
  for (int i = 0; i < 4; ++i)
    for (int row = 0; row < 8; ++row)
      for (int q = 0; q < 4; ++q)
        std::memcpy(static_cast<char*>(static_cast<Store*>(items[8 * i + row])->row) + 4 * q,
                    &static_cast<Store*>(items[4 * row + q])->r[i], 4);
}
inline void stmatrix_x4(void* row, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3,
                        emulator::Place at = emulator::Place::current()) {
  Store mine{row, {r0, r1, r2, r3}};
  emulator::meet(~0u, "stmatrix_x4", &mine, finish_store, at);
}

}  // namespace taper::cuda::hopper
