// The functions of cuda/hopper.cuh in plain C++: same names, same meaning. A block is alone in its cluster.
#pragma once
#include "tests/emulator/mma.cuh"
#include "tests/emulator/tensor_map.h"

namespace emulator {

void barrier_init(uint64_t* b, int count, Place at);
void barrier_arrive(uint64_t* b, int bytes, Place at);  // which it announces first
void barrier_wait(uint64_t* b, int parity, Place at);

void copy_box(void* shared, const CUtensorMap& map, unsigned dimensions, const int (&from)[4], uint64_t* b, Place at);
void store_box(const CUtensorMap& map, unsigned dimensions, const int (&to)[4], const void* shared, Place at);
void store_commit();
void store_wait_read(size_t pending);

struct WarpgroupProduct {  // what all threads of a warpgroup agree on
  int n;                   // sums of a thread
  bool registers, a_across, b_across, add;
  uint64_t a, b;
  bool operator==(const WarpgroupProduct&) const = default;
};
void wgmma(const WarpgroupProduct& product, float* d, const uint32_t* a, Place at);
void wgmma_fence();
void wgmma_commit(Place at);
void wgmma_wait(size_t pending, Place at);
uint64_t operand(const void* shared, int next, Place at);

struct Store {
  void* row;
  uint32_t r[4];
};
template <bool trans>
void finish_store(void* const* items, unsigned) {
  for (int i = 0; i < 4; ++i)
    for (int row = 0; row < 8; ++row)
      for (int column = 0; column < 8; ++column) {
        const int major = trans ? column : row, minor = trans ? row : column;
        const uint32_t pair = static_cast<Store*>(items[4 * major + minor / 2])->r[i];
        const uint16_t x = uint16_t(pair >> minor % 2 * 16);
        std::memcpy(static_cast<char*>(static_cast<Store*>(items[8 * i + row])->row) + 2 * column, &x, 2);
      }
}

}  // namespace emulator

namespace taper::cuda::hopper {

using Barrier = uint64_t;

inline void barrier_init(Barrier* b, int count, emulator::Place at = emulator::Place::current()) { emulator::barrier_init(b, count, at); }
inline void barrier_init_done() {}
inline void barrier_arrive_expecting(Barrier* b, int bytes, emulator::Place at = emulator::Place::current()) {
  emulator::barrier_arrive(b, bytes, at);
}
inline void barrier_arrive(Barrier* b, emulator::Place at = emulator::Place::current()) { emulator::barrier_arrive(b, 0, at); }
inline void barrier_wait(Barrier* b, int parity, emulator::Place at = emulator::Place::current()) { emulator::barrier_wait(b, parity, at); }

inline int cluster_rank() { return 0; }
inline void cluster_sync(emulator::Place at = emulator::Place::current()) { emulator::barrier(emulator::Reduce::none, false, at); }
inline void barrier_arrive_at(Barrier* b, int block, emulator::Place at = emulator::Place::current()) {
  if (block != 0) emulator::fault("clusters of several blocks are not emulated", at);
  emulator::barrier_arrive(b, 0, at);
}

inline void copy_box(void* shared, const CUtensorMap& map, int x, int y, Barrier* b, emulator::Place at = emulator::Place::current()) {
  emulator::copy_box(shared, map, 2, {x, y, 0, 0}, b, at);
}
inline void copy_box(void* shared, const CUtensorMap& map, int x, int y, Barrier* b, uint16_t blocks,
                     emulator::Place at = emulator::Place::current()) {
  if (blocks != 1) emulator::fault("clusters of several blocks are not emulated", at);
  emulator::copy_box(shared, map, 2, {x, y, 0, 0}, b, at);
}
inline void copy_box(void* shared, const CUtensorMap& map, int x, int y, int z, int w, Barrier* b,
                     emulator::Place at = emulator::Place::current()) {
  emulator::copy_box(shared, map, 4, {x, y, z, w}, b, at);
}
inline void store_box(const CUtensorMap& map, int x, int y, const void* shared, emulator::Place at = emulator::Place::current()) {
  emulator::store_box(map, 2, {x, y, 0, 0}, shared, at);
}
inline void store_box(const CUtensorMap& map, int x, int y, int z, int w, const void* shared, emulator::Place at = emulator::Place::current()) {
  emulator::store_box(map, 4, {x, y, z, w}, shared, at);
}
inline void store_commit() { emulator::store_commit(); }
template <int pending>
void store_wait_read() {
  emulator::store_wait_read(pending);
}
inline void prefetch_map(const CUtensorMap&) {}
inline void fence_async() {}

inline void named_barrier(int id, int threads, emulator::Place at = emulator::Place::current()) {
  emulator::named_barrier(id, threads, true, at);
}
inline void named_barrier_arrive(int id, int threads, emulator::Place at = emulator::Place::current()) {
  emulator::named_barrier(id, threads, false, at);
}
inline void store_release(int* g, int x) { *g = x; }
inline int load_acquire(const int* g) { return *g; }
inline int take_number(int* g) { return (*g)++; }
inline void let_next_begin() {}
inline void wait_for_one_before() {}

template <int registers>
void registers_give() {
  static_assert(registers >= 24 && registers <= 256 && registers % 8 == 0);
}
template <int registers>
void registers_take() {
  registers_give<registers>();
}

inline void stmatrix_x4(void* row, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3, emulator::Place at = emulator::Place::current()) {
  emulator::Store mine{row, {r0, r1, r2, r3}};
  emulator::meet(~0u, "stmatrix_x4", &mine, emulator::finish_store<false>, at);
}
inline void stmatrix_x4_trans(void* row, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3, emulator::Place at = emulator::Place::current()) {
  emulator::Store mine{row, {r0, r1, r2, r3}};
  emulator::meet(~0u, "stmatrix_x4_trans", &mine, emulator::finish_store<true>, at);
}

inline uint64_t operand(const void* shared, int next = 0, emulator::Place at = emulator::Place::current()) {
  return emulator::operand(shared, next, at);
}
template <bool across>
constexpr uint64_t operand_step() {
  return (across ? 2048 : 32) >> 4;
}
inline void wgmma_fence() { emulator::wgmma_fence(); }
inline void wgmma_commit(emulator::Place at = emulator::Place::current()) { emulator::wgmma_commit(at); }
template <int pending>
void wgmma_wait(emulator::Place at = emulator::Place::current()) {
  emulator::wgmma_wait(pending, at);
}
template <int n>
void wgmma_done(float (&)[n]) {}
template <bool a_across, bool b_across, int n>
void wgmma(float (&d)[n], uint64_t a, uint64_t b, bool add, emulator::Place at = emulator::Place::current()) {
  static_assert(n == 32 || n == 64 || n == 128);
  emulator::wgmma({n, false, a_across, b_across, add, a, b}, d, nullptr, at);
}
template <bool b_across, int n>
void wgmma(float (&d)[n], const uint32_t (&a)[4], uint64_t b, bool add, emulator::Place at = emulator::Place::current()) {
  static_assert(n == 32 || n == 64 || n == 128);
  emulator::wgmma({n, true, false, b_across, add, 0, b}, d, a, at);
}

}  // namespace taper::cuda::hopper
