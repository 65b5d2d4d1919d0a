// ssd_scan's walks on Hopper, forward and the backward's over the states: what ssd_scan_forward.cuh and ssd_scan_backward.cuh
// do, with the copy engine and warpgroups.
//   plan     a block walks the chunks of twice 64 columns of x. One thread keeps stages of a chunk's tiles under way, one
//            warp for each side makes its decays; a warpgroup for each side multiplies: the state S^T [64,N] stays in
//            its registers, f32 as sums and bf16 as an operand. So y is made as y^T = S^T C^T + X^T (M E dt)^T, with the
//            weights in shared memory, and turned on its way out. The two warpgroups share the tiles and wait for
//            nothing of each other
//   traffic  as the portable kernels: forward x b c in, y, states out; back dy c in, d states out
//   limits   what the portable tensor-core kernels want; back N <= 128
//   ceiling  HBM: B=8 T=2048 H=24 P=64 N=128 moves 210 MB forward and 155 MB back, 70 and 52 us at 3 TB/s; a chunk of one
//            head takes 900 cycles of the tensor cores forward: 96 blocks of two heads 33 us
#pragma once
#include <nv/target>

#include "cuda/hopper.cuh"
#include "cuda/ops/ssd_scan_forward.cuh"
#include "cuda/tensor_map.h"

namespace taper::kernels::ssd::on_hopper {

using namespace cuda::hopper;

constexpr int most_reverse_N = 128;  // with 256 the portable walk is faster: a warpgroup writes the state out, then multiplies
constexpr int group = 128, walk_threads = 3 * group;  // a warpgroup that feeds, one for each side

// Where an element of a tile [rows][any width] lies as the copy engine leaves it: panels of 64 columns, rows of 128 bytes
// whose 16-byte pieces are xored with the row.
constexpr int panel = rows * 64, panel_bytes = panel * int(sizeof(bf16));
__device__ inline int place(int row, int column) {
  return column / 64 * panel + row * 64 + ((column / 8 % 8) ^ (row % 8)) * 8 + column % 8;
}

template <int N>
struct ForwardStage {
  alignas(1024) bf16 c[rows * N], b[rows * N];
  bf16 x[2][panel];       // by side
  ChunkDecays decays[2];  // by side
  float write[2][rows];   // by side: exp(G_L - G_j) dt_j
};
template <int N>
struct ReverseStage {
  alignas(1024) bf16 c[rows * N];
  bf16 dy[2][panel];
  float in[2][rows];  // by side: exp(G_i), 0 behind a document start
};

template <class Stage>
struct Memory {
  static constexpr int stages = sizeof(Stage) > 64 * 1024 ? 2 : sizeof(Stage) > 48 * 1024 ? 3 : 4;
  Stage stage[stages];
  alignas(1024) bf16 weights[2][panel], y[2][panel];    // by side: [i][j], [i][p]; of the forward
  Barrier come[stages], made[stages][2], free[stages];  // the tiles, a side's decays; read by all

  __device__ void init() {
    for (int i = 0; i < stages; ++i) {
      barrier_init(&come[i], 1);
      for (int side = 0; side < 2; ++side) barrier_init(&made[i][side], 1);
      barrier_init(&free[i], 2 * group / 32);
    }
    barrier_init_done();
  }
  __device__ static Memory& here() {
    extern __shared__ unsigned char s_bytes[];
    return *reinterpret_cast<Memory*>(s_bytes + (1024 - cuda::shared_address(s_bytes) % 1024) % 1024);
  }
};
template <class Stage>
constexpr int bytes_of = int(sizeof(Memory<Stage>)) + 1024;  // to align it

// Step i of a walk: its stage, and the parity for which its "come" and "made" are waited for ("free": the other).
template <class Stage>
struct Step {
  int slot, parity;
  __device__ explicit Step(int i) : slot(i % Memory<Stage>::stages), parity(i / Memory<Stage>::stages % 2) {}
};

struct Place {  // of a block: two sides of one sequence's group
  int64_t n, group;
  Side first, second;
  __device__ const Side& side(int i) const { return i ? second : first; }
  __device__ explicit Place(const View<bf16>& v) : Place(v, int64_t(blockIdx.x), walks_of(v) / v.B / v.G) {}

