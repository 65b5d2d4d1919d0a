// The ladder of matmul: one product, and the kernels that make it, each faster than the one before. See README.md here.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "tensor/dtype.h"

namespace taper::cuda {

// c = op(a) op(b), or added + that. Rows lie one after another without gaps: a [M,K], or [K,M] where transposed;
// b [K,N], or [N,K]; c, added [M,N].
struct Product {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  int64_t M = 0, N = 0, K = 0;
  bool transpose_a = false, transpose_b = false;
  const void* added = nullptr;  // of c's dtype, or c itself
  // Level 6; the others leave these to the caller. relu_squared: c = max(op(a) op(b), 0)^2. up, as b: c = silu(op(a) op(b))
  // (op(a) op(up)), and the two products to kept_gate and kept_up, as c, where those are.
  bool relu_squared = false;
  const void* up = nullptr;
  void *kept_gate = nullptr, *kept_up = nullptr;
  Dtype operands = Dtype::f32, result = Dtype::f32;  // result: the operands' dtype, or f32 of bf16
  // Levels 1 to 5: K cut in pieces, each a product of its own: piece i writes c + i M N. The caller adds them up.
  int pieces = 1;
  void* workspace = nullptr;  // level 6: as many bytes as it asks for
  cudaStream_t stream = nullptr;

  int64_t piece() const { return (K + pieces * int64_t(64) - 1) / (pieces * int64_t(64)) * 64; }  // inner size of one
};

void matmul_naive(const Product& p);           // 1: any product
void matmul_shared_tiles(const Product& p);    // 2: any
void matmul_register_tiles(const Product& p);  // 3: any; the shipped one of f32 and f64
void matmul_tensor_cores(const Product& p);    // 4: bf16
void matmul_pipelined(const Product& p);       // 5: bf16, rows and addresses of the operands whole 16 bytes
void matmul_wgmma(const Product& p);           // 6: the same and c's too, on Hopper

bool matmul_pipelined_takes(const Product& p);
bool matmul_wgmma_takes(const Product& p);
int64_t matmul_wgmma_workspace(const Product& p);
bool matmul_wgmma_runs();  // on the current device

// Can 16 bytes of an operand move at once, everywhere? Its address and its rows must be whole 16 bytes.
inline bool whole_16_bytes(const void* at, int64_t row) {
  return reinterpret_cast<uintptr_t>(at) % 16 == 0 && row % 8 == 0;
}
inline bool whole_a(const Product& p) { return whole_16_bytes(p.a, p.transpose_a ? p.M : p.K); }
inline bool whole_b(const Product& p) { return whole_16_bytes(p.b, p.transpose_b ? p.K : p.N); }

// f.operator()<T, C, transpose_a, transpose_b>() with the types of the product's operands and result.
template <bool bf16_only, class F>
void with_types(const Product& p, F&& f) {
  auto transposes = [&]<class T, class C>() {
    if (p.transpose_a)
      p.transpose_b ? f.template operator()<T, C, true, true>() : f.template operator()<T, C, true, false>();
    else p.transpose_b ? f.template operator()<T, C, false, true>() : f.template operator()<T, C, false, false>();
  };
  auto results = [&] {
    visit<bf16, float>("matmul", p.result, [&]<class C>() { transposes.template operator()<bf16, C>(); });
  };
  if constexpr (bf16_only) visit<bf16>("matmul", p.operands, [&]<class T>() { results(); });
  else
    visit<float, double, bf16>("matmul", p.operands, [&]<class T>() {
      if constexpr (std::is_same_v<T, bf16>) results();
      else visit<T>("matmul", p.result, [&]<class C>() { transposes.template operator()<T, T>(); });
    });
}

}  // namespace taper::cuda
