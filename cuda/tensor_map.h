// What a Hopper kernel's launch needs on the host: tensor maps for the copy engine, and whether such kernels run here.
#pragma once
#include <cuda.h>

#include <array>
#include <cstdint>

namespace taper::cuda::hopper {

// The map of a dense bf16 tensor of 2 or 4 dimensions, `sizes` with the innermost first, that is fetched and stored in boxes of
// `box` elements; a box is 64 wide in the innermost, rows of 128 bytes, whose 16-byte pieces are xored with the row as wgmma
// reads them. g and every outer stride are multiples of 16 bytes; what the driver refuses raises.
template <size_t dimensions>
CUtensorMap tensor_map(const void* g, const std::array<int64_t, dimensions>& sizes, const std::array<int, dimensions>& box);

// Is the current device a Hopper, and was the kernel compiled for it? (Elsewhere its body is empty.)
bool runs_here(const void* kernel);

}  // namespace taper::cuda::hopper
