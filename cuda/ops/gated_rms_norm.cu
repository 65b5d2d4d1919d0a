// gated_rms_norm on CUDA: as rms_norm, with the gate applied in registers; its silu is computed anew in backward.
//   grid     forward a block per 256 / lanes rows; backward 396 blocks that walk over rows; other widths a warp per row
//   traffic  forward reads x, gate, writes y; backward reads x, gate, d_y, writes d_x, d_gate, and 2 % of x
//   limits   f32 f64 bf16; fast where rows are whole 16-byte vectors, at most 768 of them; any row otherwise
//   ceiling  HBM bandwidth: 16384 rows of 1536 bf16 take 50 us forward, 84 us backward at 3 TB/s
#include "tensor/ops/gated_rms_norm.h"

#include "cuda/sums.cuh"
#include "cuda/rows.cuh"
#include "cuda/sigmoid.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256;
constexpr int most = 3;      // vectors of a thread
constexpr int resident = 3;  // blocks of a multiprocessor, backward

// One element. The norm is of v = x silu(z), or of x with silu(z) as a factor of the result.
template <class T, bool gate_first>
struct Gated {
  using A = Acc<T>;
  A x, z, s, silu, v, factor;

  __device__ Gated(A x, A z) : x(x), z(z), s(cuda::sigmoid<T>(z)), silu(z * s) {
    v = gate_first ? x * silu : x;
    factor = gate_first ? A(1) : silu;
  }
  __device__ A y(A w, A r) const { return v * r * w * factor; }

  // pull = r^2 mean(g v), g = d_y w factor.
  __device__ A d_x(A d_y, A w, A r, A pull) const {
    const A d_v = r * (d_y * w * factor - v * pull);
    return gate_first ? d_v * silu : d_v;
  }
  __device__ A d_gate(A d_y, A w, A r, A pull) const {
    const A d_silu = gate_first ? r * (d_y * w - v * pull) * x : d_y * w * x * r;
    return d_silu * (s + silu * (1 - s));
  }
  __device__ A d_weight(A d_y, A r) const { return d_y * r * factor * v; }
};

template <class T, bool gate_first, int n>
__global__ void __launch_bounds__(cuda::row_threads, 3)
    gated_rms_norm_forward_kernel(const T* g_x,            // [rows,D]
                                  const T* g_gate,         // [rows,D]
                                  const Acc<T>* g_weight,  // [D]
                                  T* g_y,                  // [rows,D]
                                  Acc<T>* g_r,             // [rows]
                                  double eps, int64_t rows, int vectors) {
  using A = Acc<T>;
  constexpr int width = 16 / sizeof(T);
  __shared__ A s_warp[cuda::row_warps];
  const int64_t row = int64_t(blockIdx.x) * blockDim.z + threadIdx.z, D = int64_t(vectors) * width;
  const bool present = row < rows;
  cuda::RowPart<T, n, width> x, z;
  x.load(g_x + row * D, vectors, present);
  z.load(g_gate + row * D, vectors, present);
  A v[n][width], factor[n][width], squares = 0;
#pragma unroll
  for (int i = 0; i < n; ++i) {
    A x_i[width], z_i[width];
    x.get(i, x_i);
    z.get(i, z_i);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const Gated<T, gate_first> e(x_i[k], z_i[k]);
      v[i][k] = e.v;
      factor[i][k] = e.factor;
      squares += e.v * e.v;
    }
  }
  const A r = 1 / sqrt(cuda::row_sum(squares, s_warp) / A(D) + A(eps));
  cuda::RowPart<A, n, width> w;
  w.load(g_weight, vectors, present);
#pragma unroll
  for (int i = 0; i < n; ++i) {
    A y[width];
#pragma unroll
    for (int k = 0; k < width; ++k) y[k] = v[i][k] * r * w.at[i].at[k] * factor[i][k];
    cuda::store_row_vector(g_y + row * D, i, y, vectors, present);
  }
  if (present && threadIdx.x == 0) g_r[row] = r;
}

template <class T>
struct Backward {
  using A = Acc<T>;
  const T *g_x, *g_gate;  // [rows,D]
  const A* g_weight;      // [D]
  const A* g_r;           // [rows]
  const T* g_d_y;         // [rows,D]
  T *g_d_x, *g_d_gate;    // [rows,D] or absent
  int64_t rows, D;
};

