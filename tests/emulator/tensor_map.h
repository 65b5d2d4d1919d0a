// In place of <cuda.h>: what the copy engine is told of a tensor. As there 128 bytes, made on the host, read by kernels.
#pragma once
#include <cstdint>

struct alignas(64) CUtensorMap {
  static constexpr uint32_t made = 0x7a9e12d4;
  uint32_t mark, dimensions;  // made: cuda/tensor_map.h did it; anything else is no tensor map
  char* base;
  uint64_t size[4], stride[4];  // elements, bytes; the innermost first
  uint32_t box[4];
};
static_assert(sizeof(CUtensorMap) == 128);
