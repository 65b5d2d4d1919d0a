// dplr_scan on CUDA.
//   plan     bf16, K and V from 16 to 64: what each chunk of 64 does to a state, then the states one after the other, then (backward)
//            the gradients; all products on tensor cores. Heads narrower than 64 go in as copies with zeros. Else, and for heads
//            whose decays are too strong for that: one block per head walks pieces of 16 tokens with the state in shared memory;
//            so below 16, where a copy would be more than three quarters zeros
//   grid     B*H*chunks blocks of 256 (first step), B*H of 128 (walk; back 160), one of 512 on each multiprocessor (gradients);
//            plain: B*H blocks of 256. On Hopper a step is launched before the one before it ends, and gradients of late
//            chunks begin on multiprocessors where nobody walks
//   traffic  bf16, 8 x 2048 tokens, 12 heads: forward 480 MB, of them 250 for what the steps tell each other: 160 us at 3 TB/s;
//            backward 750 MB: 250 us. Inputs and outputs alone: 250 MB and 430 MB. The copies for heads of 32 add 300 MB forward,
//            510 backward
//   limits   f32 f64 bf16; any shape and decay; where a head's matrices do not fit into shared memory they lie in HBM
//   ceiling  latency of dependent products: about 11 thousand cycles of a multiprocessor for a chunk of the first step,
//            15 to 20 thousand for its gradients; plain: about 5 thousand for a piece forward, 15 thousand backward
#include "tensor/ops/dplr_scan.h"

#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/ops/dplr_scan_gradients.cuh"
#include "cuda/ops/dplr_scan_narrow.cuh"
#include "cuda/ops/dplr_scan_plain.cuh"
#include "cuda/ops/dplr_scan_plain_backward.cuh"
#include "cuda/ops/dplr_scan_prepare.cuh"
#include "cuda/ops/dplr_scan_walk.cuh"

