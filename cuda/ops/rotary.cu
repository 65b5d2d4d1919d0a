// rotary on CUDA: a thread makes the angles of some pairs of a token once and turns these pairs in every head.
//   grid     B * T * K/2 threads over the pairs of a vector, in blocks of 256
//   traffic  x read once, y written once: [8,2048,3,256] in bf16: 50 MB
//   limits   f32 f64 bf16; any even K; 16-byte vectors where K/2 and the pointers allow, else single pairs
//   ceiling  HBM bandwidth: 17 us for that shape at 3 TB/s; the angles, in f64 up to the quarter turn, are 1 us of it
#include "tensor/ops/rotary.h"

#include <cmath>

#include "cuda/launch.cuh"
#include "cuda/pack.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256;

// base^(-2n/K), made on the host as on the CPU.
constexpr int most_rates = 256;
struct Rates {
  double at[most_rates];
};

__device__ void sine_cosine(double angle, double& s, double& c) { sincos(angle, &s, &c); }
// The whole quarter turns go in f64: what is left is small, and f32 is exact enough for it.
__device__ void sine_cosine(double angle, float& s, float& c) {
  constexpr double shift = 0x1.8p52;  // leaves no bits for a fraction: the sum is rounded, and its low bits count
  const double quarters = angle * 0x1.45f306dc9c883p-1, shifted = quarters + shift;
  const int count = __double2loint(shifted);
  float s_rest, c_rest;
  sincospif(float(quarters - (shifted - shift)) * 0.5f, &s_rest, &c_rest);
  s = count & 1 ? c_rest : s_rest;
  c = count & 1 ? s_rest : c_rest;
  if (count & 2) s = -s;
  if ((count + 1) & 2) c = -c;
}

// Pairs [n, n + width) of one token, at x and x + half.
template <class T, int width>
struct Pairs {
  using A = Acc<T>;
  using V = cuda::Packed<T, width>;
  A s[width], c[width];

  __device__ void turn_heads(const T* g_x, T* g_y, int64_t H, int64_t K) const {
    V next_low = cuda::load_packed<T, width>(g_x), next_high = cuda::load_packed<T, width>(g_x + K / 2);
    for (int64_t h = 0; h < H; ++h) {
      A low[width], high[width], y_low[width], y_high[width];
      cuda::unpack<T>(next_low, low);
      cuda::unpack<T>(next_high, high);
      if (h + 1 < H) {
        next_low = cuda::load_packed<T, width>(g_x + (h + 1) * K);
        next_high = cuda::load_packed<T, width>(g_x + (h + 1) * K + K / 2);
      }
#pragma unroll
      for (int k = 0; k < width; ++k) {
        y_low[k] = low[k] * c[k] - high[k] * s[k];
        y_high[k] = low[k] * s[k] + high[k] * c[k];
      }
      cuda::store_packed<T, width>(g_y + h * K, cuda::pack<T>(y_low));
      cuda::store_packed<T, width>(g_y + h * K + K / 2, cuda::pack<T>(y_high));
    }
  }
};

template <class T, int width>
__global__ void __launch_bounds__(threads) rotary_kernel(const T* g_x, T* g_y,  // [B,T,H,K]
                                                         const __grid_constant__ Rates rates,
                                                         PackingView packing,  // [B,T]
                                                         int64_t tokens, int64_t H, int64_t K, bool back) {
  __shared__ double s_rate[most_rates];
  for (int n = int(threadIdx.x); n < int(K / 2); n += threads) s_rate[n] = rates.at[n];
  __syncthreads();
  const int64_t columns = K / 2 / width, i = cuda::thread_index() / columns, n = cuda::thread_index() % columns * width;
  if (i >= tokens) return;
  const double position = double(packing.position(i / packing.T, i % packing.T) - 1);
  Pairs<T, width> p;
#pragma unroll
  for (int k = 0; k < width; ++k) {
    sine_cosine(position * s_rate[n + k], p.s[k], p.c[k]);
    if (back) p.s[k] = -p.s[k];
  }
  p.turn_heads(g_x + i * H * K + n, g_y + i * H * K + n, H, K);
}

// Any K: a thread for each pair of a token.
template <class T>
__global__ void rotary_plain_kernel(const T* g_x, T* g_y,  // [B,T,H,K]
                                    PackingView packing,   // [B,T]
                                    double base, int64_t tokens, int64_t H, int64_t K, bool back) {
  const int64_t i = cuda::thread_index() / (K / 2), n = cuda::thread_index() % (K / 2);
  if (i >= tokens) return;
  const double position = double(packing.position(i / packing.T, i % packing.T) - 1);
  Pairs<T, 1> p;
  sine_cosine(position * pow(base, -2.0 * double(n) / double(K)), p.s[0], p.c[0]);
  if (back) p.s[0] = -p.s[0];
  p.turn_heads(g_x + i * H * K + n, g_y + i * H * K + n, H, K);
}

void turn(const Rotary& a) {
  visit<float, double, bf16>("rotary", a.x.dtype(), [&]<class T>() {
    const int64_t tokens = a.x.size(0) * a.x.size(1), H = a.x.size(2), K = a.x.size(3), half = K / 2;
    if (a.x.numel() == 0) return;
    const cudaStream_t stream = cuda::stream_of(a.device());
    const PackingView packing(a.packing, a.x.size(1));
    const T* x = a.x.data<T>();
    T* y = a.y.data<T>();
    constexpr int width = 16 / sizeof(T);
    if (half <= most_rates && cuda::vector_fits<T>(width, half, {x, y})) {
      Rates rates{};
      for (int64_t n = 0; n < half; ++n) rates.at[n] = std::pow(a.base, -2.0 * double(n) / double(K));
      rotary_kernel<T, width><<<cuda::blocks_for(tokens * (half / width), threads), threads, 0, stream>>>(
          x, y, rates, packing, tokens, H, K, a.back);
    } else {
      rotary_plain_kernel<T><<<cuda::blocks_for(tokens * half, threads), threads, 0, stream>>>(x, y, packing, a.base,
                                                                                               tokens, H, K, a.back);
    }
    cuda::cuda_check(cudaGetLastError());
  });
}

const Implement t{rotary_turn, DeviceKind::cuda, turn};

}  // namespace
}  // namespace taper::kernels
