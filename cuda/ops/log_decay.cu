// log_decay on CUDA: a map forward; backward one kernel that also forms the blocks' parts of d_p, and their sum.
//   grid     forward numel/(512 n) blocks of 256. Backward per head: sums over rows, up to 528 blocks of 256; per channel: a
//            warp for a head of every so many tokens, 8 to a block, about 4000 warps
//   traffic  each input read once, each output written once: [8,2048,24] 1.6 MB a tensor, launch bound; [8,2048,4,96] 25 MB a
//            tensor: forward 50 MB, 17 us, backward 101 MB, 34 us
//            With alpha the taper is made in registers: a logarithm for each vector of heads, or each head, of a token; backward's in f64
//   limits   f32 f64, any shape; sums in f64, in one order; vectors where heads (without channels) or channels are multiples
//   ceiling  HBM where there are channels, else launches
#include "tensor/ops/log_decay.h"

#include "cuda/elementwise.cuh"
#include "cuda/rows.cuh"
#include "cuda/sums.cuh"

namespace taper::kernels {
namespace {

constexpr int warps = 8;

int64_t channels(const Tensor& log_a) { return log_a.rank() == 4 ? log_a.size(3) : 1; }

// Elements i .. i+n-1 of x, or element i n times if not `each`; ones where x is null.
template <int n, class T>
__device__ inline cuda::Vector<T, n> load_or_one(const T* g_x, int64_t i, bool each = true) {
  if (g_x && each) return cuda::load<n>(g_x + i);
  cuda::Vector<T, n> x;
#pragma unroll
  for (int k = 0; k < n; ++k) x.at[k] = g_x ? g_x[i] : T(1);
  return x;
}

template <class T>
struct Taper {
  const T *g_s, *g_alpha;  // [B,T,H], [H]; at most one is there, the other null
  PackingView packing;
  double reference;

  __device__ double ratio(int64_t row) const { return double(packing.position(row / packing.T, row % packing.T)) / reference; }
  // s of heads h .. h+n-1 of a token, or of head h n times if not `each`.
  template <int n>
  __device__ cuda::Vector<T, n> of(int64_t row, int64_t h, int64_t H, bool each = true) const {
    if (!g_alpha) return load_or_one<n>(g_s, row * H + h, each);
    auto x = load_or_one<n>(g_alpha, h, each);
    const T log_n = log(T(ratio(row)));
#pragma unroll
    for (int k = 0; k < n; ++k) x.at[k] = exp(-x.at[k] * log_n);
    return x;
  }
};

template <class T>
struct ForwardMap {
  const T *g_p, *g_dt;  // [H], [B,T,H,K]; dt null: 1
  Taper<T> taper;
  T* g_log_a;           // [B,T,H,K]
  int64_t H, K;         // n divides K, or, where K is 1, H

  template <int n>
  struct Read {
    cuda::Vector<T, n> p, dt, s;
  };
  template <int n>
  __device__ auto read(int64_t i) const {
    const bool heads = K == 1;
    const int64_t j = heads ? i : i / K;
    return Read<n>{load_or_one<n>(g_p, j % H, heads), load_or_one<n>(g_dt, i), taper.template of<n>(j / H, j % H, H, heads)};
  }
  template <int n, class R>
  __device__ void write(int64_t i, const R& r) const {
    T log_a[n], rate = 0;
#pragma unroll
    for (int k = 0; k < n; ++k) {
      if (k == 0 || K == 1) rate = -exp(r.p.at[k]);
      log_a[k] = rate * r.dt.at[k] * r.s.at[k];
    }
    cuda::store(g_log_a + i, log_a);
  }
};

// K = 1: a row is a token, a column a head.
template <class T>
struct HeadRows {
  const T *g_p, *g_dt, *g_log_a, *g_d_log_a;
  Taper<T> taper;
  T *g_d_dt, *g_d_s;  // null: not wanted
  int64_t H;

