// Many tensors in one launch: a table, passed as a kernel's parameter, that tells each block its tensor and its piece of it.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "cuda/launch.cuh"

namespace taper::cuda {

// Entry: what a kernel knows of a tensor; it has `int64_t numel`. A kernel's parameters hold 4 KB on every GPU.
template <class Entry>
struct Pieces {
  static constexpr int most = (4000 - 16) / int(sizeof(Entry) + sizeof(int32_t));
  Entry entry[most];
  int32_t first[most];  // the block of the launch at which each tensor begins
  int32_t tensors = 0, blocks = 0;

  __device__ int tensor_of(int block) const {
    int t = 0;
    for (int step = 128; step > 0; step /= 2)
      if (t + step < tensors && first[t + step] <= block) t += step;
    return t;
  }
};

// Calls launch(table, block0) for tables that together hold the entries, each cut into pieces of `piece` elements, a block
// each; block0 counts the blocks of the tables before. Returns the number of all blocks.
template <class Entry, class Launch>
int64_t for_pieces(const std::vector<Entry>& entries, int64_t piece, Launch&& launch) {
  static_assert(Pieces<Entry>::most <= 256, "tensor_of looks at 256");
  int64_t before = 0;
  Pieces<Entry> table;
  const auto flush = [&] {
    if (table.blocks > 0) launch(table, before);
    before += table.blocks;
    table.tensors = table.blocks = 0;
  };
  for (const Entry& e : entries) {
    if (e.numel == 0) continue;
    const int64_t blocks = (e.numel + piece - 1) / piece;
    if (table.tensors == Pieces<Entry>::most || table.blocks + blocks > INT32_MAX) flush();
    table.entry[table.tensors] = e;
    table.first[table.tensors++] = table.blocks;
    table.blocks += int32_t(blocks_for(blocks, 1));
  }
  flush();
  return before;
}

}  // namespace taper::cuda