 private:
  __device__ Place(const View<bf16>& v, int64_t block, int64_t pairs)
      : n(block / pairs / v.G),
        group(block / pairs % v.G),
        first(v, group, block % pairs * 2),
        second(v, group, block % pairs * 2 + 1) {}
};

// The tiles' columns of x (or dy) as operand in registers, [16 of j][register]: rows p of the warp, columns j.
using Columns = uint32_t[rows / 16][4];
__device__ inline void load_columns(Columns& x, const bf16* s_x) {
  const int lane = int(threadIdx.x) % 32, strip = int(threadIdx.x) % group / 32;
#pragma unroll
  for (int e = 0; e < rows; e += 16)
    cuda::ldmatrix_x4_trans(x[e / 16], s_x + place(e + lane % 8 + lane / 16 * 8, 16 * strip + lane / 8 % 2 * 8));
}

// One side's state: S^T [64 p, N] as the sums of a warpgroup.
template <int N>
struct State {
  float r[N / 2] = {};

  template <class F>
  __device__ void for_each(float* g, const View<bf16>& v, int64_t n, const Side& my, F f) {  // g: [B,H,N,P]
    const int strip = int(threadIdx.x) % group / 32;
    for_share<N>(g + (n * v.H + my.h) * v.N * v.P + my.p0 + 16 * strip, v.P, int(v.N), my.columns - 16 * strip,
                 [&](int tile, int e, float* g_at) { f(r[4 * tile + e], g_at); });
  }
  __device__ void load(const float* g, const View<bf16>& v, int64_t n, const Side& my) {
    for_each(const_cast<float*>(g), v, n, my, [](float& x, const float* g_at) { x = *g_at; });
  }
  __device__ void store(float* g, const View<bf16>& v, int64_t n, const Side& my) {
    for_each(g, v, n, my, [](float& x, float* g_at) { *g_at = x; });
  }
  // 32 of N from n0 on, in bf16, to the states of chunk k.
  __device__ void leave(int n0, bf16* g_states, const View<bf16>& v, int64_t n, int64_t k, const Side& my) const {
    const int64_t p0 = my.p0 + int(threadIdx.x) % group / 32 * 16;
    bf16* g_to = g_states + v.state(n, k, my.h) + p0 * v.N;
    store_wide(reinterpret_cast<const float(*)[4]>(&r[n0 / 2]), g_to + n0, v.N, my.columns - int(p0 - my.p0), int(v.N) - n0);
  }
  // S^T for 16 of N from 16 * step on, as operand.
  __device__ void pack(uint32_t (&a)[4], int step) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = cuda::pack_bf16(r[8 * step + 2 * i], r[8 * step + 2 * i + 1]);
  }
  // S^T = whole S^T + X^T diag(by) B: begun, not awaited. B [64 tokens, N].
  __device__ void advance(float whole, Columns& x, const float* s_by, const bf16* s_b) {
    const int q = int(threadIdx.x) % 4;
#pragma unroll
    for (int e = 0; e < rows; e += 16)
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const float2 by = two(s_by, e + 2 * q + u / 2 * 8);
        x[e / 16][u] = scaled(x[e / 16][u], by.x, by.y);
      }
#pragma unroll
    for (float& sum : r) sum *= whole;
    wgmma_fence();
    const uint64_t b = operand(s_b, panel_bytes);
#pragma unroll
    for (int step = 0; step < rows / 16; ++step) wgmma<true>(r, x[step], b + step * operand_step<true>(), true);
    wgmma_commit();
  }
};

