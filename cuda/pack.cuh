// Vectors as they are moved, and the numbers in them: bf16 travels in pairs, since 16-bit registers cost whole ones.
#pragma once
#include <bit>

#include "cuda/mma.cuh"
#include "cuda/vector.cuh"

namespace taper::cuda {

// n elements of T in registers, moved with one access of up to 16 bytes.
template <class T, int n>
using Packed = std::conditional_t<std::is_same_v<T, bf16> && n % 2 == 0, Vector<uint32_t, (n + 1) / 2>, Vector<T, n>>;

template <class T, int n>
__device__ Packed<T, n> load_packed(const T* g) {
  return *reinterpret_cast<const Packed<T, n>*>(g);
}
template <class T, int n>
__device__ void store_packed(T* g, const Packed<T, n>& v) {
  *reinterpret_cast<Packed<T, n>*>(g) = v;
}

// unpack<T>(v, r): the numbers of v.
template <class T, int n>
__device__ void unpack(const Packed<T, n>& v, Acc<T> (&r)[n]) {
  if constexpr (std::is_same_v<T, bf16> && n % 2 == 0) {
#pragma unroll
    for (int i = 0; i < n / 2; ++i) {
      r[2 * i] = std::bit_cast<float>(v.at[i] << 16);
      r[2 * i + 1] = std::bit_cast<float>(v.at[i] & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) r[i] = Acc<T>(v.at[i]);
  }
}

// pack<T>(r): rounded.
template <class T, int n>
__device__ Packed<T, n> pack(const Acc<T> (&r)[n]) {
  Packed<T, n> v;
  if constexpr (std::is_same_v<T, bf16> && n % 2 == 0) {
#pragma unroll
    for (int i = 0; i < n / 2; ++i) v.at[i] = pack_bf16(r[2 * i], r[2 * i + 1]);
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) v.at[i] = T(r[i]);
  }
  return v;
}

}  // namespace taper::cuda
