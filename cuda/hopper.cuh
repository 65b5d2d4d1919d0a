// What Hopper adds (sm_90a, PTX ISA): barriers that count bytes, tensor copies, products of a warpgroup, clusters.
//
// Nothing here is compiled where it is not called. A kernel calls it inside NV_IF_TARGET(NV_HAS_FEATURE_SM_90a, ...),
// so that it is empty for other architectures, and its host code asks before it launches.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/mma.cuh"

namespace taper::cuda::hopper {

// A barrier in shared memory. Its phase ends when `count` arrivals and all announced bytes have come; a wait names the
// parity of the phase it waits for: 0 first, then 1, 0, ... To wait for parity 1 on a new barrier returns at once.
using Barrier = uint64_t;

__device__ inline void barrier_init(Barrier* b, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(b)), "r"(count) : "memory");
}
// After the inits and before the first use by the copy engine or another block of the cluster.
__device__ inline void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory"); }
__device__ inline void barrier_arrive_expecting(Barrier* b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(b)), "r"(bytes)
               : "memory");
}
__device__ inline void barrier_arrive(Barrier* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(b)) : "memory");
}
__device__ inline void barrier_arrive_at(Barrier* b, int block) {  // the same barrier of a block of this cluster
  asm volatile(
      "{.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];}\n" ::"r"(shared_address(b)),
      "r"(block)
      : "memory");
}
__device__ inline void barrier_wait(Barrier* b, int parity) {
  asm volatile(
      "{.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;}\n" ::"r"(shared_address(b)),
      "r"(parity)
      : "memory");
}

// Copies of a box of a tensor map, from global memory, whose bytes a barrier counts; x runs along rows. What lies
// outside the tensor arrives as zeros, and is counted. The second form delivers to the same place of each of `blocks`; the
// third takes a box of a map of four dimensions.
__device__ inline void copy_box(void* shared, const CUtensorMap& map, int x, int y, Barrier* b) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];\n" ::"r"(shared_address(shared)),
      "l"(&map), "r"(x), "r"(y), "r"(shared_address(b))
      : "memory");
}
__device__ inline void copy_box(void* shared, const CUtensorMap& map, int x, int y, Barrier* b, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
      " [%0], [%1, {%2, %3}], [%4], %5;\n" ::"r"(shared_address(shared)),
      "l"(&map), "r"(x), "r"(y), "r"(shared_address(b)), "h"(blocks)
      : "memory");
}
__device__ inline void copy_box(void* shared, const CUtensorMap& map, int x, int y, int z, int w, Barrier* b) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6];\n" ::"r"(shared_address(shared)),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(shared_address(b))
      : "memory");
}
// The way back; what lies outside the tensor is not written. Groups of stores as in copy_async: `read` waits until the
// shared memory of all of this thread's groups but `pending` may be written again.
__device__ inline void store_box(const CUtensorMap& map, int x, int y, const void* shared) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];\n" ::"l"(&map), "r"(x),
               "r"(y), "r"(shared_address(shared))
               : "memory");
}
__device__ inline void store_box(const CUtensorMap& map, int x, int y, int z, int w, const void* shared) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3, %4}], [%5];\n" ::"l"(&map),
               "r"(x), "r"(y), "r"(z), "r"(w), "r"(shared_address(shared))
               : "memory");
}
__device__ inline void store_commit() { asm volatile("cp.async.bulk.commit_group;\n" ::: "memory"); }
template <int pending>
__device__ inline void store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;\n" ::"n"(pending) : "memory");
}
__device__ inline void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(&map) : "memory");
}
// Between ordinary writes to shared memory and the copy engine's or wgmma's reads of them, in each writing thread.
__device__ inline void fence_async() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

// A barrier of some of a block's warps; id 0 is __syncthreads'. Who only arrives does not wait.
__device__ inline void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

// A word by which one block tells another that what it wrote before (and fenced, in each writing thread) is there.
__device__ inline void store_release(int* g, int x) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;\n" ::"l"(g), "r"(x) : "memory");
}
__device__ inline int load_acquire(const int* g) {
  int x;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];\n" : "=r"(x) : "l"(g) : "memory");
  return x;
}

// 0, 1, 2, ... from a counter, each to one caller: who works on what. No result may follow from it.
__device__ inline int take_number(int* g) {
  int x;
  asm volatile("atom.relaxed.gpu.global.add.s32 %0, [%1], 1;\n" : "=r"(x) : "l"(g) : "memory");
  return x;
}

// Of kernels launched early (cuda/launch.cuh): when all blocks of the one before have called this, the next may begin on what
// is free; and that one's wait until all of the one before is done.
__device__ inline void let_next_begin() { asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory"); }
__device__ inline void wait_for_one_before() { asm volatile("griddepcontrol.wait;\n" ::: "memory"); }

__device__ inline int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
  return int(rank);
}
__device__ inline void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n" ::: "memory");
}

// Moves registers between the warpgroups of a block; each warp of a warpgroup calls it.
template <int registers>
__device__ inline void registers_give() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(registers));
}
template <int registers>
__device__ inline void registers_take() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(registers));
}

// Four 8x8 matrices of bf16 to shared memory: ldmatrix_x4 (cuda/mma.cuh) the other way.
__device__ inline void stmatrix_x4(void* row, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};\n" ::"r"(shared_address(row)), "r"(r0),
               "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}