template <class T, bool gate_first, int n>
__global__ void __launch_bounds__(cuda::row_threads, resident)
    gated_rms_norm_backward_kernel(const Backward<T> a,
                                   Acc<T>* g_partial,  // [blocks,D] or absent
                                   int vectors) {
  using A = Acc<T>;
  constexpr int width = 16 / sizeof(T);
  __shared__ A s_warp[2][cuda::row_warps], s_sum[cuda::row_threads * n * width];
  A r_sum[n][width] = {};
  int turn = 0;
  for (int64_t first = int64_t(blockIdx.x) * blockDim.z; first < a.rows; first += int64_t(gridDim.x) * blockDim.z) {
    const int64_t row = first + threadIdx.z;
    const bool present = row < a.rows;
    const int64_t at = row * a.D;
    const A r = present ? a.g_r[row] : A(0);
    cuda::RowPart<T, n, width> x, z, d_y;
    x.load(a.g_x + at, vectors, present);
    z.load(a.g_gate + at, vectors, present);
    d_y.load(a.g_d_y + at, vectors, present);
    A dot = 0;
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const auto w = cuda::load_row_vector<A, width>(a.g_weight, i, vectors, present);
      A x_i[width], z_i[width], d_i[width];
      x.get(i, x_i);
      z.get(i, z_i);
      d_y.get(i, d_i);
#pragma unroll
      for (int k = 0; k < width; ++k) {
        const Gated<T, gate_first> e(x_i[k], z_i[k]);
        dot += d_i[k] * w.at[k] * e.factor * e.v;
      }
    }
    const A pull = r * r * cuda::row_sum(dot, s_warp[turn ^= 1]) / A(a.D);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      // Once more, from the first cache: what the sum above was made of does not fit into registers.
      A x_i[width], z_i[width], d_i[width], d_x[width], d_gate[width];
      cuda::unpack<T>(cuda::load_row_vector<T, width>(a.g_x + at, i, vectors, present), x_i);
      cuda::unpack<T>(cuda::load_row_vector<T, width>(a.g_gate + at, i, vectors, present), z_i);
      cuda::unpack<T>(cuda::load_row_vector<T, width>(a.g_d_y + at, i, vectors, present), d_i);
      const auto w = cuda::load_row_vector<A, width>(a.g_weight, i, vectors, present);
#pragma unroll
      for (int k = 0; k < width; ++k) {
        const Gated<T, gate_first> e(x_i[k], z_i[k]);
        d_x[k] = e.d_x(d_i[k], w.at[k], r, pull);
        d_gate[k] = e.d_gate(d_i[k], w.at[k], r, pull);
        r_sum[i][k] += e.d_weight(d_i[k], r);
      }
      cuda::store_row_vector(a.g_d_x + at, i, d_x, vectors, present && a.g_d_x);
      cuda::store_row_vector(a.g_d_gate + at, i, d_gate, vectors, present && a.g_d_gate);
    }
  }
  if (g_partial) cuda::store_column_sums(r_sum, s_sum, g_partial + blockIdx.x * a.D, vectors);
}

// Any width: a warp per row.
template <class T, bool gate_first>
__global__ void gated_rms_norm_forward_plain_kernel(const T* g_x,            // [rows,D]
                                                    const T* g_gate,         // [rows,D]
                                                    const Acc<T>* g_weight,  // [D]
                                                    T* g_y,                  // [rows,D]
                                                    Acc<T>* g_r,             // [rows]
                                                    double eps, int64_t rows, int64_t D) {
  using A = Acc<T>;
  const int64_t row = cuda::thread_index() / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  const auto at = [&](int64_t j) { return Gated<T, gate_first>(A(g_x[row * D + j]), A(g_gate[row * D + j])); };
  A squares = 0;
  for (int64_t j = lane; j < D; j += 32) {
    const A v = at(j).v;
    squares += v * v;
  }
  const A r = 1 / sqrt(cuda::warp_sum(squares) / A(D) + A(eps));
  for (int64_t j = lane; j < D; j += 32) g_y[row * D + j] = T(at(j).y(g_weight[j], r));
  if (lane == 0) g_r[row] = r;
}

template <class T, bool gate_first>
__global__ void gated_rms_norm_backward_plain_kernel(const Backward<T> a) {
  using A = Acc<T>;
  const int64_t row = cuda::thread_index() / 32, lane = threadIdx.x % 32;
  if (row >= a.rows) return;
  const T *x = a.g_x + row * a.D, *z = a.g_gate + row * a.D, *d_y = a.g_d_y + row * a.D;
  A dot = 0;
  for (int64_t j = lane; j < a.D; j += 32) {
    const Gated<T, gate_first> e{A(x[j]), A(z[j])};
    dot += A(d_y[j]) * a.g_weight[j] * e.factor * e.v;
  }
  const A r = a.g_r[row], pull = r * r * cuda::warp_sum(dot) / A(a.D);
  for (int64_t j = lane; j < a.D; j += 32) {
    const Gated<T, gate_first> e{A(x[j]), A(z[j])};
    const A d_j = A(d_y[j]), w = a.g_weight[j];
    if (a.g_d_x) a.g_d_x[row * a.D + j] = T(e.d_x(d_j, w, r, pull));
    if (a.g_d_gate) a.g_d_gate[row * a.D + j] = T(e.d_gate(d_j, w, r, pull));
  }
}

