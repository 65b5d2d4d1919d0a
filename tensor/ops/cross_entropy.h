// cross_entropy: nll[i] = log sum_v exp(logits[i,v]) - logits[i, labels[i]], and 0 where labels[i] = -100
//
//   forward    the row's maximum is taken off before exp; the row's log-sum-exp is saved
//   backward   d_logits[i,v] = (exp(logits[i,v] - lse[i]) - [v = labels[i]]) * d_nll[i]; ignored rows: 0
//
//   d_logits may be logits itself.
//
//   logits [...,V]   labels [...] i32   nll [...]   lse [rows]   f32 f64; on a GPU also bf16 logits, with f32 nll and lse
//   Error: a label outside [0,V) that is not -100 (65), naming its position. A GPU does not wait to look: there such a
//   row's nll and gradient are NaN, which the guard of the step sees.
#pragma once
#include "tensor/kernel.h"

namespace taper::kernels {

constexpr int32_t ignored_label = -100;

struct CrossEntropyForward {
  Tensor logits = {}, labels = {}, nll = {}, lse = {};
  Device& device() const { return logits.device(); }
};
struct CrossEntropyBackward {
  Tensor logits = {}, labels = {}, lse = {}, d_nll = {}, d_logits = {};
  Device& device() const { return logits.device(); }
};

inline constinit Kernel<CrossEntropyForward> cross_entropy_forward{"cross_entropy.forward"};
inline constinit Kernel<CrossEntropyBackward> cross_entropy_backward{"cross_entropy.backward"};

}  // namespace taper::kernels