namespace taper::kernels {
namespace {

// Launches a plain kernel with a Piece in shared memory, or in a tensor where that is too small.
template <class T, class Launch>
void with_memory(const DplrScanInputs& in, bool backward, Launch launch) {
  using A = Acc<T>;
  const int K = int(in.r.size(3)), V = int(in.v.size(3));
  const int64_t heads = in.r.size(0) * in.r.size(2), size = dplr_plain::Piece<A>::lay(K, V, backward, nullptr, nullptr);
  const int64_t bytes = size * int64_t(sizeof(A));
  Tensor memory;
  if (bytes > cuda::most_shared_memory()) memory = Tensor(in.r.device(), {heads, size}, dtype_of<A>());
  launch(cuda::blocks_for(heads, 1), memory ? 0 : bytes, memory ? memory.template data<A>() : nullptr);
}

template <class T>
void plain_forward(const DplrScanForward& f, const int* left_out) {
  with_memory<T>(f.in, false, [&](unsigned heads, int64_t shared, Acc<T>* memory) {
    cuda::launch_early(
        dplr_plain::dplr_scan_plain_forward_kernel<T>, heads, dplr_plain::threads, shared, cuda::stream_of(f.device()),
        dplr_plain::View<T>(f.in), f.y.data<T>(), f.final.data<Acc<T>>(),
        f.states ? f.states.data<T>() : nullptr, f.m ? f.m.data<T>() : nullptr, left_out, memory, f.chunk ? f.chunk : f.in.r.size(1));
  });
}

template <class T>
void plain_backward(const DplrScanBackward& g, const int* left_out) {
  using A = Acc<T>;
  const int64_t B = g.in.r.size(0), H = g.in.r.size(2), K = g.in.r.size(3), V = g.in.v.size(3);
  const int64_t chunk = g.chunk ? g.chunk : g.in.r.size(1), pieces = (chunk + dplr_plain::piece - 1) / dplr_plain::piece;
  Tensor between;
  if (pieces > 1) between = Tensor(g.device(), {B, H, pieces, K, V}, dtype_of<A>());
  with_memory<T>(g.in, true, [&](unsigned heads, int64_t shared, A* memory) {
    cuda::launch_early(
        dplr_plain::dplr_scan_plain_backward_kernel<T>, heads, dplr_plain::threads, shared, cuda::stream_of(g.device()),
        dplr_plain::View<T>(g.in), dplr_plain::Gradients<T>(g),
        g.states ? g.states.data<T>() : nullptr, g.m ? g.m.data<T>() : nullptr, left_out, memory,
        between ? between.data<A>() : nullptr, chunk);
  });
}

// ---- tensor cores: bf16 with K and V from 16 to 64 in chunks of 64 ----

bool fits_tiles(const DplrScanInputs& in, int64_t chunk) {
  using namespace dplr_tiles;
  constexpr size_t bytes = std::max({sizeof(PrepareShared<false>), sizeof(WalkShared<false>), sizeof(GradientShared)});
  const auto [least, most] = std::minmax({in.r.size(3), in.v.size(3)});
  return in.r.dtype() == Dtype::bf16 && 16 <= least && most <= channels && chunk == tokens && int64_t(bytes) <= cuda::most_shared_memory();
}
bool is_narrow(const DplrScanInputs& in) { return in.r.size(3) < dplr_tiles::channels || in.v.size(3) < dplr_tiles::channels; }

// Launches a step with `Shared` as dynamic shared memory; each waits for what it needs of the one before.
template <class Shared, class Kernel, class... P>
void launch(Kernel kernel, int64_t grid, int threads, Device& device, const P&... p) {
  cuda::launch_early(kernel, cuda::blocks_for(grid, 1), threads, sizeof(Shared), cuda::stream_of(device), p...);
}

// Memory between the steps, of n T.
template <class T>
Tensor room_for(Device& device, int64_t n) {
  return Tensor(device, {n, int64_t(sizeof(T) / 4)}, Dtype::f32);
}

// Calls f(first row, rows) for a batch, in parts whose chunks' memory stays below 1 GiB.
template <class F>
void by_parts(const DplrScanInputs& in, size_t bytes_per_chunk, F f) {
  const int64_t B = in.r.size(0), chunks = (in.r.size(1) + dplr_tiles::tokens - 1) / dplr_tiles::tokens;
  const int64_t row = chunks * in.r.size(2) * int64_t(bytes_per_chunk), rows = std::clamp<int64_t>((int64_t(1) << 30) / row, 1, B);
  for (int64_t n = 0; n < B; n += rows) f(n, std::min(rows, B - n));
}

// K = V = 64; then rest(flags of the heads that have no results yet).
template <class Rest>
void tiles_forward(const DplrScanForward& f, Rest rest) {
  using namespace dplr_tiles;
  Device& device = f.device();
  const View v(f.in);
  const int64_t B = f.in.r.size(0);
  const Tensor strong(device, {B, v.chunks, v.H}, Dtype::i32), left_out(device, {B, v.H}, Dtype::i32);
  by_parts(f.in, sizeof(ForwardStep), [&](int64_t n, int64_t rows) {
    const int64_t first = n * v.chunks * v.H, count = rows * v.chunks * v.H, state = channels * channels;
    const Tensor steps = room_for<ForwardStep>(device, count);
    auto* g_steps = static_cast<ForwardStep*>(steps.data<void>());
    launch<PrepareShared<false>>(dplr_scan_prepare_kernel<false>, count, prepare_threads, device, v, v.g_v, g_steps, strong.data<int>(),
                                                                  Progress{}, first);
    launch<WalkShared<false>>(
        dplr_scan_walk_kernel<false>, rows * v.H, walk_threads, device, v, g_steps, strong.data<int>(), left_out.data<int>(), Progress{},
        f.in.initial ? f.in.initial.data<float>() : nullptr, f.y.data<bf16>(), f.states.data<bf16>() + first * state, f.final.data<float>(),
        first);
  });
  rest(left_out.data<int>());
}

template <class Rest>
void tiles_backward(const DplrScanBackward& g, Rest rest) {
  using namespace dplr_tiles;
  Device& device = g.device();
  const View v(g.in);
  const int64_t B = g.in.r.size(0), state = channels * channels;
  const bf16* d_y = g.d_y ? g.d_y.data<bf16>() : nullptr;
  const Tensor strong(device, {B, v.chunks, v.H}, Dtype::i32), left_out(device, {B, v.H}, Dtype::i32), done(device, {B, v.H}, Dtype::i32),
      taken(device, {1}, Dtype::i32);
  const Progress progress{done.data<int>(), taken.data<int>()};
  by_parts(g.in, sizeof(Step) + size_t(state) * sizeof(bf16), [&](int64_t n, int64_t rows) {
    const int64_t first = n * v.chunks * v.H, count = rows * v.chunks * v.H;
    const Tensor d_states(device, {count, channels, channels}, Dtype::bf16);
    {
      const Tensor steps = room_for<Step>(device, count);
      auto* g_steps = static_cast<Step*>(steps.data<void>());
      launch<PrepareShared<true>>(dplr_scan_prepare_kernel<true>, count, prepare_threads, device, v, d_y, g_steps, strong.data<int>(),
                                                                  progress, first);
      launch<WalkShared<true>>(
          dplr_scan_walk_kernel<true>, rows * v.H, all_walk_threads<true>, device, v, g_steps, strong.data<int>(), left_out.data<int>(), progress,
          g.d_final ? g.d_final.data<float>() : nullptr, nullptr, d_states.data<bf16>(),
          g.d_initial ? g.d_initial.data<float>() : nullptr, first);
    }
    launch<GradientShared>(
        dplr_scan_gradient_kernel, std::min(count, cuda::multiprocessors()), gradient_threads, device, v, d_y, g.states.data<bf16>(), d_states.data<bf16>(),
        progress, g.d_r.data<bf16>(), g.d_k.data<bf16>(), g.d_v.data<bf16>(), g.d_a.data<bf16>(),
        g.d_b.data<bf16>(), g.d_log_w.data<float>(), first, int(count));
  });
  rest(left_out.data<int>());
}

// ---- narrower heads: the tiles work on copies with zeros, the plain kernels on the tensors themselves ----

Tensor rows_of(const Tensor& t, int64_t n, int64_t rows) { return t ? t.rows(n, n + rows) : Tensor{}; }

DplrScanInputs rows_of(const DplrScanInputs& in, int64_t n, int64_t rows) {
  const auto part = [&](const Tensor& t) { return rows_of(t, n, rows); };
  return {.r = part(in.r), .log_w = part(in.log_w), .k = part(in.k), .v = part(in.v), .a = part(in.a), .b = part(in.b),
          .initial = part(in.initial), .packing = {.start = part(in.packing.start), .t0 = part(in.packing.t0)}};
}

// All but `initial`, which the backward does not read.
DplrScanInputs widen(const DplrScanInputs& in, dplr_tiles::Widened& to) {
  return {.r = to.rows(in.r), .log_w = to.rows(in.log_w), .k = to.rows(in.k), .v = to.rows(in.v), .a = to.rows(in.a),
          .b = to.rows(in.b), .packing = in.packing};
}

constexpr size_t copies_of_chunk = 40 * dplr_tiles::tokens * dplr_tiles::channels;  // bytes, at most

void narrow_forward(const DplrScanForward& f) {
  const int64_t K = f.in.r.size(3), V = f.in.v.size(3);
  by_parts(f.in, copies_of_chunk, [&](int64_t n, int64_t rows) {
    const auto part = [&](const Tensor& t) { return rows_of(t, n, rows); };
    const DplrScanForward own{.in = rows_of(f.in, n, rows), .y = part(f.y), .final = part(f.final), .states = part(f.states),
                              .chunk = f.chunk};
    dplr_tiles::Widened in(own.in), out(own.in);
    DplrScanForward wide{.in = widen(own.in, in), .y = out.rows(own.y), .final = out.states(own.final, K, V),
                         .states = out.states(own.states, V, K), .chunk = f.chunk};
    wide.in.initial = in.states(own.in.initial, K, V);
    in.move<true>(f.device());
    tiles_forward(wide, [&](const int* left_out) {
      out.move<false>(f.device());
      plain_forward<bf16>(own, left_out);
    });
  });
}

void narrow_backward(const DplrScanBackward& g) {
  const int64_t K = g.in.r.size(3), V = g.in.v.size(3);
  by_parts(g.in, copies_of_chunk, [&](int64_t n, int64_t rows) {
    const auto part = [&](const Tensor& t) { return rows_of(t, n, rows); };
    const DplrScanBackward own{.in = rows_of(g.in, n, rows), .states = part(g.states), .d_y = part(g.d_y), .d_final = part(g.d_final),
                               .d_r = part(g.d_r), .d_log_w = part(g.d_log_w), .d_k = part(g.d_k), .d_v = part(g.d_v),
                               .d_a = part(g.d_a), .d_b = part(g.d_b), .d_initial = part(g.d_initial), .chunk = g.chunk};
    dplr_tiles::Widened in(own.in), out(own.in);
    const DplrScanBackward wide{.in = widen(own.in, in), .states = in.states(own.states, V, K), .d_y = in.rows(own.d_y),
                                .d_final = in.states(own.d_final, K, V), .d_r = out.rows(own.d_r), .d_log_w = out.rows(own.d_log_w),
                                .d_k = out.rows(own.d_k), .d_v = out.rows(own.d_v), .d_a = out.rows(own.d_a),
                                .d_b = out.rows(own.d_b), .d_initial = out.states(own.d_initial, K, V), .chunk = g.chunk};
    in.move<true>(g.device());
    tiles_backward(wide, [&](const int* left_out) {
      out.move<false>(g.device());
      plain_backward<bf16>(own, left_out);
    });
  });
}

bool empty(const DplrScanInputs& in) { return in.r.size(0) * in.r.size(2) == 0; }

void forward(const DplrScanForward& f) {
  if (empty(f.in)) return;
  if (fits_tiles(f.in, f.chunk)) {
    if (is_narrow(f.in)) return narrow_forward(f);
    return tiles_forward(f, [&](const int* left_out) { plain_forward<bf16>(f, left_out); });
  }
  visit<float, double, bf16>("dplr_scan", f.in.r.dtype(), [&]<class T>() { plain_forward<T>(f, nullptr); });
}

void backward(const DplrScanBackward& g) {
  if (empty(g.in)) return;
  if (fits_tiles(g.in, g.chunk)) {
    if (is_narrow(g.in)) return narrow_backward(g);
    return tiles_backward(g, [&](const int* left_out) { plain_backward<bf16>(g, left_out); });
  }
  visit<float, double, bf16>("dplr_scan", g.in.r.dtype(), [&]<class T>() { plain_backward<T>(g, nullptr); });
}

const Implement f{dplr_scan_forward, DeviceKind::cuda, forward};
const Implement b{dplr_scan_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
