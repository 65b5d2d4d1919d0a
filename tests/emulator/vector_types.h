// CUDA's vector types, aligned as there: one access of a thread.
#pragma once
#include <cstddef>

namespace emulator {
template <class T>
struct alignas(2 * sizeof(T)) Two {
  T x, y;
};
template <class T>
struct Three {
  T x, y, z;
};
template <class T>
struct alignas(sizeof(T) < 8 ? 4 * sizeof(T) : 16) Four {
  T x, y, z, w;
};
}  // namespace emulator

struct char2 : emulator::Two<signed char> {};
struct char4 : emulator::Four<signed char> {};
struct uchar2 : emulator::Two<unsigned char> {};
struct uchar4 : emulator::Four<unsigned char> {};
struct short2 : emulator::Two<short> {};
struct short4 : emulator::Four<short> {};
struct ushort2 : emulator::Two<unsigned short> {};
struct ushort4 : emulator::Four<unsigned short> {};
struct int2 : emulator::Two<int> {};
struct int3 : emulator::Three<int> {};
struct int4 : emulator::Four<int> {};
struct uint2 : emulator::Two<unsigned> {};
struct uint4 : emulator::Four<unsigned> {};
struct float2 : emulator::Two<float> {};
struct float3 : emulator::Three<float> {};
struct float4 : emulator::Four<float> {};
struct double2 : emulator::Two<double> {};
struct double4 : emulator::Four<double> {};
struct longlong2 : emulator::Two<long long> {};
struct ulonglong2 : emulator::Two<unsigned long long> {};

inline int2 make_int2(int x, int y) { return {{x, y}}; }
inline int4 make_int4(int x, int y, int z, int w) { return {{x, y, z, w}}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {{x, y}}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {{x, y, z, w}}; }
inline float2 make_float2(float x, float y) { return {{x, y}}; }
inline float3 make_float3(float x, float y, float z) { return {{x, y, z}}; }
inline float4 make_float4(float x, float y, float z, float w) { return {{x, y, z, w}}; }
inline double2 make_double2(double x, double y) { return {{x, y}}; }
inline ushort2 make_ushort2(unsigned short x, unsigned short y) { return {{x, y}}; }
inline ushort4 make_ushort4(unsigned short x, unsigned short y, unsigned short z, unsigned short w) {
  return {{x, y, z, w}};
}
inline longlong2 make_longlong2(long long x, long long y) { return {{x, y}}; }
inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return {{x, y}}; }
