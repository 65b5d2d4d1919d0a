// The tensor-core products and copies of cuda/mma.cuh in plain C++: same names, same fragments.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

#include "tensor/dtype.h"
#include "tests/emulator/cuda_runtime.h"

namespace emulator {

inline float low_bf16(uint32_t pair) { return std::bit_cast<float>(pair << 16); }
inline float high_bf16(uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }

struct Product {  // the fragments of a lane
  float* d;
  const uint32_t *a, *b;
};
void finish_product(void* const* items, unsigned lanes);

template <int matrices, bool trans>
struct Rows {
  const void* row;
  uint32_t* r;
  Place at;
};
template <int matrices, bool trans>
void finish_rows(void* const* items, unsigned lanes) {
  using Mine = Rows<matrices, trans>;
  if (lanes != ~0u) fault("ldmatrix wants all 32 lanes", static_cast<Mine*>(items[std::countr_zero(lanes)])->at);
  for (int i = 0; i < matrices; ++i) {
    uint16_t m[8][8];
    for (int r = 0; r < 8; ++r) {
      const Mine& from = *static_cast<Mine*>(items[8 * i + r]);
      if (reinterpret_cast<uintptr_t>(from.row) % 16 != 0)
        fault("ldmatrix: the address of lane " + std::to_string(8 * i + r) + " is not 16-byte aligned", from.at);
      std::memcpy(m[r], from.row, 16);
    }
    for (int l = 0; l < 32; ++l) {
      const int g = l / 4, q = l % 4;
      const uint32_t low = trans ? m[2 * q][g] : m[g][2 * q], high = trans ? m[2 * q + 1][g] : m[g][2 * q + 1];
      static_cast<Mine*>(items[l])->r[i] = low | high << 16;
    }
  }
}

}  // namespace emulator

namespace taper::cuda {

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                     emulator::Place at = emulator::Place::current()) {
  emulator::Product p{d, a, b};
  emulator::meet(~0u, "mma_bf16", &p, emulator::finish_product, at);
}

inline uint32_t shared_address(const void* p) {
  return uint32_t(reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(emulator::dynamic_shared()));
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, emulator::Place at = emulator::Place::current()) {
  emulator::Rows<4, false> mine{row, r, at};
  emulator::meet(~0u, "ldmatrix_x4", &mine, emulator::finish_rows<4, false>, at);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, emulator::Place at = emulator::Place::current()) {
  emulator::Rows<4, true> mine{row, r, at};
  emulator::meet(~0u, "ldmatrix_x4_trans", &mine, emulator::finish_rows<4, true>, at);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, emulator::Place at = emulator::Place::current()) {
  emulator::Rows<2, false> mine{row, r, at};
  emulator::meet(~0u, "ldmatrix_x2", &mine, emulator::finish_rows<2, false>, at);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row, emulator::Place at = emulator::Place::current()) {
  emulator::Rows<2, true> mine{row, r, at};
  emulator::meet(~0u, "ldmatrix_x2_trans", &mine, emulator::finish_rows<2, true>, at);
}

inline uint32_t pack_bf16(float low, float high) { return bf16(low).bits | uint32_t(bf16(high).bits) << 16; }

inline void copy_async(void* shared, const void* global, bool present = true,
                       emulator::Place at = emulator::Place::current()) {
  emulator::async_copy(shared, global, 16, present ? 16 : 0, at);
}
inline void copy_async_commit() { emulator::async_commit(); }
template <int pending>
void copy_async_wait() {
  emulator::async_wait(pending);
}

}  // namespace taper::cuda
