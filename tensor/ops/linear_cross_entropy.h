// linear_cross_entropy: the loss of a language model's head, without the logits of all rows at once
//
//   forward    logits_i = weight x_i;  nll_i = cross_entropy(logits_i, labels[i]);  loss = factor * sum_i nll_i
//   backward   for d_loss = 1, G_i = factor * (softmax(logits_i) - onehot(labels[i])), 0 where labels[i] = -100:
//              d_x = G weight,  d_weight = G^T x;   linear_cross_entropy_scale multiplies both by d_loss
//
//   x [...,D]   weight [V,D]   labels, nll [...]   loss []   f32 f64 bf16; labels i32; factor [] f64, absent: 1; of bf16 operands nll, loss and
//   d_weight are f32. An absent d_x and d_weight are not computed; both or neither.
//   block [R,C], the dtype of x, with C = linear_cross_entropy_columns: room for the logits of R rows at once; what it holds
//   afterwards means nothing.
//   Equals scale(sum(cross_entropy(matmul(x, weight^T), labels)), factor). The gradients are made in the forward pass, a
//   block of rows at a time: the block's logits are at hand then, and forming them again would cost a third product.
//   Errors as in cross_entropy.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct LinearCrossEntropy {
  Tensor x = {}, weight = {}, labels = {}, block = {}, nll = {}, loss = {};
  Tensor factor = {};
  Tensor d_x = {}, d_weight = {};
  Device& device() const { return x.device(); }
};
struct LinearCrossEntropyScale {  // in place; nothing is touched where d_loss is 1
  Tensor d_loss = {}, d_x = {}, d_weight = {};
  Device& device() const { return d_loss.device(); }
};

inline constinit Kernel<LinearCrossEntropy> linear_cross_entropy{"linear_cross_entropy.forward"};
inline constinit Kernel<LinearCrossEntropyScale> linear_cross_entropy_scale{"linear_cross_entropy.backward"};

// R: 2^28 elements, half a GiB in bf16; a multiple of 128 where there are so many.
inline int64_t linear_cross_entropy_rows(int64_t rows, int64_t V) {
  const int64_t most = (int64_t(1) << 28) / (V > 0 ? V : 1);
  return most >= rows ? rows : most >= 128 ? most / 128 * 128 : most > 0 ? most : 1;
}

// C: V, or a few more, so that a row is whole 16 bytes.
inline int64_t linear_cross_entropy_columns(int64_t V, Dtype t) {
  const int64_t whole = 16 / int64_t(size_of(t));
  return (V + whole - 1) / whole * whole;
}

}  // namespace taper::kernels
