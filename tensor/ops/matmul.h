// matmul: c = op(a) op(b), and what becomes of it before it is written; op(x) = x or its transpose
//
//   epilogue       c
//   none           op(a) op(b)
//   add            op(a) op(b) + with, a residual; or with = c: c += op(a) op(b)
//   relu_squared   max(op(a) op(b), 0)^2
//   silu_gate      silu(op(a) op(b)) * (op(a) op(with)), with a second b: one product of the columns [b | with]
//
//   backward   without transposes   d_a = d_c b^T,   d_b = a^T d_c
//              with them the same products with sides swapped; never a transposed copy
//              add            d_with = d_c
//              relu_squared   d_c 2 sqrt(c) in place of d_c, as relu_squared has it; the product itself is not kept
//              silu_gate      what swiglu makes of d_c and the two products, which are then kept
//
//   op(a) [M,K]   op(b) [K,N]   c [M,N]   f32 f64, or a b bf16 and c bf16 or f32
//   with: as c (add), as b (silu_gate)
//   The kernel takes each tensor as a matrix of rows of its last dimension: in the rule, a is [...,K] and
//   c [...,N], and the leading dimensions are the M rows.
//   Of bf16 operands the sums are f32; in the rule c and d_a are bf16, and d_b, a weight's gradient, is f32. What is added
//   is added before c is rounded, once. The square equals relu_squared(matmul(a, b)) and the gate swiglu(matmul(a, b),
//   matmul(a, with)); of bf16 they are taken of the f32 sums or of the rounded products, whichever kernel multiplies.
#pragma once
#include <string>

#include "tensor/kernel.h"
#include "tensor/ops/binary.h"
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

struct Epilogue {
  enum Kind : uint8_t { none, add, relu_squared, silu_gate } kind = none;
  Tensor with = {};
  Tensor gate = {}, up = {};  // silu_gate: op(a) op(b) and op(a) op(with), as c, where they are to be kept: both or neither
};
inline Epilogue add_to(const Tensor& r) {  // absent: nothing is added
  return r ? Epilogue{.kind = Epilogue::add, .with = r} : Epilogue{};
}
struct Matmul {
  Tensor a = {}, b = {}, c = {};
  bool transpose_a = false, transpose_b = false;
  Epilogue then = {};
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
  const Epilogue& e = m.then;
  auto wants = [](bool good, const char* what) {
    if (!good) raise(std::string("matmul: ") + what);
  };
  auto alike = [](const Tensor& x, const Tensor& y) { return x && x.shape() == y.shape() && x.dtype() == y.dtype(); };
  if (e.kind == Epilogue::none || e.kind == Epilogue::relu_squared) wants(!e.with, "only add and silu_gate take a further tensor");
  if (e.kind == Epilogue::add) wants(alike(e.with, m.c), "what is added must have the shape and dtype of c");
  if (e.kind == Epilogue::silu_gate) wants(alike(e.with, m.b), "the second factor of a silu gate must have the shape and dtype of b");
  if (e.kind != Epilogue::silu_gate) wants(!e.gate && !e.up, "only silu_gate keeps its products");
  else wants((!e.gate && !e.up) || (alike(e.gate, m.c) && alike(e.up, m.c)), "a silu gate keeps both of its products, as c, or neither");
}

// The gate by two products and a pass, where no kernel makes both at once.
inline void silu_gate_apart(const Matmul& m) {
  const Tensor gate = m.then.gate ? m.then.gate : empty_like(m.c), up = m.then.up ? m.then.up : empty_like(m.c);
  Matmul part = m;
  part.then = {};
  part.c = gate;
  matmul(part);
  part.b = m.then.with;
  part.c = up;
  matmul(part);
  binary_forward<scalar::SwiGlu>({.a = gate, .b = up, .y = m.c});
}

inline bool matmul_takes(const Matmul& m) {
  bool takes = false;
  matmul_query({.product = &m, .takes = &takes});
  return takes;
}

}  // namespace taper::kernels
