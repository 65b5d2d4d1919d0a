// The emulator's own test: what it must compute, and the mistakes it must find. Prints what fails, exits 1.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda/launch.cuh"
#include "cuda/mma.cuh"
#include "tensor/dtype.h"
#include "tests/emulator/selftest.h"

using namespace selftest;

namespace {

// ---- Races. ----

template <bool barrier>
__global__ void neighbour_kernel(int* g_out) {
  __shared__ int s_x[96];
  const int t = threadIdx.x;
  s_x[t] = t;
  if (barrier) __syncthreads();
  g_out[t] = s_x[(t + 1) % 96];
}
template <bool barrier>
__global__ void warp_neighbour_kernel(int* g_out) {
  __shared__ int s_x[32];
  const int t = threadIdx.x;
  s_x[t] = t;
  if (barrier) __syncwarp();
  g_out[t] = s_x[t ^ 1];
}
// Warp 1 is done long before warp 0 looks, unless it is the slower one.
template <bool barrier>
__global__ void late_kernel(int* g_out) {
  __shared__ int s_x;
  const int warp = threadIdx.x / 32;
  for (int i = 0; i < (warp == 0 ? 8 : 2); ++i) __syncwarp();
  if (threadIdx.x == 32) s_x = 7;
  if (barrier) __syncthreads();
  if (threadIdx.x == 0) g_out[blockIdx.x] = s_x;
}
template <bool wait>
__global__ void copy_kernel(const float* g_x, float* g_out) {
  __shared__ alignas(16) float s_x[128];
  const int t = threadIdx.x;
  s_x[4 * t] = s_x[4 * t + 1] = s_x[4 * t + 2] = s_x[4 * t + 3] = -1;
  cuda::copy_async(s_x + 4 * t, g_x + 4 * t, t % 2 == 0);
  cuda::copy_async_commit();
  if (wait) cuda::copy_async_wait<0>();
  __syncthreads();
  for (int i = t; i < 128; i += 32) g_out[i] = s_x[127 - i];
}
__global__ void unwritten_kernel(float* g_out) {
  __shared__ float s_x[32];
  if (threadIdx.x != 5) s_x[threadIdx.x] = 1;
  __syncthreads();
  g_out[threadIdx.x] = s_x[threadIdx.x];
}

void races() {
  std::vector<int> right(96);
  for (int t = 0; t < 96; ++t) right[size_t(t)] = (t + 1) % 96;
  const auto neighbours = [&](auto kernel, int n) {
    return [=] {
      const Array<int> out(static_cast<size_t>(n));
      kernel<<<1, n>>>(out.data());
      return out.values();
    };
  };
  expect(depends_on_order(neighbours(neighbour_kernel<false>, 96)), "a missing __syncthreads is found");
  for (int order = 0; order < 3; ++order) expect(neighbours(neighbour_kernel<true>, 96)() == right, "__syncthreads");
  expect(depends_on_order(neighbours(warp_neighbour_kernel<false>, 32)), "a missing __syncwarp is found");
  expect(!depends_on_order(neighbours(warp_neighbour_kernel<true>, 32)), "__syncwarp");

  const auto late = [&](auto kernel) {
    return [=] {
      const Array<int> out(32);
      kernel<<<32, 64>>>(out.data());
      return out.values();
    };
  };
  expect(depends_on_order(late(late_kernel<false>)), "a warp that comes late is found");
  expect(!depends_on_order(late(late_kernel<true>)), "a warp that comes late is waited for");

  std::vector<float> x(128), copied(128);
  for (size_t i = 0; i < 128; ++i) x[i] = float(i);
  for (size_t i = 0; i < 128; ++i) copied[127 - i] = i / 4 % 2 == 0 ? x[i] : 0;
  const Array<float> g_x(x);
  const auto copies = [&](auto kernel) {
    return [&, kernel] {
      const Array<float> out(128);
      kernel<<<1, 32>>>(g_x.data(), out.data());
      return out.values();
    };
  };
  expect(depends_on_order(copies(copy_kernel<false>)), "a missing wait for cp.async is found");
  for (int order = 0; order < 3; ++order) expect(copies(copy_kernel<true>)() == copied, "cp.async");

  const Array<float> out(32);
  unwritten_kernel<<<3, 32>>>(out.data());
  for (size_t i = 0; i < 32; ++i) expect((out.values()[i] == 1) == (i != 5), "shared memory that nobody wrote is NaN");
}

// ---- Lanes. ----

__global__ void shuffle_kernel(int* g_out) {  // [10][64]
  const int t = threadIdx.x, lane = t % 32;
  int* g = g_out + t;
  g[0 * 64] = __shfl_sync(~0u, t, 7);
  g[1 * 64] = __shfl_sync(~0u, t, 3, 8);
  g[2 * 64] = __shfl_xor_sync(~0u, t, 5);
  g[3 * 64] = __shfl_up_sync(~0u, t, 3);
  g[4 * 64] = __shfl_down_sync(~0u, t, 3, 16);
  g[5 * 64] = int(__ballot_sync(~0u, lane % 3 == 0));
  g[6 * 64] = __reduce_add_sync(~0u, lane);
  const unsigned mine = lane < 16 ? 0xffffu : 0xffff0000u;  // halves meet apart
  g[7 * 64] = __shfl_xor_sync(mine, t, 1);
  g[8 * 64] = __all_sync(~0u, lane < 31) * 2 + __any_sync(~0u, lane == 31);
  double sum = lane;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  g[9 * 64] = int(sum);
}
__global__ void vote_kernel(int* g_out) {  // 100 threads, of which 70 stay
  if (threadIdx.x >= 70) return;
  const int t = threadIdx.x;
  g_out[3 * t] = __syncthreads_count(t % 2 == 0);
  g_out[3 * t + 1] = __syncthreads_and(t < 70) * 2 + __syncthreads_and(t < 69);
  g_out[3 * t + 2] = __syncthreads_or(t == 69) * 2 + __syncthreads_or(t == 70);
}

void lanes() {
  for (int order = 0; order < 3; ++order) {
    const Array<int> g_out(10 * 64);
    shuffle_kernel<<<1, 64>>>(g_out.data());
    const auto out = g_out.values();
    for (int t = 0; t < 64; ++t) {
      const int lane = t % 32, base = t - lane;
      const int right[] = {base + 7,
                           base + lane / 8 * 8 + 3,
                           base + (lane ^ 5),
                           lane < 3 ? t : t - 3,
                           lane % 16 + 3 > 15 ? t : t + 3,
                           0x49249249,
                           496,
                           t ^ 1,
                           1,
                           496};
      for (int i = 0; i < 10; ++i)
        expect(out[size_t(i * 64 + t)] == right[i], "shuffle " + std::to_string(i) + ", thread " + std::to_string(t));
    }
    const Array<int> g_votes(3 * 70);
    vote_kernel<<<1, 100>>>(g_votes.data());
    const auto votes = g_votes.values();
    for (size_t t = 0; t < 70; ++t)
      expect(votes[3 * t] == 35 && votes[3 * t + 1] == 2 && votes[3 * t + 2] == 2,
             "votes of a block that some have left");
  }
}

__device__ float two_to(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
__global__ void relay_kernel(float* g_out) {  // warp 0 makes what warp 1 takes, twice
  __shared__ float s_x[32];
  const int lane = threadIdx.x % 32;
  for (int turn = 0; turn < 2; ++turn) {
    if (threadIdx.x < 32) {
      if (turn > 0) asm volatile("bar.sync 2, 64;\n" ::: "memory");  // is free
      s_x[lane] = two_to(float(lane + turn));
      asm volatile("bar.arrive %0, %1;\n" ::"r"(1), "r"(64) : "memory");  // has come
    } else {
      asm volatile("bar.sync %0, %1;\n" ::"r"(1), "r"(64) : "memory");
      g_out[turn * 32 + lane] = s_x[31 - lane];
      if (turn == 0) asm volatile("bar.arrive 2, 64;\n" ::: "memory");
    }
  }
}

void instructions() {
  for (int order = 0; order < 3; ++order) {
    const Array<float> g_out(64);
    relay_kernel<<<1, 64>>>(g_out.data());
    const auto out = g_out.values();
    for (int i = 0; i < 64; ++i)
      expect(out[size_t(i)] == std::exp2(float(31 - i % 32 + i / 32)), "named barriers, ex2");
  }
}

// ---- Products. ----

__global__ void product_kernel(const bf16* g_a,   // [16,16]
                               const bf16* g_b,   // [16,8]
                               const bf16* g_bt,  // [8,16]
                               float* g_d) {      // [2][16,8]
  extern __shared__ __align__(16) unsigned char s_raw[];
  bf16* s_a = reinterpret_cast<bf16*>(s_raw);  // [16,16], [16,8], [8,16]
  bf16 *s_b = s_a + 256, *s_bt = s_b + 128;
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) s_a[i] = g_a[i];
  for (int i = lane; i < 128; i += 32) s_b[i] = g_b[i], s_bt[i] = g_bt[i];
  __syncwarp();
  uint32_t a[4], b[2], bt[2];
  cuda::ldmatrix_x4(a, s_a + lane % 16 * 16 + lane / 16 * 8);
  cuda::ldmatrix_x2_trans(b, s_b + lane % 16 * 8);
  cuda::ldmatrix_x2(bt, s_bt + lane % 8 * 16 + lane / 8 % 2 * 8);
  float d[2][4] = {};
  cuda::mma_bf16(d[0], a, b);
  cuda::mma_bf16(d[1], a, bt);
  const int g = lane / 4, q = lane % 4;
  for (int k = 0; k < 2; ++k)
    for (int i = 0; i < 4; ++i) g_d[k * 128 + (g + i / 2 * 8) * 8 + 2 * q + i % 2] = d[k][i];
}

void products() {
  std::vector<bf16> a(256), b(128), bt(128);
  for (size_t i = 0; i < 256; ++i) a[i] = bf16(float(int(i * 37 % 19) - 9));
  for (size_t i = 0; i < 128; ++i) b[i] = bf16(float(int(i * 53 % 23) - 11) / 4), bt[i % 8 * 16 + i / 8] = b[i];
  const Array<bf16> g_a(a), g_b(b), g_bt(bt);
  const Array<float> g_d(256);
  product_kernel<<<1, 32, 1024>>>(g_a.data(), g_b.data(), g_bt.data(), g_d.data());
  const auto d = g_d.values();
  for (size_t i = 0; i < 16; ++i)
    for (size_t j = 0; j < 8; ++j) {
      float sum = 0;
      for (size_t k = 0; k < 16; ++k) sum += float(a[i * 16 + k]) * float(b[k * 8 + j]);
      expect(d[i * 8 + j] == sum && d[128 + i * 8 + j] == sum, "product of a warp");
    }
}

// ---- Misuse. ----

__global__ void deadlock_kernel() {
  if (threadIdx.x < 40) __syncthreads();
  else __shfl_xor_sync(~0u, 1, 1);  // lanes 8 to 31 of warp 1; 0 to 7 never come
}
__global__ void apart_kernel(int* g_out) {
  if (threadIdx.x < 32) {
    __syncthreads();
    g_out[0] = 1;
  } else {
    __syncthreads();
    g_out[1] = 1;
  }
}
__global__ void different_kernel(int* g_out) {
  if (threadIdx.x < 16) {
    g_out[threadIdx.x] = __shfl_sync(~0u, 1, 0);
  } else {
    g_out[threadIdx.x] = __shfl_sync(~0u, 2, 0);
  }
}
__global__ void beyond_kernel(float* g_out) { g_out[threadIdx.x] = 1; }
__global__ void misaligned_kernel(float* g_out) {
  __shared__ alignas(16) unsigned char s_x[1024];
  uint32_t r[4];
  cuda::ldmatrix_x4(r, s_x + threadIdx.x * 16 + 8);
  g_out[threadIdx.x] = float(r[0]);
}
__global__ void __launch_bounds__(64, 2) bounded_kernel() {}
__global__ void dynamic_kernel(int* g_out) {
  extern __shared__ int s_x[];
  s_x[threadIdx.x] = g_out[threadIdx.x];
}
template <class T>
__global__ void deduced_kernel(T* g_out, T x) {
  g_out[0] = x;
}

void misuse() {
  const Array<int> out(64);
  const Array<float> small(31);
  expect_raised("a barrier that some never reach", "deadlock", [] { deadlock_kernel<<<1, 64>>>(); });
  expect_raised("two barriers", "different barriers", [&] { apart_kernel<<<1, 64>>>(out.data()); });
  expect_raised("two shuffles", "different calls", [&] { different_kernel<<<1, 32>>>(out.data()); });
  if (!__sanitizer_start_switch_fiber)  // the address sanitizer would end the test here
    expect_raised("a write behind a tensor", "just outside", [&] { beyond_kernel<<<1, 32>>>(small.data()); });
  expect_raised("ldmatrix", "not 16-byte aligned", [&] { misaligned_kernel<<<1, 32>>>(small.data()); });
  expect_raised("launch bounds", "__launch_bounds__", [] { bounded_kernel<<<1, 65>>>(); });
  expect_raised("an empty grid", "cudaErrorInvalidConfiguration", [] { bounded_kernel<<<0, 64>>>(); });
  expect_raised("much shared memory", "cudaErrorInvalidValue", [&] { dynamic_kernel<<<1, 32, 50000>>>(out.data()); });
  std::fflush(stdout);
  const pid_t child = __sanitizer_start_switch_fiber ? 0 : fork();
  if (child == 0 && !__sanitizer_start_switch_fiber) {
    close(2);
    float sum = 0;
    for (int i = 0; i < 1000; ++i) sum += small.values()[3] + small.data()[3];
    _exit(sum > 0 ? 2 : 3);
  }
  int status = 0x100;
  if (child > 0) waitpid(child, &status, 0);
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 1, "the host reads memory of the device");
  int host[64] = {};
  expect_raised("a pointer of the host", "no live memory", [&] { dynamic_kernel<<<1, 32, 128>>>(host); });
  cuda::cuda_check(cudaFuncSetAttribute(dynamic_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 50000));
  dynamic_kernel<<<1, 32, 50000>>>(out.data());
  cuda::cuda_check(cudaGetLastError());
  deduced_kernel<<<1, 1>>>(out.data(), 42);
  expect(out.values()[0] == 42, "a kernel whose template arguments are deduced");
}

}  // namespace

int main() {
  unsetenv("TAPER_EMULATOR_ORDER");
  try {
    races();
    lanes();
    instructions();
    products();
    misuse();
    hopper();
  } catch (const std::exception& e) {
    expect(false, e.what());
  }
  std::printf("%s\n", faults ? (std::to_string(faults) + " faults").c_str() : "the emulator holds");
  return faults != 0;
}