__device__ inline void copy_tile(bf16* s_tile, const CUtensorMap& map, int width, int y, int t, int n, Barrier* come) {
  for (int column = 0; column < width; column += 64) copy_box(s_tile + column / 64 * panel, map, column, y, t, n, come);
}
__device__ inline void copy_sides(bf16 (&s_tiles)[2][panel], const CUtensorMap& map, const Place& at, int t, Barrier* come) {
  copy_box(s_tiles[0], map, int(at.first.p0), int(at.first.h), t, int(at.n), come);
  copy_box(s_tiles[1], map, int(at.second.p0), int(at.second.h), t, int(at.n), come);
}

// A block's walk over the chunks, one stage for each:
//   fetch(stage, come, where, t)     one thread; begins the copies of 64 tokens from t on, which `come` counts
//   decide(stage, side, tokens, k)   a warp for each side; writes what the decays of chunk k are needed for
//   work(s, where, side)             a warpgroup for each side; takes the stages in turn and sets them free
template <class Stage, bool back, class Fetch, class Decide, class Work>
__device__ void walk(const View<bf16>& v, Fetch fetch, Decide decide, Work work) {
  Memory<Stage>& s = Memory<Stage>::here();
  const int role = int(threadIdx.x) / group, warp = int(threadIdx.x) / 32, chunks = int(v.chunks);
  const Place where(v);
  if (threadIdx.x == 0) s.init();
  __syncthreads();
  if (role > 0) {
    registers_take<224>();
    return work(s, where, role - 1);
  }
  registers_give<56>();
  auto chunk = [&](int i) { return back ? chunks - 1 - i : i; };
  if (threadIdx.x == 0) {
    for (int i = 0; i < chunks; ++i) {
      const Step<Stage> at(i);
      barrier_wait(&s.free[at.slot], at.parity ^ 1);
      fetch(s.stage[at.slot], &s.come[at.slot], where, chunk(i) * rows);
    }
  } else if (warp >= 2) {
    const int side = warp - 2;
    ChunkTokens next;  // read a chunk before they are asked for
    next.read(v, where.n, where.side(side).h, chunk(0));
    for (int i = 0; i < chunks; ++i) {
      const ChunkTokens tokens = next;
      if (i + 1 < chunks) next.read(v, where.n, where.side(side).h, chunk(i + 1));
      const Step<Stage> at(i);
      barrier_wait(&s.free[at.slot], at.parity ^ 1);
      decide(s.stage[at.slot], side, tokens, chunk(i));
      __syncwarp();
      if (threadIdx.x % 32 == 0) barrier_arrive(&s.made[at.slot][side]);
    }
  }
}

// ---- forward ----

struct ForwardMaps {
  CUtensorMap x, b, c, y;  // [B,T,H,P] [B,T,G,N] [B,T,G,N] [B,T,H,P]
};

// (M E dt)_ij to shared memory, a warp's 16 rows i from the sums of M.
__device__ inline void write_weights(bf16* s_weights, const float (&r_m)[32], const ChunkDecays& decays) {
  const int lane = int(threadIdx.x) % 32, strip = int(threadIdx.x) % group / 32;
  const PairWeights of(decays, 16 * strip + lane / 4, 16 * strip + lane / 4 + 8);
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    uint32_t w[4] = {0, 0, 0, 0};
    if (block <= strip) {
      float weights[2][4];
      if (block < strip) of.before(weights, decays, 16 * block);
      else of.diagonal(weights, decays, 16 * block);
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const float *by = &weights[u / 2][u % 2 * 2], *r = &r_m[8 * block + 2 * u];
        w[u] = cuda::pack_bf16(by[0] * r[0], by[1] * r[1]);
      }
    }
    stmatrix_x4(s_weights + place(16 * strip + lane % 16, 16 * block + lane / 16 * 8), w[0], w[1], w[2], w[3]);
  }
}

