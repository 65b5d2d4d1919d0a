// dplr_scan on tensor cores for heads narrower than a tile: copies with zeros around them go in, their corners come out.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>

#include "cuda/launch.cuh"
#include "cuda/ops/dplr_scan_tiles.cuh"

namespace taper::kernels::dplr_tiles {

constexpr int copy_threads = 256, most_copies = 9;  // the backward's inputs

// A tensor and its copy, in units that threads move.
struct Copy {
  void *g_narrow, *g_wide;  // [n,rows,columns]; [n,2^down,2^across]
  int64_t units;            // of the copy
  int rows, columns, down, across;
};
struct Copies {
  Copy each[most_copies];
};

// Copy blockIdx.y: all of it from the tensor, or what the tensor has of it back to the tensor.
template <class Unit, bool widens>
__global__ void __launch_bounds__(copy_threads) dplr_scan_copy_kernel(Copies copies) {
  const Copy& c = copies.each[blockIdx.y];
  const int64_t i = cuda::thread_index(), line = i >> c.across, n = line >> c.down;
  if (i >= c.units) return;
  const int row = int(line - (n << c.down)), column = int(i - (line << c.across));
  const bool inside = row < c.rows && column < c.columns;
  const int64_t at = (n * c.rows + row) * c.columns + column;
  Unit *g_narrow = static_cast<Unit*>(c.g_narrow), *g_wide = static_cast<Unit*>(c.g_wide);
  if constexpr (widens) g_wide[i] = inside ? g_narrow[at] : Unit{};
  else if (inside) g_narrow[at] = g_wide[i];
}

// The copies of one pass that go in, or that come out.
class Widened {
 public:
  explicit Widened(const DplrScanInputs& in) : by_16_bytes_(in.r.size(3) % 8 == 0 && in.v.size(3) % 8 == 0) {}

  // [..,64] of [..,K or V]; absent of absent
  Tensor rows(const Tensor& t) {
    return t ? add(t, 1, t.size(3), 1).reshape(Shape{t.size(0), t.size(1), t.size(2), channels}) : Tensor{};
  }
  // [..,64,64] of [..,K,V], or of [..,V,K] as the tiles lie; absent of absent
  Tensor states(const Tensor& t, int64_t rows, int64_t columns) { return t ? add(t, rows, columns, channels) : Tensor{}; }

  // All that was asked for, in one launch: copies are filled, or tensors from their copies.
  template <bool widens>
  void move(Device& device) const {
    int64_t most = 0;
    for (int i = 0; i < count_; ++i) most = std::max(most, copies_.each[i].units);
    const dim3 grid(cuda::blocks_for(most, copy_threads), unsigned(count_));
    const auto kernel = by_16_bytes_ ? dplr_scan_copy_kernel<uint4, widens> : dplr_scan_copy_kernel<uint16_t, widens>;
    kernel<<<grid, copy_threads, 0, cuda::stream_of(device)>>>(copies_);
    cuda::cuda_check(cudaGetLastError());
  }

 private:
  Tensor add(const Tensor& t, int64_t rows, int64_t columns, int wide_rows) {
    const Tensor wide(t.device(), {t.numel() / (rows * columns), wide_rows, channels}, t.dtype());
    const int size = int(size_of(t.dtype())), unit = by_16_bytes_ ? 16 : 2;
    const auto power = [](int x) { return std::countr_zero(unsigned(x)); };
    copies_.each[count_++] = {t.data<void>(), wide.data<void>(), int64_t(wide.bytes()) / unit, int(rows), int(columns) * size / unit,
                              power(wide_rows), power(channels * size / unit)};
    return wide;
  }
  Copies copies_ = {};
  int count_ = 0;
  bool by_16_bytes_;
};

}  // namespace taper::kernels::dplr_tiles
