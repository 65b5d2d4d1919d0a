// Running sums over the threads of a block: in one order, without atomics.
#pragma once
#include <cuda_runtime.h>

namespace taper::cuda {

struct Running {
  double before, total;  // the sum of the threads at lower places; of all
};

// `place`: this thread's, each of 0 .. threads-1 once; reversed places give sums from the end. All threads call it.
template <int threads>
__device__ inline Running running_sum(double x, int place) {
  __shared__ double s_sum[threads];
  __syncthreads();  // sums before these may still be read
  s_sum[place] = x;
  for (int step = 1; step < threads; step *= 2) {
    __syncthreads();
    const double left = place >= step ? s_sum[place - step] : 0;
    __syncthreads();
    s_sum[place] += left;
  }
  __syncthreads();
  return {place > 0 ? s_sum[place - 1] : 0, s_sum[threads - 1]};
}

// The stretch of 0 .. n-1 that falls to a place: neighbours in n are neighbours of one thread.
struct Stretch {
  int64_t begin, end;
};
template <int threads>
__device__ inline Stretch stretch_of(int64_t n, int place) {
  const int64_t each = (n + threads - 1) / threads;
  return {min(n, place * each), min(n, (place + 1) * each)};
}

}  // namespace taper::cuda