template <int N>
__device__ void forward_side(const ForwardMaps& maps, const View<bf16>& v, Memory<ForwardStage<N>>& s, const Place& where,
                             int side, bf16* g_states, float* g_final) {
  const int thread = int(threadIdx.x) % group, lane = thread % 32, strip = thread / 32, q = lane % 4;
  const int chunks = int(v.chunks);
  const Side my = where.side(side);
  const int64_t n = where.n;
  bf16 *s_weights = s.weights[side], *s_y = s.y[side];
  State<N> state;
  if (v.g_initial) state.load(v.g_initial, v, n, my);
  const float skip = v.g_d ? v.g_d[my.h] : 0.0f;
  auto meet = [&] { named_barrier(1 + side, group); };
  for (int k = 0; k < chunks; ++k) {
    const Step<ForwardStage<N>> at(k);
    const ForwardStage<N>& stage = s.stage[at.slot];
    const ChunkDecays& decays = stage.decays[side];
    const uint64_t b = operand(stage.b), c = operand(stage.c);
    auto at_step = [](uint64_t from, int step) {  // 16 of N each
      return from + step / 4 * (panel_bytes >> 4) + step % 4 * operand_step<false>();
    };
    float r_m[32], r_y[32];  // M = C B^T [64 i, 64 j]; y^T [64 p, 64 i]
    barrier_wait(&s.come[at.slot], at.parity);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < N / 16; ++step) wgmma<false, false>(r_m, at_step(c, step), at_step(b, step), step > 0);
    wgmma_commit();
    // S^T C^T, and the state out: a part of N at a time, so that few registers hold them in bf16
    constexpr int part = N <= 128 ? 4 : 2;  // times 16
    auto read_state = [&](int step0) {
      uint32_t a[part][4];
#pragma unroll
      for (int step = 0; step < part; ++step) state.pack(a[step], step0 + step);
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < part; ++step) wgmma<false>(r_y, a[step], at_step(c, step0 + step), step0 + step > 0);
      wgmma_commit();
      if constexpr (N > 128) wgmma_wait<1>();  // the operand of the part before is free
#pragma unroll
      for (int step = 0; step < part; step += 2) state.leave(16 * (step0 + step), g_states, v, n, k, my);
    };
    constexpr int early = N <= 128 ? part : 0;  // with N = 256 the registers hold M or y
    if constexpr (early > 0) read_state(0);
    barrier_wait(&s.made[at.slot][side], at.parity);
    wgmma_wait<early ? 1 : 0>();
    wgmma_done(r_m);
    write_weights(s_weights, r_m, decays);
    if (thread == 0) store_wait_read<0>();  // y of the chunk before
    fence_async();
    meet();
#pragma unroll
    for (int step = early; step < N / 16; step += part) read_state(step);
    Columns x, scaled_x;
    load_columns(x, stage.x[side]);
    wgmma_wait<0>();
    wgmma_done(r_y);
#pragma unroll
    for (int tile = 0; tile < 8; ++tile) {
      const float2 in = two(decays.in, 8 * tile + 2 * q);
#pragma unroll
      for (int e = 0; e < 4; e += 2) r_y[4 * tile + e] *= in.x, r_y[4 * tile + e + 1] *= in.y;
    }
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < rows / 16; ++step)
      wgmma<false>(r_y, x[step], operand(s_weights) + step * operand_step<false>(), true);
    wgmma_commit();
    if constexpr (N > 128) wgmma_wait<0>();  // x's registers are free
    load_columns(scaled_x, stage.x[side]);
    state.advance(decays.in[rows - 1], scaled_x, stage.write[side], stage.b);
    wgmma_wait<1>();
    wgmma_done(r_y);
    load_columns(x, stage.x[side]);