  template <int n>
  __device__ void add(int64_t row, int64_t h, double (&sum)[2][n]) const {  // of d_p, of d_alpha
    const int64_t i = row * H + h;
    const auto p = cuda::load<n>(g_p + h), dt = load_or_one<n>(g_dt, i), s = taper.template of<n>(row, h, H);
    const auto log_a = cuda::load<n>(g_log_a + i), d = cuda::load<n>(g_d_log_a + i);
    const double log_n = taper.g_alpha ? log(taper.ratio(row)) : 0.0;
    T d_dt[n], d_s[n];
#pragma unroll
    for (int k = 0; k < n; ++k) {
      const T rate = -exp(p.at[k]);
      const double term = double(log_a.at[k]) * double(d.at[k]);
      sum[0][k] += term;
      sum[1][k] -= log_n * term;
      d_dt[k] = rate * s.at[k] * d.at[k];
      d_s[k] = rate * dt.at[k] * d.at[k];
    }
    if (g_d_dt) cuda::store(g_d_dt + i, d_dt);
    if (g_d_s) cuda::store(g_d_s + i, d_s);
  }
};

template <class T, int n>
__global__ __launch_bounds__(warps * 32) void log_decay_channels_kernel(const T* g_p, const T* g_dt, Taper<T> taper,
                                                                        const T* g_log_a, const T* g_d_log_a, T* g_d_dt, T* g_d_s,
                                                                        double* g_part,  // [parts,2,H]: of d_p, of d_alpha
                                                                        int64_t rows, int64_t H, int64_t K, int64_t parts) {
  const int64_t warp = int64_t(blockIdx.x) * warps + threadIdx.x / 32, h = warp % H, part = warp / H;
  const int lane = int(threadIdx.x) % 32;
  if (part >= parts) return;  // the whole warp
  const T rate = -exp(g_p[h]);
  double r_rate = 0, r_alpha = 0;
  for (int64_t row = part; row < rows; row += parts) {
    const int64_t j = row * H + h;
    const T factor = rate * taper.template of<1>(row, h, H).at[0];
    double r_taper = 0, r_row = 0;
    for (int64_t c = int64_t(lane) * n; c < K; c += 32 * n) {
      const int64_t i = j * K + c;
      const auto dt = cuda::load<n>(g_dt + i), log_a = cuda::load<n>(g_log_a + i), d = cuda::load<n>(g_d_log_a + i);
      T d_dt[n];
#pragma unroll
      for (int k = 0; k < n; ++k) {
        r_row += double(log_a.at[k]) * double(d.at[k]);
        r_taper += double(dt.at[k]) * double(d.at[k]);
        d_dt[k] = factor * d.at[k];
      }
      cuda::store(g_d_dt + i, d_dt);
    }
    r_rate += r_row;
    if (taper.g_alpha) r_alpha -= log(taper.ratio(row)) * r_row;
    if (!g_d_s) continue;
    r_taper = cuda::warp_sum(r_taper);
    if (lane == 0) g_d_s[j] = T(double(rate) * r_taper);
  }
  r_rate = cuda::warp_sum(r_rate);
  r_alpha = cuda::warp_sum(r_alpha);
  if (lane > 0) return;
  g_part[part * 2 * H + h] = r_rate;
  g_part[part * 2 * H + H + h] = r_alpha;
}

template <class T, class Args>
Taper<T> taper_of(const Args& a) {
  return {cuda::data_or_null<T>(a.s), cuda::data_or_null<T>(a.alpha), PackingView(a.packing, a.log_a.size(1)), a.reference};
}

void forward(const LogDecayForward& a) {
  visit<float, double>("log_decay", a.p.dtype(), [&]<class T>() {
    constexpr int n = cuda::vector_width<T>;
    const int64_t H = a.p.numel(), K = channels(a.log_a);
    const ForwardMap<T> map{a.p.data<T>(), cuda::data_or_null<T>(a.dt), taper_of<T>(a), a.log_a.data<T>(), H, K};
    const bool vectors = K == 1 ? cuda::vector_fits<T>(n, H, {map.g_p, map.g_dt, map.taper.g_s, map.taper.g_alpha, map.g_log_a})
                                : cuda::vector_fits<T>(n, K, {map.g_dt, map.g_log_a});
    cuda::run_map<n>(a.device(), a.log_a.numel(), vectors, map);
  });
}

void backward(const LogDecayBackward& a) {
  visit<float, double>("log_decay", a.p.dtype(), [&]<class T>() {
    constexpr int n = cuda::vector_width<T>;
    const int64_t H = a.p.numel(), K = channels(a.log_a), rows = a.log_a.size(0) * a.log_a.size(1);
    if (H == 0) return;
    const HeadRows<T> heads{a.p.data<T>(), cuda::data_or_null<T>(a.dt),   a.log_a.data<T>(),             a.d_log_a.data<T>(),
                            taper_of<T>(a), cuda::data_or_null<T>(a.d_dt), cuda::data_or_null<T>(a.d_s), H};
    const auto finish = [&](const Tensor& partials) {
      cuda::add_partials<double>(partials, cuda::ToTwo<T>{a.d_p.data<T>(), cuda::data_or_null<T>(a.d_alpha), H});
    };
    if (K == 1) {
      const bool vectors = cuda::vector_fits<T>(
          n, H, {heads.g_p, heads.g_dt, heads.taper.g_s, heads.taper.g_alpha, heads.g_log_a, heads.g_d_log_a, heads.g_d_dt, heads.g_d_s});
      return finish(vectors ? cuda::column_partials<2, n>(a.device(), rows, H, heads) : cuda::column_partials<2, 1>(a.device(), rows, H, heads));
    }
    const int64_t parts = std::clamp<int64_t>(4096 / H, 1, std::max<int64_t>(1, rows));
    const Tensor partials(a.device(), {parts, 2 * H}, Dtype::f64);
    const auto launch = [&]<int width>() {
      log_decay_channels_kernel<T, width><<<cuda::blocks_for(parts * H, warps), warps * 32, 0, cuda::stream_of(a.device())>>>(
          heads.g_p, heads.g_dt, heads.taper, heads.g_log_a, heads.g_d_log_a, heads.g_d_dt, heads.g_d_s, partials.data<double>(), rows,
          H, K, parts);
      cuda::cuda_check(cudaGetLastError());
    };
    if (cuda::vector_fits<T>(n, K, {heads.g_dt, heads.g_log_a, heads.g_d_log_a, heads.g_d_dt})) launch.template operator()<n>();
    else launch.template operator()<1>();
    finish(partials);
  });
}

const Implement f{log_decay_forward, DeviceKind::cuda, forward};
const Implement b{log_decay_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
