// copy on the CPU.
#include "tensor/ops/copy.h"

#include <algorithm>
#include <cstring>

#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

void columns(const CopyColumns& a) {
  const size_t size = size_of(a.from.dtype());
  const size_t from_row = size * size_t(a.from.size(-1)), to_row = size * size_t(a.to.size(-1));
  const size_t bytes = size * size_t(a.width);
  if (bytes == 0) return;
  const int64_t rows = a.from.numel() / a.from.size(-1);
  const char* from = static_cast<const char*>(a.from.data<void>()) + size * size_t(a.from_column);
  char* to = static_cast<char*>(a.to.data<void>()) + size * size_t(a.to_column);
  parallel_for(rows, std::max<int64_t>(1, int64_t(65536 / bytes)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) std::memcpy(to + to_row * size_t(r), from + from_row * size_t(r), bytes);
  });
}

void transposed(const Transpose& a) {
  visit<float, double, bf16, int32_t, int64_t>("transpose", a.from.dtype(), [&]<class T>() {
    constexpr int64_t tile = 32;  // both sides of a tile stay in the first cache
    const T* from = a.from.data<T>();
    T* to = a.to.data<T>();
    const int64_t R = a.from.size(-2), C = a.from.size(-1);
    if (a.from.numel() == 0) return;
    const int64_t matrices = a.from.numel() / (R * C), strips = (R + tile - 1) / tile;
    parallel_for(matrices * strips, std::max<int64_t>(1, (1 << 14) / (tile * C)), [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) {
        const T* x = from + s / strips * R * C;
        T* y = to + s / strips * R * C;
        const int64_t i0 = s % strips * tile, i1 = std::min(R, i0 + tile);
        for (int64_t j0 = 0; j0 < C; j0 += tile)
          for (int64_t j = j0; j < std::min(C, j0 + tile); ++j)
            for (int64_t i = i0; i < i1; ++i) y[j * R + i] = x[i * C + j];
      }
    });
  });
}

const Implement c{copy_columns, DeviceKind::cpu, columns};
const Implement t{transpose, DeviceKind::cpu, transposed};

}  // namespace
}  // namespace taper::kernels
