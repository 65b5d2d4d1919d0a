// Tensor-core products of a warp and the copies that feed them: bf16 operands, f32 sums; sm_80 and later.
//
// Fragments of mma m16n8k16, with g = lane / 4 and q = lane % 4 (PTX ISA, "Matrix fragments for mma.m16n8k16"):
//   A [16,16] row-major   a[0] = A[g][2q,2q+1]  a[1] = A[g+8][2q,2q+1]  a[2] = A[g][2q+8,+9]  a[3] = A[g+8][2q+8,+9]
//   B [16,8]              b[0] = B[2q,2q+1][g]  b[1] = B[2q+8,2q+9][g]
//   C, D [16,8]           d[0], d[1] = D[g][2q,2q+1]   d[2], d[3] = D[g+8][2q,2q+1]
// A D therefore becomes the A of the next product without moving: two neighbouring D of 8 columns, packed to bf16,
// are one A of 16.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace taper::cuda {

// d += A B, bf16 by bf16 into f32.
__device__ inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// Four 8x8 matrices of bf16 from shared memory. Lane 8 i + r gives the 16-byte aligned address of row r of matrix i; r[i]
// gets, in lane 4 g + q, elements 2q and 2q+1 of row g of matrix i. With _trans it gets column g's elements 2q, 2q+1.
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void ldmatrix_x2(uint32_t (&r)[2], const void* row) {  // lanes 0 to 15 give the addresses
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

// Two floats rounded to nearest even, low in the lower half.
__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

// 16 bytes from global to shared memory, past the registers; zeros where `present` is false. Both 16-byte aligned.
__device__ inline void copy_async(void* shared, const void* global, bool present = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(global),
               "r"(present ? 16 : 0)
               : "memory");
}
// Closes the group of copies begun so far by this thread; wait until at most `pending` of its groups are under way.
// Others see the bytes after a __syncthreads() that follows the wait.
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int pending>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
}

}  // namespace taper::cuda
