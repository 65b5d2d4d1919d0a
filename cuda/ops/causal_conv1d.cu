// causal_conv1d on CUDA: a thread owns neighbouring channels and walks through time with the last inputs in registers.
//   grid     W = 4: blocks of 32 threads along channels by 4 stretches of 16 to 128 tokens; else a thread per element
//   traffic  forward reads x, writes y; backward reads x, d_y, writes d_x; 3 rows (backward 9) more per stretch
//   limits   f32 f64 bf16; any shape; the fast way is for W = 4 and whole vectors of channels (16 bytes; 8 in bf16)
//   ceiling  HBM bandwidth: [8,2048,1792] in bf16 takes 39 us forward, 59 us backward at 3 TB/s
#include "tensor/ops/causal_conv1d.h"

#include <type_traits>

#include "cuda/sums.cuh"
#include "cuda/ops/causal_conv1d_plain.cuh"
#include "cuda/pack.cuh"

namespace taper::kernels {
namespace {

constexpr int threads = 256;  // of the plain kernels
constexpr int lanes = 32, stretches = 4;
constexpr int resident_forward = 6, resident_backward = 4;  // blocks of a multiprocessor

template <class T>
constexpr int channels = std::is_same_v<T, bf16> ? 4 : 16 / int(sizeof(T));  // of a thread; more lack registers

constexpr int before = 3;  // W = 4: the inputs before the present one that are kept

struct Walk {             // how time is cut
  int64_t length, count;  // tokens of a stretch; stretches of a row of the batch
  unsigned blocks(int64_t B) const { return cuda::blocks_for(B * count, stretches); }
};

// Long stretches read their seams less often, short ones are more of them: the length with which an H100 is soonest
// done.
Walk plan_walk(int64_t B, int64_t steps, int64_t columns, int resident) {
  Walk best{};
  int64_t least = INT64_MAX;
  for (int64_t length = 16; length <= 128; ++length) {
    const Walk w{length, (steps + length - 1) / length};
    const int64_t blocks = w.blocks(B) * ((columns + lanes - 1) / lanes), at_once = 132 * resident;
    const int64_t time = (blocks + at_once - 1) / at_once * (std::min(length, steps) + before);
    if (time < least) best = w, least = time;
  }
  return best;
}

template <class T, int width>
struct Place {  // what a thread has to do
  int64_t column;
  int b, begin, end;
  bool present;
  __device__ Place(const Inputs<T>& in, const Walk& w) {
    const int64_t stretch = int64_t(blockIdx.x) * stretches + threadIdx.y;
    column = (int64_t(blockIdx.y) * lanes + threadIdx.x) * width;
    present = column < in.D && stretch < in.B * w.count;
    b = int(stretch / w.count);
    begin = int(stretch % w.count * w.length);
    end = int(min(in.steps, begin + w.length));
  }
};

template <class T, int width>
struct Channels {  // of one thread: the three inputs before, taps and bias
  using A = Acc<T>;
  using V = cuda::Packed<T, width>;
  A input[before + 1][width];  // the last: of now
  A tap[before + 1][width], bias[width];

