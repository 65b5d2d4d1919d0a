// What every pass of delta_scan on CUDA reads: the inputs as pointers, with their sizes.
#pragma once
#include <cuda_runtime.h>

#include "tensor/ops/delta_scan.h"

namespace taper::kernels::delta {

template <class T>
struct View {
  using A = Acc<T>;
  const T *q, *k, *v;
  const A *log_a, *beta, *initial;
  A scale;
  PackingView packing;
  int64_t B, steps, H, K, V, KV, chunk, chunks;

  View(const DeltaScanInputs& in, int64_t chunk)
      : q(in.q.data<T>()),
        k(in.k.data<T>()),
        v(in.v.data<T>()),
        log_a(in.log_a.data<A>()),
        beta(in.beta.data<A>()),
        initial(in.initial ? in.initial.data<A>() : nullptr),
        scale(A(in.scale)),
        packing(in.packing, in.q.size(1)),
        B(in.q.size(0)),
        steps(in.q.size(1)),
        H(in.q.size(2)),
        K(in.q.size(3)),
        V(in.v.size(3)),
        KV(K * V),
        chunk(chunk),
        chunks(chunk ? (steps + chunk - 1) / chunk : 0) {}

  __device__ int64_t head(int64_t n, int64_t t, int64_t h) const { return (n * steps + t) * H + h; }
};

}  // namespace taper::kernels::delta
