// embedding on CUDA: rows copied by token; backward sorts the positions by token and adds up each token's rows.
//   plan     backward: a radix sort of the ids, 9 bits a pass (three kernels each, stable, no atomics); the table's zeros; a
//            block per 32 sorted positions adds up the rows of each token it sees whole and keeps the parts of the two that
//            may go on beyond its ends; a last kernel adds such parts up, in order
//   grid     forward a block of 256 per 256 vectors; sums ceil(n/32) blocks of 128, columns in turn; sort ceil(n/2048) of 256
//   traffic  forward reads n rows, writes n rows: 16384 x 768 in f32 101 MB, 34 us. Backward reads n rows and writes the table:
//            50 MB + 394 MB (V = 128256), 148 us, of them 131 the zeros
//   limits   f32 f64 bf16; V, and backward the ids, below 2^31 - 1; an id outside [0,V) writes NaN and adds to no gradient
//   ceiling  HBM, and some 15 us of the sort's small kernels
#include "tensor/ops/embedding.h"

#include <algorithm>
#include <bit>

#include "cuda/elementwise.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256;

template <class T, int n>
__global__ __launch_bounds__(threads) void embedding_forward_kernel(const T* g_table,      // [V,D]
                                                                    const int32_t* g_ids,  // [rows]
                                                                    T* g_y,                // [rows,D]
                                                                    int64_t V, int64_t vectors, int64_t numel) {
  const int64_t i = cuda::thread_index();
  if (i >= numel) return;
  const int64_t row = i / vectors, j = (i - row * vectors) * n, id = g_ids[row];
  cuda::Vector<T, n> r_v;
  if (0 <= id && id < V) {
    r_v = cuda::load<n>(g_table + id * vectors * n + j);
  } else {
#pragma unroll
    for (int k = 0; k < n; ++k) r_v.at[k] = T(Acc<T>(NAN));
  }
  *reinterpret_cast<cuda::Vector<T, n>*>(g_y + i * n) = r_v;
}

void forward(const EmbeddingForward& a) {
  visit<float, double, bf16>("embedding", a.table.dtype(), [&]<class T>() {
    if (a.y.numel() == 0) return;
    const int64_t V = a.table.size(0), D = a.table.size(1);
    const auto launch = [&]<int n>() {
      const int64_t numel = a.y.numel() / n;
      embedding_forward_kernel<T, n><<<cuda::blocks_for(numel, threads), threads, 0, cuda::stream_of(a.device())>>>(
          a.table.data<T>(), a.ids.data<int32_t>(), a.y.data<T>(), V, D / n, numel);
      cuda::cuda_check(cudaGetLastError());
    };
    constexpr int n = cuda::vector_width<T>;
    if (cuda::vector_fits<T>(n, D, {a.table.data<T>(), a.y.data<T>()})) launch.template operator()<n>();
    else launch.template operator()<1>();
  });
}

// --- Sort: (token, position) pairs by token, equal tokens by position. One digit of the token a pass, lowest first.
constexpr int digit_bits = 9, digits = 1 << digit_bits, sort_threads = 256, sort_warps = sort_threads / 32, sort_each = 8;
constexpr int sort_tile = sort_threads * sort_each;

// The token at i: an id outside [0,V) counts as V, so that it comes last. Before the first pass there are only ids.
struct Pairs {
  const int32_t* g_token;     // [n]
  const int32_t* g_position;  // [n]; null: i itself
  int64_t n, V;

  __device__ int32_t token(int64_t i) const {
    const int32_t id = g_token[i];
    return 0 <= id && id < V ? id : int32_t(V);
  }
  __device__ int32_t position(int64_t i) const { return g_position ? g_position[i] : int32_t(i); }
};

// For each of the thread's elements of the tile, how many before it in the part of its warp have its digit. Leaves each
// warp's count of each digit in s_count. Warp w has elements 256 w to 256 w + 255 of the tile, 32 at a time.
__device__ inline void rank_in_warp(const Pairs& pairs, int shift, int (&s_count)[sort_warps][digits], int32_t (&r_token)[sort_each],
                                    int (&r_rank)[sort_each]) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  for (int e = int(threadIdx.x); e < sort_warps * digits; e += sort_threads) s_count[e / digits][e % digits] = 0;
  __syncthreads();
#pragma unroll
  for (int k = 0; k < sort_each; ++k) {
    const int64_t i = int64_t(blockIdx.x) * sort_tile + (warp * sort_each + k) * 32 + lane;
    const bool inside = i < pairs.n;
    r_token[k] = inside ? pairs.token(i) : 0;
    const int digit = r_token[k] >> shift & (digits - 1);
    unsigned same = __ballot_sync(0xffffffffu, inside);  // lanes with my digit
#pragma unroll
    for (int bit = 0; bit < digit_bits; ++bit) {
      const unsigned set = __ballot_sync(0xffffffffu, digit >> bit & 1);
      same &= digit >> bit & 1 ? set : ~set;
    }
    const unsigned before = same & ((1u << lane) - 1);
    r_rank[k] = s_count[warp][digit] + __popc(before);
    __syncwarp();
    if (inside && before == 0) s_count[warp][digit] += __popc(same);
    __syncwarp();
  }
  __syncthreads();
}