  __device__ Channels(const Inputs<T>& in, const Place<T, width>& at) {
    const auto* g_tap = reinterpret_cast<const cuda::Vector<A, before + 1>*>(in.g_weight) + at.column;
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const cuda::Vector<A, before + 1> taps = g_tap[k];
#pragma unroll
      for (int j = 0; j <= before; ++j) tap[j][k] = taps.at[j];
    }
    cuda::Vector<A, width> b{};
    if (in.g_bias) b = *reinterpret_cast<const cuda::Vector<A, width>*>(in.g_bias + at.column);
    cuda::unpack<A>(b, bias);
    const int64_t start = in.packing.start_of(at.b, at.begin);
#pragma unroll
    for (int j = 0; j < before; ++j) {
      const int64_t s = at.begin - before + j;
      cuda::unpack<T>(in.sees(start, s) ? load(in.row(at.b, s) + at.column) : V{}, input[j]);
    }
  }
  __device__ static V load(const T* g) { return *reinterpret_cast<const V*>(g); }
  __device__ void forget() {
#pragma unroll
    for (int j = 0; j < before; ++j)
#pragma unroll
      for (int k = 0; k < width; ++k) input[j][k] = 0;
  }
  __device__ A pre(int k) const {
    A sum = bias[k];
#pragma unroll
    for (int j = 0; j <= before; ++j) sum += tap[j][k] * input[j][k];
    return sum;
  }
  __device__ void go_on() {
#pragma unroll
    for (int j = 0; j < before; ++j)
#pragma unroll
      for (int k = 0; k < width; ++k) input[j][k] = input[j + 1][k];
  }
};

constexpr int group = 4;  // tokens whose loads are begun together

template <class T, bool with_silu>
__global__ void __launch_bounds__(lanes* stretches, resident_forward)
    conv_forward_kernel(const Inputs<T> in, const Walk walk,
                        T* g_y,       // [B,T,D]
                        T* g_tail) {  // [B,3,D]
  using A = Acc<T>;
  constexpr int width = channels<T>;
  using V = cuda::Packed<T, width>;
  const Place<T, width> at(in, walk);
  if (!at.present) return;
  Channels<T, width> c(in, at);
  for (int t = at.begin; t < at.end; t += group) {
    const int64_t first = (int64_t(at.b) * in.steps + t) * in.D + at.column;
    const auto token = [&](int i, const V& now) {
      cuda::unpack<T>(now, c.input[before]);
      A y[width];
#pragma unroll
      for (int k = 0; k < width; ++k) {
        const A pre = c.pre(k);
        y[k] = with_silu ? pre * cuda::sigmoid<T>(pre) : pre;
      }
      *reinterpret_cast<V*>(g_y + first + i * in.D) = cuda::pack<T>(y);
      c.go_on();
    };
    V now[group];
    if (t + group <= at.end) {
      const int64_t start = in.packing.start_of(at.b, t + group - 1);
#pragma unroll
      for (int i = 0; i < group; ++i) now[i] = c.load(in.g_x + first + i * in.D);
      if (start == 0 || start < t) {  // no document begins here
#pragma unroll
        for (int i = 0; i < group; ++i) token(i, now[i]);
        continue;
      }
    } else {
#pragma unroll
      for (int i = 0; i < group; ++i)
        if (t + i < at.end) now[i] = c.load(in.g_x + first + i * in.D);
    }
#pragma unroll
    for (int i = 0; i < group; ++i) {
      if (t + i >= at.end) break;
      if (in.packing.resets(at.b, t + i)) c.forget();
      token(i, now[i]);
    }
  }
  if (at.end < in.steps) return;
#pragma unroll
  for (int j = 0; j < before; ++j)
    *reinterpret_cast<V*>(g_tail + (int64_t(at.b) * before + j) * in.D + at.column) = cuda::pack<T>(c.input[j]);
}

template <class T>
struct Gradients {
  const T *g_d_y, *g_d_tail;  // [B,T,D] [B,3,D] or null
  T *g_d_x, *g_d_history;     // [B,T,D] [B,3,D] or null
};

template <class T, bool with_silu>
__global__ void __launch_bounds__(lanes* stretches, resident_backward)
    conv_backward_kernel(const Inputs<T> in, const Gradients<T> a, const Walk walk,
                         Acc<T>* g_partial) {  // [blocks,5,D]: taps and bias; or null
  using A = Acc<T>;
  constexpr int width = channels<T>;
  using V = cuda::Packed<T, width>;
  __shared__ A s_sum[stretches][before + 2][lanes * width];
  const Place<T, width> at(in, walk);
  A r_sum[before + 2][width] = {};
  if (at.present) {
    Channels<T, width> c(in, at);
    A pending[before + 1][width] = {};  // gradients of the inputs of now and before, still to be added to
    const int64_t last_start = in.packing.start_of(at.b, in.steps - 1);
    const int stop = at.end + before,
              read = int(min(in.steps, int64_t(stop)));  // until `stop` the inputs of this stretch are seen
    // Token `now` adds its part to the gradients: `seen` inputs before it are of its document.
    const auto add = [&](const V& now, const V& d_now, int seen, bool own) {
      A d[width];
      cuda::unpack<T>(now, c.input[before]);
      cuda::unpack<T>(d_now, d);
#pragma unroll
      for (int k = 0; k < width; ++k) {
        if (with_silu) d[k] *= silu_slope<T>(c.pre(k));
        if (own) {
#pragma unroll
          for (int j = 0; j <= before; ++j) r_sum[j][k] += d[k] * c.input[j][k];
          r_sum[before + 1][k] += d[k];
        }
#pragma unroll
        for (int j = 0; j < before; ++j)
          if (before - j <= seen) pending[j][k] += c.tap[j][k] * d[k];
        pending[before][k] = c.tap[before][k] * d[k];
      }
    };
    const auto go_on = [&] {
#pragma unroll
      for (int j = 0; j < before; ++j)
#pragma unroll
        for (int k = 0; k < width; ++k) pending[j][k] = pending[j + 1][k];
      c.go_on();
    };
    for (int t = at.begin; t < stop; t += group) {
      const int64_t first = (int64_t(at.b) * in.steps + t) * in.D + at.column;
      V now[group], d_now[group];
      if (t - before >= at.begin && t + group <= at.end && a.g_d_x) {
        const int64_t start = in.packing.start_of(at.b, t + group - 1);
#pragma unroll
        for (int i = 0; i < group; ++i) {
          now[i] = c.load(in.g_x + first + i * in.D);
          d_now[i] = c.load(a.g_d_y + first + i * in.D);
        }
        if (start == 0 || start <= t - before) {  // all inputs are of one document and of this stretch
          T* g_d_x = a.g_d_x + first - before * in.D;
#pragma unroll
          for (int i = 0; i < group; ++i) {
            add(now[i], d_now[i], before, true);
            cuda::store_packed<T, width>(g_d_x + i * in.D, cuda::pack<T>(pending[0]));
            go_on();
          }
          continue;
        }
      } else {
#pragma unroll
        for (int i = 0; i < group; ++i)
          if (t + i < read) {
            now[i] = c.load(in.g_x + first + i * in.D);
            d_now[i] = c.load(a.g_d_y + first + i * in.D);
          }
      }
#pragma unroll
      for (int i = 0; i < group; ++i) {
        const int time = t + i, s = time - before;
        if (time >= stop) break;
        if (time < read) {
          const int own_start = int(in.packing.start_of(at.b, time)), seen = own_start == 0 ? before : time - own_start;
          if (seen == 0) c.forget();
          add(now[i], d_now[i], seen, time < at.end);
        }
        T* g_to = s < 0 ? a.g_d_history : s >= at.begin ? a.g_d_x : nullptr;
        if (g_to) {  // the input of time s has been seen for the last time
          g_to += (s < 0 ? int64_t(at.b) * before + before + s : at.b * in.steps + s) * in.D + at.column;
          const int64_t place = s - in.steps + before;  // in the tail
          if (a.g_d_tail && place >= 0 && in.sees(last_start, s)) {
            A d_tail[width];
            cuda::unpack<T>(c.load(a.g_d_tail + (at.b * before + place) * in.D + at.column), d_tail);
#pragma unroll
            for (int k = 0; k < width; ++k) pending[0][k] += d_tail[k];
          }
          *reinterpret_cast<V*>(g_to) = cuda::pack<T>(pending[0]);
        }
        go_on();
      }
    }
  }
  if (!g_partial) return;
#pragma unroll
  for (int j = 0; j < before + 2; ++j)
#pragma unroll
    for (int k = 0; k < width; ++k) s_sum[threadIdx.y][j][threadIdx.x * width + k] = r_sum[j][k];
  __syncthreads();
  const int64_t first = int64_t(blockIdx.y) * lanes * width;
  for (int e = int(threadIdx.y * lanes + threadIdx.x); e < (before + 2) * lanes * width; e += lanes * stretches) {
    const int j = e / (lanes * width), d = e % (lanes * width);
    A sum = s_sum[0][j][d];
    for (int y = 1; y < stretches; ++y) sum += s_sum[y][j][d];
    if (first + d < in.D) g_partial[(int64_t(blockIdx.x) * (before + 2) + j) * in.D + first + d] = sum;
  }
}

template <class A>
struct ToParameters {        // from [W+1,D]
  A *g_d_weight, *g_d_bias;  // [D,1,W] [D] or null
  int64_t D, W;
  __device__ void operator()(int64_t column, double sum) const {
    const int64_t j = column / D, d = column % D;
    if (j == W && g_d_bias) g_d_bias[d] = A(sum);
    if (j < W && g_d_weight) g_d_weight[d * W + j] = A(sum);
  }
};

// Whether the fast way may be taken: four taps, vectors in every row.
template <class T>
bool vectors_fit(const Inputs<T>& in, int width, std::initializer_list<const T*> pointers) {
  return in.W == before + 1 && cuda::vector_fits<T>(width, in.D, pointers) &&
         cuda::vector_fits<T>(width, in.D, {in.g_x, in.g_history}) &&
         cuda::vector_fits<Acc<T>>(before + 1, in.W, {in.g_weight}) &&
         cuda::vector_fits<Acc<T>>(width, in.D, {in.g_bias});
}

template <class T>
T* pointer(const Tensor& t) {
  return t ? t.data<T>() : nullptr;
}

void forward(const CausalConv1dForward& a) {
  visit<float, double, bf16>("causal_conv1d", a.x.dtype(), [&]<class T>() {
    const Inputs<T> in(a);
    if (in.B * in.D == 0) return;
    const cudaStream_t stream = cuda::stream_of(a.device());
    T *y = a.y.data<T>(), *tail = a.tail.data<T>();
    constexpr int width = channels<T>;
    if (vectors_fit(in, width, {y, tail})) {
      const int64_t columns = in.D / width;
      const Walk walk = plan_walk(in.B, in.steps, columns, resident_forward);
      const auto kernel = in.with_silu ? conv_forward_kernel<T, true> : conv_forward_kernel<T, false>;
      kernel<<<dim3(walk.blocks(in.B), cuda::blocks_for(columns, lanes)), dim3(lanes, stretches), 0, stream>>>(in, walk,
                                                                                                               y, tail);
      cuda::cuda_check(cudaGetLastError());
      return;
    }
    conv_forward_plain_kernel<T><<<cuda::blocks_for(a.y.numel(), threads), threads, 0, stream>>>(in, y);
    cuda::cuda_check(cudaGetLastError());
    if (in.W == 1) return;
    conv_tail_kernel<T><<<cuda::blocks_for(a.tail.numel(), threads), threads, 0, stream>>>(in, tail);
    cuda::cuda_check(cudaGetLastError());
  });
}

void backward(const CausalConv1dBackward& a) {
  visit<float, double, bf16>("causal_conv1d", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const Inputs<T> in(a);
    if (in.D == 0) return;
    const cudaStream_t stream = cuda::stream_of(a.device());
    const Gradients<T> g{pointer<T>(a.d_y), pointer<T>(a.d_tail), pointer<T>(a.d_x), pointer<T>(a.d_history)};
    const ToParameters<A> to{pointer<A>(a.d_weight), pointer<A>(a.d_bias), in.D, in.W};
    const bool with_parameters = a.d_weight || a.d_bias;
    constexpr int width = channels<T>;
    if (g.g_d_y && in.B > 0 && vectors_fit(in, width, {g.g_d_y, g.g_d_tail, g.g_d_x, g.g_d_history})) {
      const int64_t columns = in.D / width;
      const Walk walk = plan_walk(in.B, in.steps, columns, resident_backward);
      const unsigned blocks = walk.blocks(in.B);
      const Tensor partial =
          with_parameters ? Tensor(a.device(), {blocks, (in.W + 1) * in.D}, dtype_of<A>()) : Tensor();
      const auto kernel = in.with_silu ? conv_backward_kernel<T, true> : conv_backward_kernel<T, false>;
      kernel<<<dim3(blocks, cuda::blocks_for(columns, lanes)), dim3(lanes, stretches), 0, stream>>>(
          in, g, walk, pointer<A>(partial));
      cuda::cuda_check(cudaGetLastError());
      if (with_parameters) cuda::add_partials<A>(partial, to);
      return;
    }
    const Tensor d_pre(a.device(), a.x.shape(), dtype_of<A>());
    const auto blocks = [](int64_t numel) { return cuda::blocks_for(numel, threads); };
    if (in.B > 0) {
      conv_pre_backward_kernel<T><<<blocks(d_pre.numel()), threads, 0, stream>>>(in, g.g_d_y, d_pre.data<A>());
      cuda::cuda_check(cudaGetLastError());
      if (a.d_x) {
        conv_input_backward_kernel<T>
            <<<blocks(a.d_x.numel()), threads, 0, stream>>>(in, d_pre.data<A>(), g.g_d_tail, g.g_d_x, 0, in.steps);
        cuda::cuda_check(cudaGetLastError());
      }
      if (a.d_history && in.W > 1) {
        conv_input_backward_kernel<T><<<blocks(a.d_history.numel()), threads, 0, stream>>>(
            in, d_pre.data<A>(), g.g_d_tail, g.g_d_history, 1 - in.W, in.W - 1);
        cuda::cuda_check(cudaGetLastError());
      }
    }
    if (with_parameters)
      cuda::column_sums(a.device(), ParameterTerm<T>{in, d_pre.data<A>()}, to, in.B * in.steps, (in.W + 1) * in.D);
  });
}

const Implement f{causal_conv1d_forward, DeviceKind::cuda, forward};
const Implement b{causal_conv1d_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
