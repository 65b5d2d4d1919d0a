// What a Hopper kernel's launch needs on the host: tensor maps for the copy engine, and whether such kernels run here.
#pragma once
#include <cuda.h>

#include <array>
#include <cstdint>

namespace taper::cuda::hopper {

// A dense bf16 tensor of `dimensions` (2 or 4), the innermost first, fetched in boxes of `box`, with each row's 16-byte
// pieces xored with the row as wgmma reads them: a box has 64 elements of the innermost, or fewer rows of 128 bytes are
// filled. g and every outer stride are multiples of 16 bytes.
template <size_t dimensions>
CUtensorMap tensor_map(const void* g, const std::array<int64_t, dimensions>& sizes, const std::array<int, dimensions>& box);

// Is the current device a Hopper, and was the kernel compiled for it? (Elsewhere its body is empty.)
bool runs_here(const void* kernel);

}  // namespace taper::cuda::hopper
