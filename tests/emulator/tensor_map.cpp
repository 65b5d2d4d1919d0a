// cuda/tensor_map.h for the emulator: refuses what cuTensorMapEncodeTiled refuses.
#include "cuda/tensor_map.h"

#include <string>

#include "tensor/raise.h"
#include "tests/emulator/api.h"
#include "tests/emulator/memory.h"

namespace taper::cuda::hopper {

template <size_t dimensions>
CUtensorMap tensor_map(const void* g, const std::array<int64_t, dimensions>& sizes, const std::array<int, dimensions>& box) {
  CUtensorMap map{CUtensorMap::made, dimensions, static_cast<char*>(const_cast<void*>(g)), {1, 1, 1, 1}, {}, {1, 1, 1, 1}};
  std::string shape;
  for (size_t i = 0; i < dimensions; ++i) shape = std::to_string(sizes[i]) + (i ? "," : "") + shape;
  const auto want = [&](bool right, const std::string& what) {
    if (!right) raise("emulator: no tensor map of [" + shape + "] bf16: " + what);
  };
  want(reinterpret_cast<uintptr_t>(g) % 16 == 0, "the address is no multiple of 16");
  uint64_t bytes = 2;
  for (size_t i = 0; i < dimensions; ++i) {
    want(sizes[i] > 0 && sizes[i] <= int64_t(1) << 32, "sizes are 1 to 2^32");
    want(box[i] > 0 && box[i] <= 256, "a side of a box is 1 to 256");
    want(i == 0 || (bytes % 16 == 0 && bytes < uint64_t(1) << 40), "strides are multiples of 16 bytes, below 2^40");
    map.size[i] = uint64_t(sizes[i]);
    map.stride[i] = bytes;
    map.box[i] = uint32_t(box[i]);
    bytes *= map.size[i];
  }
  want(box[0] == 64, "a box has rows of 64 here, 128 bytes; the hardware would take shorter ones too");
  want(emulator::points_into_memory(g) && emulator::points_into_memory(map.base + bytes), "not memory of the device");
  return map;
}
template CUtensorMap tensor_map<2>(const void*, const std::array<int64_t, 2>&, const std::array<int, 2>&);
template CUtensorMap tensor_map<4>(const void*, const std::array<int64_t, 4>&, const std::array<int, 4>&);

bool runs_here(const void*) { return emulator::capability == 90; }

}  // namespace taper::cuda::hopper
