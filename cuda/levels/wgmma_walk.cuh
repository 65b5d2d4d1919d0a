// The walk of level 6 over the tiles of c: what each cluster makes, and in which order.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>

#include "cuda/levels/matmul.h"
#include "cuda/levels/tile_order.cuh"

namespace taper::cuda::level_6 {

constexpr int tile_m = 128, depth = 64, group = 128, consumers = 2, threads = group * (consumers + 1), cluster = 2;
constexpr int panel = 64 * 128;  // bytes: 64 rows of 64 numbers, the unit of what lies swizzled in shared memory
constexpr int most_ranges = 66;  // an H100's clusters: a number of its own, so that sums do not depend on the device

// gate: b's half of a tile's columns and up's are multiplied side by side, each block of a cluster fetches one of them, and
// they make half as many columns of c.
template <int tile_n_, int stages_, bool gate_ = false>
struct Plan {
  static constexpr int tile_n = tile_n_, stages = stages_, columns = gate_ ? tile_n / 2 : tile_n;  // of c
  static constexpr bool gate = gate_;
  static constexpr int a_bytes = tile_m * depth * 2, b_bytes = tile_n * depth * 2, stage = a_bytes + b_bytes;
  static constexpr int out = stages * stage;                    // in shared memory: two panels for each warpgroup
  static constexpr int barriers = out + consumers * 2 * panel;  // "has come", "is free" of each stage; "what is added has come"
  static constexpr int shared_bytes = barriers + (2 * stages + consumers) * int(sizeof(uint64_t)) + 1024;  // 1024: to align it
  static constexpr int64_t part_floats = int64_t(cluster) * consumers * 64 * tile_n;  // what a range leaves behind
};

struct Walk {
  int M, N, K;
  int rows, columns, band, steps;  // rows of clusters, columns of tiles; steps along K
  int ranges;                      // 0: whole tiles in turn
  int* g_left;                     // [ranges][cluster][consumers]: 1 when the part is there
  float4* g_parts;                 // [ranges][cluster][consumers][64*tile_n/4/group][group]
  bool added, relu_squared, kept;
};

// What a cluster makes, one piece of work after another: a tile, or some of its steps.
template <class P>
class Work {
 public:
  int m0, n0, begin, steps;  // of this block; steps begin ... begin + steps - 1
  int first_range;           // that holds the tile's first step
  bool owned;                // is the tile's last step here?

  __device__ Work(const Walk& w, int rank) : w_(w), rank_(rank), mine_(int(blockIdx.x) / cluster) {
    const int all = w.rows * w.columns * w.steps;
    at_ = w.ranges ? (mine_ + 1) * all / w.ranges : mine_;
    end_ = w.ranges ? mine_ * all / w.ranges : w.rows * w.columns;
  }
  // Ranges are walked from their end: the tile's earlier steps, which the owner will wait for, are made first, and by
  // a block that started no later.
  __device__ bool next() {
    if (w_.ranges ? at_ <= end_ : at_ >= end_) return false;
    int tile = at_;
    begin = 0, steps = w_.steps, owned = true, first_range = mine_;
    if (w_.ranges) {
      tile = (at_ - 1) / w_.steps;
      const int first = tile * w_.steps, from = max(first, end_);
      begin = from - first;
      steps = at_ - from;
      owned = begin + steps == w_.steps;
      first_range = ((first + 1) * w_.ranges - 1) / (w_.rows * w_.columns * w_.steps);
      at_ = from;
    } else {
      at_ += int(gridDim.x) / cluster;
    }
    const TilePlace place = tile_place(tile, w_.rows, w_.columns, w_.band);
    m0 = (place.row * cluster + rank_) * tile_m;
    n0 = place.column * P::columns;
    return true;
  }
  __device__ int range() const { return mine_; }

 private:
  const Walk& w_;
  const int rank_, mine_;
  int at_, end_;
};

inline int over(int64_t n, int64_t by) { return int((n + by - 1) / by); }

// How many ranges, or 0 for whole tiles. Time is counted in steps of one tile: those made one after another, what a
// tile costs beside its steps, and what it takes to leave or collect a part.
inline int ranges_of(int64_t tiles, int64_t steps) {
  constexpr int64_t around = 3, part = 3;
  const int64_t whole = over(tiles, most_ranges) * (steps + around);
  int64_t best = 0, best_cost = whole * 19 / 20;  // unless it is a clear gain
  for (int64_t n = 2; n <= std::min<int64_t>(most_ranges, tiles * steps / 4); ++n) {
    const int64_t cost = over(tiles * steps, n) + around * (over(tiles, n) + 1) + part * (over(n, tiles) + 1);
    if (cost < best_cost) best = n, best_cost = cost;
  }
  return tiles * steps < (1 << 24) ? int(best) : 0;  // their products with the ranges are ints
}

template <class P>
Walk walk_of(const Product& p, int band) {
  Walk w{.M = int(p.M),
         .N = int(p.N),
         .K = int(p.K),
         .rows = over(p.M, tile_m * cluster),
         .columns = over(p.N, P::columns),
         .band = band,
         .steps = over(p.K, depth),
         .ranges = 0,
         .g_left = nullptr,
         .g_parts = nullptr,
         .added = p.added != nullptr,
         .relu_squared = p.relu_squared,
         .kept = p.kept_gate != nullptr};
  w.ranges = ranges_of(int64_t(w.rows) * w.columns, w.steps);
  return w;
}

}  // namespace taper::cuda::level_6