__global__ __launch_bounds__(sort_threads) void sort_count_kernel(Pairs pairs, int shift, int32_t* g_count) {  // [digits,tiles]
  __shared__ int s_count[sort_warps][digits];
  int32_t r_token[sort_each];
  int r_rank[sort_each];
  rank_in_warp(pairs, shift, s_count, r_token, r_rank);
  for (int d = int(threadIdx.x); d < digits; d += sort_threads) {
    int sum = 0;
    for (int w = 0; w < sort_warps; ++w) sum += s_count[w][d];
    g_count[int64_t(d) * gridDim.x + blockIdx.x] = sum;
  }
}

// Each number becomes the sum of those before it. One block.
constexpr int scan_threads = 1024;
__global__ __launch_bounds__(scan_threads) void sort_scan_kernel(int32_t* g_count, int64_t numel) {
  __shared__ int s_sum[scan_threads];
  const int t = int(threadIdx.x);
  const int64_t each = (numel + scan_threads - 1) / scan_threads, begin = min(numel, t * each), end = min(numel, begin + each);
  int mine = 0;
  for (int64_t i = begin; i < end; ++i) mine += g_count[i];
  s_sum[t] = mine;
  for (int step = 1; step < scan_threads; step *= 2) {
    __syncthreads();
    const int left = t >= step ? s_sum[t - step] : 0;
    __syncthreads();
    s_sum[t] += left;
  }
  int sum = s_sum[t] - mine;
  for (int64_t i = begin; i < end; ++i) {
    const int own = g_count[i];
    g_count[i] = sum;
    sum += own;
  }
}

__global__ __launch_bounds__(sort_threads) void sort_scatter_kernel(Pairs pairs, int shift, const int32_t* g_first,  // [digits,tiles]
                                                                    int32_t* g_token, int32_t* g_position) {         // [n]
  __shared__ int s_count[sort_warps][digits];
  int32_t r_token[sort_each];
  int r_rank[sort_each];
  rank_in_warp(pairs, shift, s_count, r_token, r_rank);
  for (int d = int(threadIdx.x); d < digits; d += sort_threads) {  // where each warp's first of this digit goes
    int sum = g_first[int64_t(d) * gridDim.x + blockIdx.x];
    for (int w = 0; w < sort_warps; ++w) {
      const int own = s_count[w][d];
      s_count[w][d] = sum;
      sum += own;
    }
  }
  __syncthreads();
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int k = 0; k < sort_each; ++k) {
    const int64_t i = int64_t(blockIdx.x) * sort_tile + (warp * sort_each + k) * 32 + lane;
    if (i >= pairs.n) continue;
    const int at = s_count[warp][r_token[k] >> shift & (digits - 1)] + r_rank[k];
    g_token[at] = r_token[k];
    g_position[at] = pairs.position(i);
  }
}

struct Sorted {
  Tensor token, position;  // [n] i32
};

Sorted sorted_by_token(const Tensor& ids, int64_t V) {
  Device& device = ids.device();
  const cudaStream_t stream = cuda::stream_of(device);
  const int64_t n = ids.numel();
  const unsigned tiles = cuda::blocks_for(n, sort_tile);
  const Tensor count(device, {digits, int64_t(tiles)}, Dtype::i32);
  Sorted now{ids, {}};
  for (int shift = 0; shift < int(std::bit_width(uint64_t(V))) || shift == 0; shift += digit_bits) {
    const Pairs pairs{now.token.data<int32_t>(), cuda::data_or_null<int32_t>(now.position), n, V};
    const Sorted next{Tensor(device, {n}, Dtype::i32), Tensor(device, {n}, Dtype::i32)};
    sort_count_kernel<<<tiles, sort_threads, 0, stream>>>(pairs, shift, count.data<int32_t>());
    cuda::cuda_check(cudaGetLastError());
    sort_scan_kernel<<<1, scan_threads, 0, stream>>>(count.data<int32_t>(), count.numel());
    cuda::cuda_check(cudaGetLastError());
    sort_scatter_kernel<<<tiles, sort_threads, 0, stream>>>(pairs, shift, count.data<int32_t>(), next.token.data<int32_t>(),
                                                            next.position.data<int32_t>());
    cuda::cuda_check(cudaGetLastError());
    now = next;
  }
  return now;
}

// --- Sums: runs of equal tokens in the sorted order, cut at multiples of 32.
constexpr int run_tile = 32, run_threads = 128;

