// The log-sum-exp of a row, by one block in one pass: what cross_entropy and linear_cross_entropy share.
#pragma once
#include <cmath>

#include "cuda/vector.cuh"
#include "tensor/vector_math.h"

namespace taper::cuda {

template <class T>
__device__ Acc<T> exponential(Acc<T> x) {  // of a number <= 0; bf16 results do not see the last bits
  if constexpr (std::is_same_v<T, bf16>) return __expf(x);
  else return math::exp(x);
}

template <class A>
struct LogSum {  // of some of a row's numbers: sum exp(x) = sum * exp(most)
  A most, sum;
};

template <class T>
__device__ LogSum<Acc<T>> merged(LogSum<Acc<T>> a, LogSum<Acc<T>> b) {
  const Acc<T> most = a.most > b.most ? a.most : b.most;
  if (most == Acc<T>(-INFINITY)) return {most, a.sum + b.sum};  // neither saw anything
  return {most, a.sum * exponential<T>(a.most - most) + b.sum * exponential<T>(b.most - most)};
}

// log sum_v exp(g_row[v]) over `vectors` vectors, given to all threads of the block, each of which calls it. Their sums
// are merged by a tree over the thread numbers: one order.
template <int threads, class T, int n>
__device__ Acc<T> log_sum_exp(const Vector<T, n>* g_row, int64_t vectors) {
  using A = Acc<T>;
  LogSum<A> r{A(-INFINITY), A(0)};
  for (int64_t i = threadIdx.x; i < vectors; i += threads) {
    const Vector<T, n> v = g_row[i];
    A most = A(v.at[0]);
#pragma unroll
    for (int k = 1; k < n; ++k) most = A(v.at[k]) > most ? A(v.at[k]) : most;
    if (most > r.most) {
      r.sum *= exponential<T>(r.most - most);
      r.most = most;
    }
#pragma unroll
    for (int k = 0; k < n; ++k) r.sum += exponential<T>(A(v.at[k]) - r.most);
  }
  __shared__ LogSum<A> s_part[threads];
  __syncthreads();
  s_part[threadIdx.x] = r;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) s_part[threadIdx.x] = merged<T>(s_part[threadIdx.x], s_part[threadIdx.x + half]);
  }
  __syncthreads();
  return s_part[0].most + math::log(s_part[0].sum);
}

}  // namespace taper::cuda