__device__ inline void stmatrix_x4_trans(void* row, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};\n" ::"r"(shared_address(row)), "r"(r0),
               "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}

// Products of a warpgroup. An operand in shared memory lies in rows of 128 bytes, 8 rows an atom of 1024 bytes, whose
// 16-byte pieces are xored with the row (a tensor map with CU_TENSOR_MAP_SWIZZLE_128B writes so). A word names it:
//   k along rows    rows are the M or N index, atoms follow at 1024 bytes; 16 steps of k are 32 bytes further
//   k across rows   rows are k, a row holds 64 of M or N, atoms follow along k at 1024 bytes, along M or N at `next`
//                   bytes; 16 steps of k are 2048 bytes further
__device__ inline uint64_t operand(const void* shared, int next = 0) {
  const uint64_t address = (shared_address(shared) & 0x3ffff) >> 4;
  return address | uint64_t(next >> 4) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
template <bool across>
__device__ constexpr uint64_t operand_step() {  // to the next 16 of k
  return (across ? 2048 : 32) >> 4;
}
// Before the first product on registers written otherwise; the end of a group; wait for all groups but `pending`.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
template <int pending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(pending) : "memory");
}

// After the wait for a group and before its sums are read, so that no reading moves to before the wait.
template <int n>
__device__ inline void wgmma_done(float (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// d += A B (or d = A B where add is false), [64,16] by [16,2 n] for d[n]: n is 32, 64 or 128. a_across, b_across: k runs
// across the rows. In lane 4 g + q of warp w of the four:
//   d[4 j], d[4 j + 1] = D[16 w + g][8 j + 2 q, + 1], d[4 j + 2, + 3] 8 rows below
//   where A is in registers they are the fragment of the warp's 16 rows, as for mma_bf16 (cuda/mma.cuh)
#define TAPER_NAMES_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TAPER_NAMES_64 \
  TAPER_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TAPER_NAMES_128 \
  TAPER_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define TAPER_SUMS_8(i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define TAPER_SUMS_32(i) TAPER_SUMS_8(i), TAPER_SUMS_8(i + 8), TAPER_SUMS_8(i + 16), TAPER_SUMS_8(i + 24)
#define TAPER_SUMS_64(i) TAPER_SUMS_32(i), TAPER_SUMS_32(i + 32)
#define TAPER_SUMS_128(i) TAPER_SUMS_64(i), TAPER_SUMS_64(i + 64)
#define TAPER_WGMMA(n, columns, a, b, add, tail, ...) /* where the operands stand behind the n sums */ \
  asm volatile("{.reg .pred add;\n" \
               "setp.ne.b32 add, " add ", 0;\n" \
               "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32.bf16.bf16 {" TAPER_NAMES_##n "}, " a ", " b \
               ", add, 1, 1, " tail ";}\n" \
               : TAPER_SUMS_##n(0) \
               : __VA_ARGS__)

template <bool a_across, bool b_across>
__device__ inline void wgmma(float (&d)[32], uint64_t a, uint64_t b, bool add) {
  TAPER_WGMMA(32, "64", "%32", "%33", "%34", "%35, %36", "l"(a), "l"(b), "r"(int(add)), "n"(int(a_across)), "n"(int(b_across)));
}
template <bool a_across, bool b_across>
__device__ inline void wgmma(float (&d)[64], uint64_t a, uint64_t b, bool add) {
  TAPER_WGMMA(64, "128", "%64", "%65", "%66", "%67, %68", "l"(a), "l"(b), "r"(int(add)), "n"(int(a_across)), "n"(int(b_across)));
}
template <bool a_across, bool b_across>
__device__ inline void wgmma(float (&d)[128], uint64_t a, uint64_t b, bool add) {
  TAPER_WGMMA(128, "256", "%128", "%129", "%130", "%131, %132", "l"(a), "l"(b), "r"(int(add)), "n"(int(a_across)), "n"(int(b_across)));
}
template <bool b_across>
__device__ inline void wgmma(float (&d)[32], const uint32_t (&a)[4], uint64_t b, bool add) {
  TAPER_WGMMA(32, "64", "{%32, %33, %34, %35}", "%36", "%37", "%38", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
              "r"(int(add)), "n"(int(b_across)));
}
template <bool b_across>
__device__ inline void wgmma(float (&d)[64], const uint32_t (&a)[4], uint64_t b, bool add) {
  TAPER_WGMMA(64, "128", "{%64, %65, %66, %67}", "%68", "%69", "%70", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
              "r"(int(add)), "n"(int(b_across)));
}
template <bool b_across>
__device__ inline void wgmma(float (&d)[128], const uint32_t (&a)[4], uint64_t b, bool add) {
  TAPER_WGMMA(128, "256", "{%128, %129, %130, %131}", "%132", "%133", "%134", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
              "r"(int(add)), "n"(int(b_across)));
}

#undef TAPER_WGMMA
#undef TAPER_SUMS_128
#undef TAPER_SUMS_64
#undef TAPER_SUMS_32
#undef TAPER_SUMS_8
#undef TAPER_NAMES_128
#undef TAPER_NAMES_64
#undef TAPER_NAMES_32

}  // namespace taper::cuda::hopper