template <class T, int n>
__global__ __launch_bounds__(run_threads) void run_sums_kernel(const int32_t* g_token,     // [rows], sorted
                                                               const int32_t* g_position,  // [rows]
                                                               const T* g_d_y,             // [rows,D]
                                                               T* g_d_table,               // [V,D]
                                                               Acc<T>* g_part,             // [tiles,2,D]: first run, last run
                                                               int64_t rows, int64_t V, int64_t D) {
  __shared__ int32_t s_token[run_tile + 2], s_position[run_tile];  // tokens from one before the tile to one behind it
  const int64_t begin = int64_t(blockIdx.x) * run_tile;
  const int count = int(min(int64_t(run_tile), rows - begin));
  for (int e = int(threadIdx.x); e < count + 2; e += run_threads) {
    const int64_t i = begin + e - 1;
    s_token[e] = 0 <= i && i < rows ? g_token[i] : -1;
  }
  for (int e = int(threadIdx.x); e < count; e += run_threads) s_position[e] = g_position[begin + e];
  __syncthreads();
  const int32_t *token = s_token + 1, first = token[0];
  const bool from_before = token[-1] == first;

  for (int64_t j = int64_t(threadIdx.x) * n; j < D; j += run_threads * n) {
    Acc<T> r_sum[n] = {};
    constexpr int ahead = 4;  // rows in flight
    for (int at = 0; at < count; at += ahead) {
      cuda::Vector<T, n> r_row[ahead];
#pragma unroll
      for (int u = 0; u < ahead; ++u)
        if (at + u < count) r_row[u] = cuda::load<n>(g_d_y + int64_t(s_position[at + u]) * D + j);
#pragma unroll
      for (int u = 0; u < ahead; ++u) {
        const int e = at + u;
        if (e >= count) break;
#pragma unroll
        for (int k = 0; k < n; ++k) r_sum[k] += Acc<T>(r_row[u].at[k]);
        if (token[e] == token[e + 1] && e + 1 < count) continue;
        const bool goes_on = token[e] == token[e + 1], is_first = token[e] == first;
        if (is_first && from_before) cuda::store(g_part + (2 * int64_t(blockIdx.x)) * D + j, r_sum);
        else if (goes_on) cuda::store(g_part + (2 * int64_t(blockIdx.x) + 1) * D + j, r_sum);
        else if (token[e] < V) cuda::store(g_d_table + token[e] * D + j, r_sum);
#pragma unroll
        for (int k = 0; k < n; ++k) r_sum[k] = 0;
      }
    }
  }
}

// The block of a tile in which a run begins that goes on beyond it adds up that run's parts.
template <class T, int n>
__global__ __launch_bounds__(run_threads) void long_runs_kernel(const int32_t* g_token,  // [rows], sorted
                                                                const Acc<T>* g_part,    // [tiles,2,D]
                                                                T* g_d_table,            // [V,D]
                                                                int64_t rows, int64_t V, int64_t D) {
  const int64_t begin = int64_t(blockIdx.x) * run_tile, end = begin + run_tile;
  if (end >= rows) return;
  const int32_t token = g_token[end - 1];
  const bool begins_here = begin == 0 || g_token[begin - 1] != token;
  if (token >= V || g_token[end] != token || !begins_here) return;
  for (int64_t j = int64_t(threadIdx.x) * n; j < D; j += run_threads * n) {
    Acc<T> r_sum[n] = {};
    for (int64_t tile = blockIdx.x; tile * run_tile < rows && g_token[tile * run_tile] <= token; ++tile) {
      const auto r_part = cuda::load<n>(g_part + (2 * tile + (tile == blockIdx.x)) * D + j);
#pragma unroll
      for (int k = 0; k < n; ++k) r_sum[k] += r_part.at[k];
    }
    cuda::store(g_d_table + token * D + j, r_sum);
  }
}

void backward(const EmbeddingBackward& a) {
  visit<float, double, bf16>("embedding", a.d_table.dtype(), [&]<class T>() {
    if (a.d_table.numel() == 0) return;
    const int64_t V = a.d_table.size(0), D = a.d_table.size(1), rows = a.ids.numel();
    a.device().fill(a.d_table.data<T>(), 0, a.d_table.bytes());
    if (rows == 0) return;
    if (rows > INT32_MAX) raise("embedding: a gradient takes at most 2^31-1 ids on a GPU; got " + std::to_string(rows));
    const Sorted sorted = sorted_by_token(a.ids, V);
    const unsigned tiles = cuda::blocks_for(rows, run_tile);
    const Tensor parts(a.device(), {int64_t(tiles), 2, D}, wide(dtype_of<T>()));
    const auto launch = [&]<int n>() {
      run_sums_kernel<T, n><<<tiles, run_threads, 0, cuda::stream_of(a.device())>>>(
          sorted.token.data<int32_t>(), sorted.position.data<int32_t>(), a.d_y.data<T>(), a.d_table.data<T>(),
          parts.data<Acc<T>>(), rows, V, D);
      cuda::cuda_check(cudaGetLastError());
      long_runs_kernel<T, n><<<tiles, run_threads, 0, cuda::stream_of(a.device())>>>(
          sorted.token.data<int32_t>(), parts.data<Acc<T>>(), a.d_table.data<T>(), rows, V, D);
      cuda::cuda_check(cudaGetLastError());
    };
    constexpr int n = cuda::vector_width<T>;
    if (cuda::vector_fits<T>(n, D, {a.d_y.data<T>(), a.d_table.data<T>()})) launch.template operator()<n>();
    else launch.template operator()<1>();
  });
}

const Implement f{embedding_forward, DeviceKind::cuda, forward};
const Implement b{embedding_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
