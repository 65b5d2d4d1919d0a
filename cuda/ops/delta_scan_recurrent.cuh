// delta_scan on CUDA, the recurrence: token by token, for any shape and dtype. The definition, and what a single token
// takes.
#pragma once
#include "cuda/ops/delta_scan_view.cuh"
#include "cuda/reduce.cuh"
#include "tensor/vector_math.h"

namespace taper::kernels::delta_plain {

using delta::View;

constexpr int threads = 256;

// One thread per column of the state, which runs in place in `final`.
template <class T>
__global__ void recurrent_forward_kernel(View<T> v,
                                         T* g_y,           // [B,T,H,V]
                                         Acc<T>* g_final)  // [B,H,K,V]
{
  using A = Acc<T>;
  const int64_t bh = blockIdx.x, n = bh / v.H, h = bh % v.H, p = int64_t(blockIdx.y) * threads + threadIdx.x;
  if (p >= v.V) return;
  A* S = g_final + bh * v.KV + p;
  for (int64_t i = 0; i < v.K; ++i) S[i * v.V] = v.initial ? v.initial[bh * v.KV + i * v.V + p] : A(0);
  for (int64_t t = 0; t < v.steps; ++t) {
    const int64_t at = v.head(n, t, h);
    const A decay = v.packing.resets(n, t) ? A(0) : math::exp(v.log_a[at]);
    const T *q = v.q + at * v.K, *k = v.k + at * v.K;
    A e = A(v.v[at * v.V + p]);
    for (int64_t i = 0; i < v.K; ++i) e -= A(k[i]) * (decay * S[i * v.V]);
    const A u = v.beta[at] * e;
    A y = 0;
    for (int64_t i = 0; i < v.K; ++i) {
      const A s = decay * S[i * v.V] + A(k[i]) * u;
      S[i * v.V] = s;
      y += A(q[i]) * s;
    }
    g_y[at * v.V + p] = T(v.scale * y);
  }
}

// One block per head: forward again, keeping every state and error, then back.
template <class T>
__global__ void recurrent_backward_kernel(View<T> v,
                                          const T* g_d_y,           // [B,T,H,V] or absent
                                          const Acc<T>* g_d_final,  // [B,H,K,V] or absent
                                          Acc<T>* g_states,         // [B,H,T+1,K,V]
                                          Acc<T>* g_errors,         // [B,H,T,V]
                                          Acc<T>* g_d_state,        // [B,H,K,V]
                                          Acc<T>* g_d_error,        // [B,H,V]
                                          T* g_d_q, T* g_d_k, T* g_d_v, Acc<T>* g_d_log_a, Acc<T>* g_d_beta) {
  using A = Acc<T>;
  const int64_t bh = blockIdx.x, n = bh / v.H, h = bh % v.H, V = v.V, KV = v.KV;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  A *states = g_states + bh * (v.steps + 1) * KV, *errors = g_errors + bh * v.steps * V;
  A *Z = g_d_state + bh * KV, *l = g_d_error + bh * V;

  for (int64_t p = threadIdx.x; p < V; p += threads) {
    for (int64_t i = 0; i < v.K; ++i) {
      states[i * V + p] = v.initial ? v.initial[bh * KV + i * V + p] : A(0);
      Z[i * V + p] = g_d_final ? g_d_final[bh * KV + i * V + p] : A(0);
    }
    for (int64_t t = 0; t < v.steps; ++t) {
      const int64_t at = v.head(n, t, h);
      const A decay = v.packing.resets(n, t) ? A(0) : math::exp(v.log_a[at]);
      const T* k = v.k + at * v.K;
      const A* before = states + t * KV + p;
      A e = A(v.v[at * V + p]);
      for (int64_t i = 0; i < v.K; ++i) e -= A(k[i]) * (decay * before[i * V]);
      errors[t * V + p] = e;
      for (int64_t i = 0; i < v.K; ++i)
        states[(t + 1) * KV + i * V + p] = decay * before[i * V] + A(k[i]) * v.beta[at] * e;
    }
  }

  for (int64_t t = v.steps - 1; t >= 0; --t) {
    const int64_t at = v.head(n, t, h);
    const A decay = v.packing.resets(n, t) ? A(0) : math::exp(v.log_a[at]), beta = v.beta[at];
    const T *q = v.q + at * v.K, *k = v.k + at * v.K;
    const A *before = states + t * KV, *after = before + KV, *e = errors + t * V;
    A d_beta = 0, d_decay = 0;
    __syncthreads();  // Z and l of the token after this one
    for (int64_t p = threadIdx.x; p < V; p += threads) {
      const A dy = g_d_y ? A(g_d_y[at * V + p]) : A(0);
      A w = 0;
      for (int64_t i = 0; i < v.K; ++i) {
        const A z = Z[i * V + p] + v.scale * A(q[i]) * dy;
        Z[i * V + p] = z;
        w += z * A(k[i]);
      }
      l[p] = beta * w;
      g_d_v[at * V + p] = T(beta * w);
      d_beta += w * e[p];
    }
    __syncthreads();
    for (int64_t i = warp; i < v.K; i += threads / 32) {  // a warp per row of the state
      A dq = 0, dk = 0;
      for (int64_t p = lane; p < V; p += 32) {
        const A s = decay * before[i * V + p], z = Z[i * V + p], rest = z - A(k[i]) * l[p];  // rest: d S'
        dq += after[i * V + p] * (g_d_y ? A(g_d_y[at * V + p]) : A(0));
        dk += z * beta * e[p] - s * l[p];
        d_decay += rest * s;
        Z[i * V + p] = decay * rest;
      }
      for (int half = 16; half > 0; half /= 2) {
        dq += __shfl_xor_sync(0xffffffffu, dq, half);
        dk += __shfl_xor_sync(0xffffffffu, dk, half);
      }
      if (lane == 0) {
        g_d_q[at * v.K + i] = T(v.scale * dq);
        g_d_k[at * v.K + i] = T(dk);
      }
    }
    d_beta = cuda::block_sum<threads>(d_beta);
    d_decay = cuda::block_sum<threads>(d_decay);
    if (threadIdx.x == 0) {
      g_d_beta[at] = d_beta;
      g_d_log_a[at] = d_decay;
    }
  }
}

}  // namespace taper::kernels::delta_plain