#pragma unroll
    for (int tile = 0; tile < 8; tile += 2) {
      uint32_t y[4];
#pragma unroll
      for (int u = 0; u < 4; ++u) {  // x lies as y does
        const float* r = &r_y[4 * tile + 2 * u];
        y[u] = cuda::pack_bf16(r[0] + skip * low_of(x[tile / 2][u]), r[1] + skip * high_of(x[tile / 2][u]));
      }
      stmatrix_x4_trans(s_y + place(8 * tile + lane / 16 * 8 + lane % 8, 16 * strip + lane / 8 % 2 * 8), y[0], y[1], y[2], y[3]);
    }
    fence_async();
    meet();
    if (thread == 0 && my.columns > 0) {
      store_box(maps.y, int(my.p0), int(my.h), k * rows, int(n), s_y);
      store_commit();
    }
    wgmma_wait<0>();
    wgmma_done(state.r);
    __syncwarp();
    if (lane == 0) barrier_arrive(&s.free[at.slot]);
  }
  state.store(g_final, v, n, my);
  if (thread == 0) store_wait_read<0>();
}

template <int N>
__device__ void forward_block(const ForwardMaps& maps, const View<bf16>& v, bf16* g_states, float* g_final) {
  using Stage = ForwardStage<N>;
  walk<Stage, false>(
      v,
      [&](Stage& stage, Barrier* come, const Place& where, int t) {
        barrier_arrive_expecting(come, int(sizeof(stage.c) + sizeof(stage.b) + sizeof(stage.x)));
        copy_tile(stage.c, maps.c, N, int(where.group), t, int(where.n), come);
        copy_tile(stage.b, maps.b, N, int(where.group), t, int(where.n), come);
        copy_sides(stage.x, maps.x, where, t, come);
      },
      [&](Stage& stage, int side, const ChunkTokens& tokens, int k) {
        tokens.finish(stage.decays[side], k);
        const int j = 2 * (int(threadIdx.x) % 32);
        const float2 out = two(stage.decays[side].out, j);
        *reinterpret_cast<float2*>(&stage.write[side][j]) = make_float2(out.x * tokens.dt.x, out.y * tokens.dt.y);
      },
      [&](Memory<Stage>& s, const Place& where, int side) { forward_side(maps, v, s, where, side, g_states, g_final); });
}

template <int N>
__global__ void __launch_bounds__(walk_threads, 1) forward_kernel(const __grid_constant__ ForwardMaps maps,
                                                                  const __grid_constant__ View<bf16> v,
                                                                  bf16* g_states,    // [B,chunks,H,P,N]
                                                                  float* g_final) {  // [B,H,N,P]
  NV_IF_ELSE_TARGET(NV_HAS_FEATURE_SM_90a, (forward_block<N>(maps, v, g_states, g_final);), (__trap();))
}

// ---- d states: dS^T = exp(G_L) dS^T + dY^T diag(exp(G_i)) C, from the last chunk to the first ----

struct ReverseMaps {
  CUtensorMap dy, c;  // [B,T,H,P] [B,T,G,N]
};

template <int N>
__device__ void reverse_side(const View<bf16>& v, Memory<ReverseStage<N>>& s, const Place& where, int side,
                             const float* g_d_final, bf16* g_d_states, float* g_d_initial) {
  const int chunks = int(v.chunks);
  const Side my = where.side(side);
  State<N> state;
  if (g_d_final) state.load(g_d_final, v, where.n, my);
  for (int i = 0; i < chunks; ++i) {
    const Step<ReverseStage<N>> at(i);
    const ReverseStage<N>& stage = s.stage[at.slot];
#pragma unroll
    for (int n0 = 0; n0 < N; n0 += 32) state.leave(n0, g_d_states, v, where.n, chunks - 1 - i, my);
    barrier_wait(&s.come[at.slot], at.parity);
    barrier_wait(&s.made[at.slot][side], at.parity);
    Columns dy;
    load_columns(dy, stage.dy[side]);
    state.advance(stage.in[side][rows - 1], dy, stage.in[side], stage.c);
    wgmma_wait<0>();
    wgmma_done(state.r);
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(&s.free[at.slot]);
  }
  if (g_d_initial) state.store(g_d_initial, v, where.n, my);
}

