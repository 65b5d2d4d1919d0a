// token_shift on CUDA: a thread owns neighbouring channels and walks through 8 tokens, so each element is read once.
//   grid     B * T/8 * D/vector threads in blocks of 256; vectors of 16 bytes where D and the pointers allow, else of 1
//   traffic  forward reads x, writes y; backward reads d_y, writes d_x; one row in 8 twice
//   limits   f32 f64 bf16; any shape
//   ceiling  HBM bandwidth: 16384 x 768 in bf16 takes 17 us each way at 3 TB/s. Models use token_mix
#include "tensor/ops/token_shift.h"

#include "cuda/launch.cuh"
#include "cuda/pack.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256;
constexpr int run = 8;  // tokens of a thread

template <class T, int width>
struct Place {  // of this thread
  using V = cuda::Packed<T, width>;
  int64_t b, begin, d, D, steps;

  __device__ Place(int64_t D, int64_t steps) : D(D), steps(steps) {
    const int64_t columns = D / width, runs = (steps + run - 1) / run, i = cuda::thread_index();
    d = i % columns * width;
    begin = i / columns % runs * run;
    b = i / columns / runs;
  }
  __device__ V load(const T* g, int64_t t) const { return cuda::load_packed<T, width>(g + (b * steps + t) * D + d); }
  __device__ V load_edge(const T* g) const { return g ? cuda::load_packed<T, width>(g + b * D + d) : V{}; }  // [B,D]
};

template <class T, int width>
__device__ cuda::Packed<T, width> difference(const cuda::Packed<T, width>& a, const cuda::Packed<T, width>& b) {
  Acc<T> x[width], y[width];
  cuda::unpack<T>(a, x);
  cuda::unpack<T>(b, y);
#pragma unroll
  for (int k = 0; k < width; ++k) x[k] -= y[k];
  return cuda::pack<T>(x);
}

template <class T, int width>
__global__ void token_shift_forward_kernel(const T* g_x,         // [B,T,D]
                                           const T* g_last,      // [B,D] or null
                                           T* g_y,               // [B,T,D]
                                           T* g_tail,            // [B,D]
                                           PackingView packing,  // [B,T]
                                           int64_t B, int64_t D) {
  using V = cuda::Packed<T, width>;
  const Place<T, width> at(D, packing.T);
  if (at.b >= B) return;
  V x[run + 1];  // from the token before
  x[0] = at.begin > 0 ? at.load(g_x, at.begin - 1) : at.load_edge(g_last);
#pragma unroll
  for (int i = 0; i < run; ++i)
    if (at.begin + i < at.steps) x[i + 1] = at.load(g_x, at.begin + i);
#pragma unroll
  for (int i = 0; i < run; ++i) {
    const int64_t t = at.begin + i;
    if (t >= at.steps) break;
    const V before = packing.resets(at.b, t) ? V{} : x[i];
    *reinterpret_cast<V*>(g_y + (at.b * at.steps + t) * D + at.d) = difference<T, width>(before, x[i + 1]);
    if (t + 1 == at.steps) *reinterpret_cast<V*>(g_tail + at.b * D + at.d) = x[i + 1];
  }
}

template <class T, int width>
__global__ void token_shift_backward_kernel(const T* g_d_y,       // [B,T,D] or null
                                            const T* g_d_tail,    // [B,D] or null
                                            T* g_d_x,             // [B,T,D] or null
                                            T* g_d_last,          // [B,D] or null
                                            PackingView packing,  // [B,T]
                                            int64_t B, int64_t D) {
  using V = cuda::Packed<T, width>;
  const Place<T, width> at(D, packing.T);
  if (at.b >= B) return;
  V d[run + 1];  // to the token after
#pragma unroll
  for (int i = 0; i <= run; ++i) d[i] = g_d_y && at.begin + i < at.steps ? at.load(g_d_y, at.begin + i) : V{};
#pragma unroll
  for (int i = 0; i < run; ++i) {
    const int64_t t = at.begin + i;
    if (t >= at.steps) break;
    V after = d[i + 1];
    if (t + 1 == at.steps) after = at.load_edge(g_d_tail);
    else if (packing.resets(at.b, t + 1)) after = V{};
    if (g_d_x) *reinterpret_cast<V*>(g_d_x + (at.b * at.steps + t) * D + at.d) = difference<T, width>(after, d[i]);
    if (g_d_last && t == 0) *reinterpret_cast<V*>(g_d_last + at.b * D + at.d) = d[i];
  }
}

template <class T>
T* pointer(const Tensor& t) {
  return t ? t.data<T>() : nullptr;
}

// launch(blocks) with the widest vectors that fit: launch.operator()<width>(blocks).
template <class T, class F>
void visit_width(const Tensor& x, std::initializer_list<const T*> pointers, F&& launch) {
  if (x.numel() == 0) return;
  constexpr int widest = 16 / sizeof(T);
  const int64_t rows = x.size(0) * ((x.size(1) + run - 1) / run), D = x.size(2);
  if (cuda::vector_fits<T>(widest, D, pointers))
    launch.template operator()<widest>(cuda::blocks_for(rows * (D / widest), threads));
  else launch.template operator()<1>(cuda::blocks_for(rows * D, threads));
  cuda::cuda_check(cudaGetLastError());
}

void forward(const TokenShiftForward& a) {
  visit<float, double, bf16>("token_shift", a.x.dtype(), [&]<class T>() {
    const T *x = a.x.data<T>(), *last = pointer<T>(a.last);
    T *y = a.y.data<T>(), *tail = a.tail.data<T>();
    visit_width<T>(a.x, {x, last, y, tail}, [&]<int width>(unsigned blocks) {
      token_shift_forward_kernel<T, width><<<blocks, threads, 0, cuda::stream_of(a.device())>>>(
          x, last, y, tail, PackingView(a.packing, a.x.size(1)), a.x.size(0), a.x.size(2));
    });
  });
}

void backward(const TokenShiftBackward& a) {
  visit<float, double, bf16>("token_shift", a.x.dtype(), [&]<class T>() {
    const T *d_y = pointer<T>(a.d_y), *d_tail = pointer<T>(a.d_tail);
    T *d_x = pointer<T>(a.d_x), *d_last = pointer<T>(a.d_last);
    visit_width<T>(a.x, {d_y, d_tail, d_x, d_last}, [&]<int width>(unsigned blocks) {
      token_shift_backward_kernel<T, width><<<blocks, threads, 0, cuda::stream_of(a.device())>>>(
          d_y, d_tail, d_x, d_last, PackingView(a.packing, a.x.size(1)), a.x.size(0), a.x.size(2));
    });
  });
}

const Implement f{token_shift_forward, DeviceKind::cuda, forward};
const Implement b{token_shift_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
