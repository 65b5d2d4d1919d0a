// embedding: y[i,:] = table[ids[i],:]
//
//   backward   d_table[v,:] = sum of d_y[i,:] over the i with ids[i] = v, by rising i; 0 where none is
//
//   table [V,D]   ids [...] i32   y [...,D]   f32 f64 bf16
//   Error: an id outside [0,V) (65), naming its position. A GPU does not wait to look: there such a row is NaN.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

struct EmbeddingForward {
  Tensor table = {}, ids = {}, y = {};
  Device& device() const { return table.device(); }
};
struct EmbeddingBackward {
  Tensor ids = {}, d_y = {}, d_table = {};
  Device& device() const { return ids.device(); }
};

inline constinit Kernel<EmbeddingForward> embedding_forward{"embedding.forward"};
inline constinit Kernel<EmbeddingBackward> embedding_backward{"embedding.backward"};

}  // namespace taper::kernels