template <int N>
__device__ void reverse_block(const ReverseMaps& maps, const View<bf16>& v, const float* g_d_final, bf16* g_d_states,
                              float* g_d_initial) {
  using Stage = ReverseStage<N>;
  walk<Stage, true>(
      v,
      [&](Stage& stage, Barrier* come, const Place& where, int t) {
        barrier_arrive_expecting(come, int(sizeof(stage.c) + sizeof(stage.dy)));
        copy_tile(stage.c, maps.c, N, int(where.group), t, int(where.n), come);
        copy_sides(stage.dy, maps.dy, where, t, come);
      },
      [&](Stage& stage, int side, const ChunkTokens& tokens, int k) {
        *reinterpret_cast<float2*>(&stage.in[side][2 * (int(threadIdx.x) % 32)]) = tokens.in(tokens.sums(), k * rows);
      },
      [&](Memory<Stage>& s, const Place& where, int side) {
        reverse_side(v, s, where, side, g_d_final, g_d_states, g_d_initial);
      });
}

template <int N>
__global__ void __launch_bounds__(walk_threads, 1) reverse_kernel(const __grid_constant__ ReverseMaps maps,
                                                                  const __grid_constant__ View<bf16> v,
                                                                  const float* g_d_final,  // [B,H,N,P] or absent: 0
                                                                  bf16* g_d_states,        // [B,chunks,H,P,N]
                                                                  float* g_d_initial) {    // [B,H,N,P] or absent
  NV_IF_ELSE_TARGET(NV_HAS_FEATURE_SM_90a, (reverse_block<N>(maps, v, g_d_final, g_d_states, g_d_initial);), (__trap();))
}

// ---- launches ----

inline bool here() {
  static const bool runs = runs_here(reinterpret_cast<const void*>(forward_kernel<128>));
  return runs;
}
inline CUtensorMap tokens_map(const bf16* g, const View<bf16>& v, int64_t heads, int64_t width) {
  return tensor_map<4>(g, {width, heads, v.steps, v.B}, {64, 1, rows, 1});
}

template <int N>
void launch_forward(const SsdScanForward& a) {
  constexpr int bytes = bytes_of<ForwardStage<N>>;
  const View<bf16> v(a.in, a.chunk);
  const ForwardMaps maps{tokens_map(v.g_x, v, v.H, v.P), tokens_map(v.g_b, v, v.G, v.N), tokens_map(v.g_c, v, v.G, v.N),
                         tokens_map(a.y.data<bf16>(), v, v.H, v.P)};
  take_shared(forward_kernel<N>, bytes);
  forward_kernel<N><<<cuda::blocks_for(walks_of(v), 1), walk_threads, bytes, cuda::stream_of(a.device())>>>(
      maps, v, a.states.data<bf16>(), a.final.data<float>());
  cuda::cuda_check(cudaGetLastError());
}

template <int N>
void launch_reverse(const View<bf16>& v, const Tensor& d_y, const Tensor& d_final, const Tensor& d_states,
                    const Tensor& d_initial, cudaStream_t stream) {
  constexpr int bytes = bytes_of<ReverseStage<N>>;
  const ReverseMaps maps{tokens_map(d_y.data<bf16>(), v, v.H, v.P), tokens_map(v.g_c, v, v.G, v.N)};
  take_shared(reverse_kernel<N>, bytes);
  reverse_kernel<N><<<cuda::blocks_for(walks_of(v), 1), walk_threads, bytes, stream>>>(
      maps, v, d_final ? d_final.data<float>() : nullptr, d_states.data<bf16>(),
      d_initial ? d_initial.data<float>() : nullptr);
  cuda::cuda_check(cudaGetLastError());
}

}  // namespace taper::kernels::ssd::on_hopper
