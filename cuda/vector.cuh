// Vectors: neighbouring elements that one thread moves with one access of up to 16 bytes.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "tensor/dtype.h"

namespace taper::cuda {

// n elements of T, aligned as one access. Both sides of a copy must be aligned to sizeof.
template <class T, int n = 16 / int(sizeof(T))>
struct alignas(sizeof(T) * n) Vector {
  T at[n];
};

// How many neighbouring elements may move at once: all pointers aligned and all row lengths divisible.
template <class T>
bool vector_fits(int n, int64_t row, std::initializer_list<const T*> pointers) {
  bool fits = row % n == 0;
  for (const T* p : pointers) fits = fits && reinterpret_cast<uintptr_t>(p) % (sizeof(T) * size_t(n)) == 0;
  return fits;
}

}  // namespace taper::cuda
