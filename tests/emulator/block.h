// A block of CUDA threads on the CPU: each thread is a fiber, and one fiber runs at a time until it waits for others.
//
// Which of the fibers that may run goes first is a choice (TAPER_EMULATOR_ORDER, see emulator.cpp): a result that
// changes with it lacks a barrier. Shared memory is filled with NaN before each block. A misuse (a barrier that part of
// the threads never reach, lanes that meet in different calls, an address that is not aligned) raises an Error.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <string>
#include <tuple>
#include <type_traits>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};
struct CUstream_st;
using cudaStream_t = CUstream_st*;

inline uint3 threadIdx, blockIdx;  // of the fiber that runs
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulator {

using Place = std::source_location;

extern const size_t most_shared;                  // bytes of a block: an H100's, or TAPER_EMULATOR_SHARED
extern const int capability;                      // 90: a Hopper; 80 (TAPER_EMULATOR_CAPABILITY): a card before it
constexpr size_t most_shared_unasked = 48 << 10;  // without cudaFuncSetAttribute; also the most of static arrays

[[noreturn]] void fault(const std::string& what, Place at);  // names the kernel, the block and the thread

// ---- Launches. ----

struct Launch {
  const char* kernel;    // its text, for messages
  const void* function;  // nullptr: unknown
  dim3 grid, block;
  size_t shared;
  Place at;
};
bool launch_fits(const Launch& launch);                   // false: the error waits in cudaGetLastError
void check_pointer(const Launch& launch, const void* p);  // an argument: must point into live memory of the device
void run(const Launch& launch, void (*thread)(const void*), const void* call);
void set_shared_limit(const void* function, size_t bytes);

template <class F, class... P>
void launch_with(const Launch& launch, F kernel, const P&... p) {
  struct Call {
    F kernel;
    std::tuple<P...> parameters;
  } call{kernel, {p...}};
  if (!launch_fits(launch)) return;
  const auto pointers = [&]<class A>(const A& a) {
    if constexpr (std::is_pointer_v<A> && !std::is_function_v<std::remove_pointer_t<A>>) check_pointer(launch, a);
  };
  (pointers(p), ...);
  run(
      launch,
      [](const void* c) {
        const Call& call = *static_cast<const Call*>(c);
        std::apply(call.kernel, call.parameters);
      },
      &call);
}

template <class... P>
struct Prepared {
  void (*kernel)(P...);
  Launch launch;
  void operator()(std::type_identity_t<P>... p) const {
    launch_with<void (*)(P...), std::remove_const_t<P>...>(launch, kernel, p...);
  }
};
// kernel<<<grid, block, shared, stream>>>(...) is written prepare(kernel, "kernel", grid, block, shared, stream)(...).
template <class... P>
Prepared<P...> prepare(void (*kernel)(P...), const char* text, dim3 grid, dim3 block, size_t shared = 0,
                       cudaStream_t = nullptr, Place at = Place::current()) {
  return {kernel, {text, reinterpret_cast<const void*>(kernel), grid, block, shared, at}};
}
template <class F>
struct PreparedAny {
  F kernel;
  Launch launch;
  template <class... P>
  void operator()(P... p) const {
    launch_with<F, P...>(launch, kernel, p...);
  }
};
// The same where the kernel's template arguments follow from what it is called with.
template <class F>
PreparedAny<F> prepare_any(F kernel, const char* text, dim3 grid, dim3 block, size_t shared = 0, cudaStream_t = nullptr,
                           Place at = Place::current()) {
  return {kernel, {text, nullptr, grid, block, shared, at}};
}

// ---- Within a kernel. ----

void check_launch_bounds(unsigned most_threads, Place at = Place::current());

inline uint64_t block_number = 0;  // counts blocks over all launches
void declare_shared(void* p, size_t bytes, Place at);
// Follows the declaration of shared arrays: the first thread of each block to pass fills them with NaN.
template <class... V>
void begin_shared(uint64_t& seen, Place at, V&... v) {
  if (seen == block_number) return;
  seen = block_number;
  (declare_shared(const_cast<void*>(static_cast<const volatile void*>(&v)), sizeof v, at), ...);
}
void* dynamic_shared();  // 1024-byte aligned

enum class Reduce { none, count, all, any };
int barrier(Reduce how, bool value, Place at);
// bar.sync: `threads` of the block, in whole warps, meet at barrier `id`; bar.arrive does not wait.
void named_barrier(int id, int threads, bool wait, Place at);

// Lanes of a warp meet. When all of the mask that still live are there, finish(items, lanes) runs once; item[l] is what
// lane l brought, and `lanes` holds a bit for each.
using Finish = void (*)(void* const* items, unsigned lanes);
void meet(unsigned mask, const char* call, void* item, Finish finish, Place at);
unsigned lane();
unsigned live_lanes();

// cp.async: done at once or as late as allowed, by the order.
void async_copy(void* to, const void* from, size_t bytes, size_t present, Place at);
void async_commit();
void async_wait(size_t pending);

}  // namespace emulator

inline void __syncthreads(emulator::Place at = emulator::Place::current()) {
  emulator::barrier(emulator::Reduce::none, false, at);
}
inline int __syncthreads_count(int p, emulator::Place at = emulator::Place::current()) {
  return emulator::barrier(emulator::Reduce::count, p != 0, at);
}
inline int __syncthreads_and(int p, emulator::Place at = emulator::Place::current()) {
  return emulator::barrier(emulator::Reduce::all, p != 0, at);
}
inline int __syncthreads_or(int p, emulator::Place at = emulator::Place::current()) {
  return emulator::barrier(emulator::Reduce::any, p != 0, at);
}
