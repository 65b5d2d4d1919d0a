// matmul: c = op(a) op(b), or c += op(a) op(b), or c = max(op(a) op(b), 0)^2; op(x) = x or its transpose
//
//   backward   without transposes   d_a = d_c b^T,   d_b = a^T d_c
//              with them the same products with sides swapped; never a transposed copy
//              of the square: d_c 2 sqrt(c) in place of d_c, as relu_squared has it; the product itself is not kept
//
//   op(a) [M,K]   op(b) [K,N]   c [M,N]   f32 f64, or a b bf16 and c bf16 or f32
//   The kernel takes each tensor as a matrix of rows of its last dimension: in the rule, a is [...,K] and
//   c [...,N], and the leading dimensions are the M rows.
//   Of bf16 operands the sums are f32; in the rule c and d_a are bf16, and d_b, a weight's gradient, is f32. A c that is
//   added to is rounded once, after the addition. The square equals relu_squared(matmul(a, b)); of bf16 it is taken of the
//   f32 sums or of the rounded product, whichever kernel multiplies.
#pragma once
#include <string>

#include "tensor/kernel.h"
#include "tensor/raise.h"

namespace taper::kernels {

// Who multiplies on a GPU: the rule's choice for the shape (matmul_backends prints the rule), or one by name. The CPU has
// one way. The levels are explained in cuda/levels/README.md.
enum class MatmulBy : uint8_t { rule, naive, shared_tiles, register_tiles, tensor_cores, pipelined, wgmma, cublaslt };
constexpr const char* name(MatmulBy by) {
  constexpr const char* names[] = {"rule",         "naive",     "shared_tiles", "register_tiles",
                                   "tensor_cores", "pipelined", "wgmma",        "cublaslt"};
  return names[size_t(by)];
}

struct Matmul {
  Tensor a = {}, b = {}, c = {};
  bool transpose_a = false, transpose_b = false;
  bool accumulate = false;    // c += instead of c =
  bool relu_squared = false;  // c = max(op(a) op(b), 0)^2; not with accumulate
  MatmulBy by = MatmulBy::rule;
  Device& device() const { return a.device(); }
};
struct MatmulQuery {  // can `by` multiply these? Alignment, dtype, device and libraries decide
  const Matmul* product = nullptr;
  bool* takes = nullptr;
  Device& device() const { return product->device(); }
};
struct MatmulBackends {  // which of them are there, and the rule: lines of text
  Device* on = nullptr;
  std::string* text = nullptr;
  Device& device() const { return *on; }
};

inline constinit Kernel<Matmul> matmul{"matmul"};
inline constinit Kernel<MatmulBackends> matmul_backends{"matmul.backends"};
inline constinit Kernel<MatmulQuery> matmul_query{"matmul.query"};

inline void check_matmul(const Matmul& m) {
  if (m.accumulate && m.relu_squared) raise("matmul: a square cannot be added to c; take relu_squared or accumulate");
}

inline bool matmul_takes(const Matmul& m) {
  bool takes = false;
  matmul_query({.product = &m, .takes = &takes});
  return takes;
}

}  // namespace taper::kernels
