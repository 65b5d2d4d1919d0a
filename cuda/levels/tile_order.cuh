// The order in which a launch walks the tiles of c.
#pragma once
#include <cstdint>

namespace taper::cuda {

struct TilePlace {
  int row, column;
};

// Tile i of rows x columns: down the columns of bands of `band` rows. The blocks that run at one time then share a
// band's rows of a and a few columns of b, and find them in L2.
__host__ __device__ inline TilePlace tile_place(int i, int rows, int columns, int band) {
  const int first = i / (band * columns) * band, within = i % (band * columns);
  const int height = rows - first < band ? rows - first : band;
  return {first + within % height, within / height};
}

}  // namespace taper::cuda
