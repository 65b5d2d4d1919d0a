// The log-sum-exp of a row, by one block in one pass: what cross_entropy and linear_cross_entropy share.
#pragma once
#include <cmath>
#include <limits>

#include "cuda/vector.cuh"
#include "tensor/vector_math.h"

namespace taper::cuda {

template <class T>
__device__ Acc<T> exponential(Acc<T> x) {  // of a number <= 0; bf16 results do not see the last bits
  if constexpr (std::is_same_v<T, bf16>) return __expf(x);
  else return math::exp(x);
}

// Of some of a row's numbers: sum exp(x) = sum * exp(most). Before the first, most is finite, so that no difference of two is
// NaN where a row begins with -infinity.
template <class A>
struct LogSum {
  A most = std::numeric_limits<A>::lowest(), sum = 0;
};

template <class T, int n>
__device__ void add(LogSum<Acc<T>>& r, const Vector<T, n>& v) {
  using A = Acc<T>;
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

template <class T>
__device__ LogSum<Acc<T>> merged(const LogSum<Acc<T>>& a, const LogSum<Acc<T>>& b) {
  const Acc<T> most = a.most > b.most ? a.most : b.most;
  return {most, a.sum * exponential<T>(a.most - most) + b.sum * exponential<T>(b.most - most)};
}

// log sum_v exp(g_row[v]) over `vectors` vectors, given to all threads of the block, each of which calls it. Their sums
// are merged by a tree over the thread numbers: one order. keep(i, vector) is called by the thread that read vector i.
template <int threads, class T, int n, class Keep>
__device__ Acc<T> log_sum_exp(const Vector<T, n>* g_row, int64_t vectors, Keep keep) {
  using A = Acc<T>;
  constexpr int ahead = 4;  // vectors of a thread in flight
  LogSum<A> r;
  int64_t i = threadIdx.x;
  for (; i + (ahead - 1) * threads < vectors; i += ahead * threads) {
    Vector<T, n> r_v[ahead];
#pragma unroll
    for (int u = 0; u < ahead; ++u) r_v[u] = g_row[i + u * threads];
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      keep(i + u * threads, r_v[u]);
      add(r, r_v[u]);
    }
  }
  for (; i < vectors; i += threads) {
    const Vector<T, n> r_v = g_row[i];
    keep(i, r_v);
    add(r, r_v);
  }

  __shared__ A s_most[threads], s_sum[threads];
  __syncthreads();  // a row before this one may still be read
  const int t = int(threadIdx.x);
  s_most[t] = r.most;
  s_sum[t] = r.sum;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t >= half) continue;
    const LogSum<A> both = merged<T>({s_most[t], s_sum[t]}, {s_most[t + half], s_sum[t + half]});
    s_most[t] = both.most;
    s_sum[t] = both.sum;
  }
  __syncthreads();
  return s_most[0] + math::log(s_sum[0]);
}
template <int threads, class T, int n>
__device__ Acc<T> log_sum_exp(const Vector<T, n>* g_row, int64_t vectors) {
  return log_sum_exp<threads>(g_row, vectors, [](int64_t, const Vector<T, n>&) {});
}

}  // namespace taper::cuda
