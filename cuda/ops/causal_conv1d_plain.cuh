// causal_conv1d, any W and D: a thread for each element. And what both ways share: the inputs and who sees them.
#pragma once
#include "tensor/ops/causal_conv1d.h"

#include "cuda/launch.cuh"
#include "cuda/sigmoid.cuh"

namespace taper::kernels {

template <class T>
__device__ Acc<T> silu_slope(Acc<T> x) {
  const Acc<T> s = cuda::sigmoid<T>(x);
  return s + x * s * (1 - s);
}

// The inputs of one call, and who sees what.
template <class T>
struct Inputs {
  using A = Acc<T>;
  int64_t B, steps, D, W;
  const T *g_x, *g_history;    // [B,T,D]; [B,W-1,D] or null
  const A *g_weight, *g_bias;  // [D,1,W]; [D] or null
  PackingView packing;
  bool with_silu;

  template <class Args>
  explicit Inputs(const Args& a)
      : B(a.x.size(0)),
        steps(a.x.size(1)),
        D(a.x.size(2)),
        W(a.weight.size(2)),
        g_x(a.x.template data<T>()),
        g_history(a.history ? a.history.template data<T>() : nullptr),
        g_weight(a.weight.template data<A>()),
        g_bias(a.bias ? a.bias.template data<A>() : nullptr),
        packing(a.packing, steps),
        with_silu(a.with_silu) {}

  // Does a position whose document starts at `start` see the input of time s (s < 0: the history)?
  __device__ bool sees(int64_t start, int64_t s) const { return s >= 0 ? s >= start : start == 0 && g_history; }
  __device__ const T* row(int64_t b, int64_t s) const {
    return s >= 0 ? g_x + (b * steps + s) * D : g_history + (b * (W - 1) + W - 1 + s) * D;
  }
  __device__ A pre(int64_t b, int64_t t, int64_t d) const {
    const int64_t start = packing.start_of(b, t);
    A sum = g_bias ? g_bias[d] : A(0);
    for (int64_t j = 0; j < W; ++j) {
      const int64_t s = t - W + 1 + j;
      if (sees(start, s)) sum += g_weight[d * W + j] * A(row(b, s)[d]);
    }
    return sum;
  }
};

template <class T>
__global__ void conv_forward_plain_kernel(const Inputs<T> in, T* g_y) {  // [B,T,D]
  const int64_t e = cuda::thread_index(), i = e / in.D, d = e % in.D;
  if (i >= in.B * in.steps) return;
  const Acc<T> pre = in.pre(i / in.steps, i % in.steps, d);
  g_y[e] = T(in.with_silu ? pre * cuda::sigmoid<T>(pre) : pre);
}

template <class T>
__global__ void conv_tail_kernel(const Inputs<T> in, T* g_tail) {  // [B,W-1,D]
  const int64_t e = cuda::thread_index(), i = e / in.D, d = e % in.D, b = i / (in.W - 1);
  if (b >= in.B) return;
  const int64_t s = in.steps - in.W + 1 + i % (in.W - 1);
  g_tail[e] = in.sees(in.packing.start_of(b, in.steps - 1), s) ? in.row(b, s)[d] : T(Acc<T>(0));
}

template <class T>
__global__ void conv_pre_backward_kernel(const Inputs<T> in, const T* g_d_y,  // [B,T,D] or null
                                         Acc<T>* g_d_pre) {                   // [B,T,D]
  const int64_t e = cuda::thread_index(), i = e / in.D, d = e % in.D;
  if (i >= in.B * in.steps) return;
  Acc<T> d_pre = g_d_y ? Acc<T>(g_d_y[e]) : Acc<T>(0);
  if (g_d_y && in.with_silu) d_pre *= silu_slope<T>(in.pre(i / in.steps, i % in.steps, d));
  g_d_pre[e] = d_pre;
}

// The gradient of the inputs of times [first, first + count) of each row of the batch.
template <class T>
__global__ void conv_input_backward_kernel(const Inputs<T> in, const Acc<T>* g_d_pre,  // [B,T,D]
                                           const T* g_d_tail,                          // [B,W-1,D] or null
                                           T* g_to,                                    // [B,count,D]
                                           int64_t first, int64_t count) {
  using A = Acc<T>;
  const int64_t e = cuda::thread_index(), i = e / in.D, d = e % in.D, b = i / count, s = first + i % count;
  if (b >= in.B) return;
  A sum = 0;
  for (int64_t t = max(s, int64_t(0)); t <= min(in.steps - 1, s + in.W - 1); ++t)
    if (in.sees(in.packing.start_of(b, t), s))
      sum += in.g_weight[d * in.W + s - t + in.W - 1] * g_d_pre[(b * in.steps + t) * in.D + d];
  const int64_t place = s - in.steps + in.W - 1;  // in the tail
  if (g_d_tail && place >= 0 && in.sees(in.packing.start_of(b, in.steps - 1), s))
    sum += A(g_d_tail[(b * (in.W - 1) + place) * in.D + d]);
  g_to[e] = T(sum);
}

template <class T>
struct ParameterTerm {  // of [W+1,D], at row b T + t
  Inputs<T> in;
  const Acc<T>* g_d_pre;  // [B,T,D]
  __device__ Acc<T> operator()(int64_t row, int64_t column) const {
    const int64_t j = column / in.D, d = column % in.D, b = row / in.steps, t = row % in.steps, s = t - in.W + 1 + j;
    if (j < in.W && !in.sees(in.packing.start_of(b, t), s)) return 0;
    return g_d_pre[row * in.D + d] * (j < in.W ? Acc<T>(in.row(b, s)[d]) : Acc<T>(1));
  }
};

}  // namespace taper::kernels