template <class T, bool gate_first>
struct WeightTerm {
  Backward<T> a;
  __device__ Acc<T> operator()(int64_t row, int64_t j) const {
    using A = Acc<T>;
    const int64_t at = row * a.D + j;
    return Gated<T, gate_first>(A(a.g_x[at]), A(a.g_gate[at])).d_weight(A(a.g_d_y[at]), a.g_r[row]);
  }
};

// A row per group of threads, if pointers and width allow.
template <class T>
cuda::RowPlan plan(const Tensor& weight, std::initializer_list<const T*> pointers) {
  constexpr int width = 16 / sizeof(T);
  const int64_t D = weight.size(0);
  const bool fits =
      cuda::vector_fits<T>(width, D, pointers) && cuda::vector_fits<Acc<T>>(width, D, {weight.data<Acc<T>>()});
  return fits ? cuda::plan_rows<T>(D, 1, most) : cuda::RowPlan{};
}

// visit_order(gate_first, [&]<bool gate_first>() { ... })
template <class F>
void visit_order(bool gate_first, F&& f) {
  if (gate_first) f.template operator()<true>();
  else f.template operator()<false>();
}

void forward(const GatedRmsNormForward& a) {
  visit<float, double, bf16>("gated_rms_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t D = a.x.size(-1), rows = a.r.numel();
    if (rows == 0) return;
    const cudaStream_t stream = cuda::stream_of(a.device());
    const T *x = a.x.data<T>(), *z = a.gate.data<T>();
    const A* w = a.weight.data<A>();
    T* y = a.y.data<T>();
    A* r = a.r.data<A>();
    const cuda::RowPlan p = plan<T>(a.weight, {x, z, y});
    visit_order(a.gate_first, [&]<bool gate_first>() {
      if (p)
        cuda::visit_row_vectors<most>(p.n, [&]<int n>() {
          gated_rms_norm_forward_kernel<T, gate_first, n>
              <<<p.blocks(rows), p.block, 0, stream>>>(x, z, w, y, r, a.eps, rows, p.vectors);
        });
      else
        gated_rms_norm_forward_plain_kernel<T, gate_first>
            <<<cuda::blocks_for(rows * 32, threads), threads, 0, stream>>>(x, z, w, y, r, a.eps, rows, D);
    });
    cuda::cuda_check(cudaGetLastError());
  });
}

template <class T, bool gate_first>
void backward_of(const GatedRmsNormBackward& a, const Backward<T>& all) {
  using A = Acc<T>;
  const cudaStream_t stream = cuda::stream_of(a.device());
  const cuda::ToArray<A> to{a.d_weight ? a.d_weight.data<A>() : nullptr};
  if (const cuda::RowPlan p = plan<T>(a.weight, {all.g_x, all.g_gate, all.g_d_y, all.g_d_x, all.g_d_gate})) {
    const int64_t blocks = cuda::partial_sums(p.blocks(all.rows), resident);
    const Tensor partial = a.d_weight ? Tensor(a.device(), {blocks, all.D}, dtype_of<A>()) : Tensor();
    cuda::visit_row_vectors<most>(p.n, [&]<int n>() {
      gated_rms_norm_backward_kernel<T, gate_first, n>
          <<<unsigned(blocks), p.block, 0, stream>>>(all, partial ? partial.data<A>() : nullptr, p.vectors);
    });
    cuda::cuda_check(cudaGetLastError());
    if (a.d_weight) cuda::add_partials<A>(partial, to);
    return;
  }
  if ((a.d_x || a.d_gate) && all.rows > 0) {
    gated_rms_norm_backward_plain_kernel<T, gate_first>
        <<<cuda::blocks_for(all.rows * 32, threads), threads, 0, stream>>>(all);
    cuda::cuda_check(cudaGetLastError());
  }
  if (a.d_weight) cuda::column_sums(a.device(), WeightTerm<T, gate_first>{all}, to, all.rows, all.D);
}

void backward(const GatedRmsNormBackward& a) {
  visit<float, double, bf16>("gated_rms_norm", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const Backward<T> all{.g_x = a.x.data<T>(),
                          .g_gate = a.gate.data<T>(),
                          .g_weight = a.weight.data<A>(),
                          .g_r = a.r.data<A>(),
                          .g_d_y = a.d_y.data<T>(),
                          .g_d_x = a.d_x ? a.d_x.data<T>() : nullptr,
                          .g_d_gate = a.d_gate ? a.d_gate.data<T>() : nullptr,
                          .rows = a.r.numel(),
                          .D = a.x.size(-1)};
    visit_order(a.gate_first, [&]<bool gate_first>() { backward_of<T, gate_first>(a, all); });
  });
}

const Implement f{gated_rms_norm_forward, DeviceKind::cuda, forward};
const Implement b{gated_rms_norm_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
