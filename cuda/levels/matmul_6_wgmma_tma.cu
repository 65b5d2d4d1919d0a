// matmul, level 6: Hopper. One thread feeds shared memory through the copy engine; two warpgroups only multiply.
//   plan     a block owns 128 x 256 of c (or 128 x 128): two warpgroups of 64 rows each, sums in registers, wgmma with
//            both operands from shared memory as they came, k along or across rows; a third warpgroup's one thread keeps
//            four steps of 64 along K under way, with a barrier for "has come" and one for "is free" each. Two blocks of
//            a cluster share a column of tiles: each fetches half of b's step and delivers it to both
//   grid     as many clusters of two as run at once. Each takes whole tiles in turn, in bands; where those would not
//            keep all busy (a weight's gradient), each takes an equal range of the steps of all tiles. Who has a tile's
//            last step adds, in the order of k, what others summed of it and left in global memory
//   epilogue what is added comes through the copy engine while the tile is multiplied; of a gate's product half of a tile's
//            columns are b's and half up's, so that a thread holds both factors of its elements of c
//   traffic  each operand is read, from L2, once for every 256 rows or columns of c; with ranges 64 KB more are written
//            and read for each warpgroup whose range ends within a tile
//   limits   bf16, sums f32; addresses and rows of whole 16 bytes; not both transposed
//   ceiling  tensor cores: 16384 x 3352 x 768 takes 0.107 ms at 790 TFLOP/s
#include <cuda.h>

#include <nv/target>

#include "cuda/hopper.cuh"
#include "cuda/launch.cuh"
#include "cuda/levels/matmul.h"
#include "cuda/levels/wgmma_walk.cuh"
#include "cuda/sigmoid.cuh"
#include "cuda/tensor_map.h"
#include "cuda/vector.cuh"
#include "tensor/ops/scalar_math.h"

namespace taper::cuda {
namespace level_6 {  // named: where there is no Hopper most of it is unused, which is no fault

using namespace hopper;

struct Maps {
  CUtensorMap a, b, c;                  // [M,K] or [K,M]; [K,N] or [N,K]; [M,N], where bf16
  CUtensorMap added;                    // [M,N], where bf16
  CUtensorMap up, kept_gate, kept_up;   // as b; [M,N]
};

struct Ring {  // the stage at hand, and the parity of its barriers' phase
  int slot = 0, parity = 0;
  __device__ void next(int stages) {
    if (++slot == stages) slot = 0, parity ^= 1;
  }
};

// The thread that keeps the stages full.
template <class P, bool across_a, bool across_b>
__device__ void produce(const Maps& maps, const Walk& w, uint8_t* s_memory, Barrier* s_come, Barrier* s_free, int rank) {
  constexpr int part = P::tile_n / cluster;  // of b's step, fetched here: some of b's columns, or those of b or up
  const CUtensorMap &map_a = maps.a, &map_b = P::gate && rank == 1 ? maps.up : maps.b;
  constexpr uint16_t everyone = (1 << cluster) - 1;
  Ring ring;
  for (Work<P> work(w, rank); work.next();) {
    for (int step = 0; step < work.steps; ++step, ring.next(P::stages)) {
      uint8_t *s_a = s_memory + ring.slot * P::stage, *s_b = s_a + P::a_bytes + rank * part * 128;
      Barrier* come = s_come + ring.slot;
      const int k = (work.begin + step) * depth, n = work.n0 + (P::gate ? 0 : rank * part);
      barrier_wait(s_free + ring.slot, ring.parity ^ 1);
      barrier_arrive_expecting(come, P::stage);
      if constexpr (across_a) {
        for (int x = 0; x < tile_m; x += 64) copy_box(s_a + x * 128, map_a, work.m0 + x, k, come);
      } else {
        copy_box(s_a, map_a, k, work.m0, come);
      }
      if constexpr (across_b) {
        for (int x = 0; x < part; x += 64) copy_box(s_b + x * 128, map_b, n + x, k, come, everyone);
      } else {
        copy_box(s_b, map_b, k, n, come, everyone);
      }
    }
  }
}

// The sums of some of a tile's steps, for the block that has its last one; as they lie in registers.
template <int n>
__device__ void leave(const float (&r_c)[n], const Walk& w, int place, int consumer) {
  const int thread = int(threadIdx.x) % group;
  float4* g_part = w.g_parts + int64_t(place) * (n / 4 * group) + thread;
#pragma unroll
  for (int i = 0; i < n; i += 4)
    __stcg(g_part + i / 4 * group, make_float4(r_c[i], r_c[i + 1], r_c[i + 2], r_c[i + 3]));
  __threadfence();
  named_barrier(1 + consumer, group);
  if (thread == 0) store_release(w.g_left + place, 1);
}
template <int n>
__device__ void collect(float (&r_c)[n], const Walk& w, int place, int consumer) {
  const int thread = int(threadIdx.x) % group;
  if (thread == 0)
    while (load_acquire(w.g_left + place) == 0) __nanosleep(100);
  named_barrier(1 + consumer, group);
  const float4* g_part = w.g_parts + int64_t(place) * (n / 4 * group) + thread;
#pragma unroll
  for (int i0 = 0; i0 < n; i0 += 32) {
    float4 r[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) r[i] = __ldcg(g_part + (i0 / 4 + i) * group);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      r_c[i0 + i * 4] += r[i].x;
      r_c[i0 + i * 4 + 1] += r[i].y;
      r_c[i0 + i * 4 + 2] += r[i].z;
      r_c[i0 + i * 4 + 3] += r[i].w;
    }
  }
}

// f32: straight from registers; four lanes write the 32 bytes of a sector.
template <int n>
__device__ void write_out(const float (&r_c)[n], float* g_c, const float* g_added, int m, int n0, const Walk& w) {
  constexpr int batch = 16;  // reads under way at once when adding
  const int lane = int(threadIdx.x) % 32, row = m + int(threadIdx.x) % group / 32 * 16 + lane / 4,
            column = n0 + lane % 4 * 2;
  using Pair = Vector<float, 2>;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (row + half * 8 >= w.M) continue;
    const int64_t at = int64_t(row + half * 8) * w.N + column;
    Pair* g_row = reinterpret_cast<Pair*>(g_c + at);
    const Pair* g_old = reinterpret_cast<const Pair*>(g_added + at);
#pragma unroll
    for (int j0 = 0; j0 < n / 4; j0 += batch) {
      Pair r_old[batch] = {};
      if (w.added)
#pragma unroll
        for (int j = 0; j < batch; ++j)
          if (column + (j0 + j) * 8 < w.N) r_old[j] = g_old[(j0 + j) * 4];
#pragma unroll
      for (int j = 0; j < batch; ++j)
        if (column + (j0 + j) * 8 < w.N)
          g_row[(j0 + j) * 4] = {r_old[j].at[0] + r_c[(j0 + j) * 4 + half * 2],
                                 r_old[j].at[1] + r_c[(j0 + j) * 4 + half * 2 + 1]};
    }
  }
}

// Where a lane's 16 bytes of columns 8 j to 8 j + 15 lie in two panels of 64 columns.
__device__ inline uint8_t* place_out(uint8_t* s_out, int j) {
  const int lane = int(threadIdx.x) % 32, row = int(threadIdx.x) % group / 32 * 16 + lane % 16, chunk = j % 8 + lane / 16;
  return s_out + j / 8 * panel + row * 128 + ((chunk ^ (row & 7)) * 16);
}

// bf16 that is added comes, while the tile is multiplied, to where c will leave from: two panels at a time. It joins the
// sums before they are rounded.
__device__ inline void begin_added(const CUtensorMap& map, uint8_t* s_out, Barrier* s_come, int m, int n0) {  // one thread
  store_wait_read<0>();  // what was stored from here has been read
  barrier_arrive_expecting(s_come, 2 * panel);
  for (int q = 0; q < 2; ++q) copy_box(s_out + q * panel, map, n0 + q * 64, m, s_come);
}
template <int n>
__device__ void add_what_comes(float (&r_c)[n], const CUtensorMap& map, uint8_t* s_out, Barrier* s_come, int& parity,
                               int consumer, int m, int n0) {
#pragma unroll
  for (int p = 0; p < n / 64; ++p) {
    if (p > 0) {
      named_barrier(1 + consumer, group);  // the first two panels have been added by all
      if (int(threadIdx.x) % group == 0) begin_added(map, s_out, s_come, m, n0 + p * 128);
    }
    barrier_wait(s_come, parity);
    parity ^= 1;
#pragma unroll
    for (int j = 0; j < 16; j += 2) {
      uint32_t r_added[4];
      ldmatrix_x4(r_added, place_out(s_out, j));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        r_c[(p * 16 + j) * 4 + 2 * i] += __uint_as_float(r_added[i] << 16);
        r_c[(p * 16 + j) * 4 + 2 * i + 1] += __uint_as_float(r_added[i] & 0xffff0000u);
      }
    }
  }
}

// bf16: two panels of 64 columns, the p-th of the sums, through shared memory, from where the copy engine takes them to
// column n0.
template <int p, int n>
__device__ void write_out(const float (&r_c)[n], const CUtensorMap& map, uint8_t* s_out, int consumer, int m, int n0,
                          const Walk& w) {
  const int thread = int(threadIdx.x) % group;
  if (thread == 0) store_wait_read<0>();  // what was stored from here has been read
  named_barrier(1 + consumer, group);
#pragma unroll
  for (int j = 0; j < 16; j += 2) {
    const int r = (p * 16 + j) * 4;
    stmatrix_x4(place_out(s_out, j), pack_bf16(r_c[r], r_c[r + 1]), pack_bf16(r_c[r + 2], r_c[r + 3]),
                pack_bf16(r_c[r + 4], r_c[r + 5]), pack_bf16(r_c[r + 6], r_c[r + 7]));
  }
  fence_async();
  named_barrier(1 + consumer, group);
  if (thread == 0) {
    for (int q = 0; q < 2; ++q)
      if (n0 + q * 64 < w.N && m < w.M) store_box(map, n0 + q * 64, m, s_out + q * panel);
    store_commit();
  }
}

// The gate's columns are the first half of the sums, up's the second. The sigmoids are made while the store before reads.
template <int n>
__device__ void write_gate(float (&r_c)[n], const Maps& maps, uint8_t* s_out, int consumer, int m, int n0, const Walk& w) {
  if (w.kept) write_out<0>(r_c, maps.kept_gate, s_out, consumer, m, n0, w);
#pragma unroll
  for (int i = 0; i < n / 2; ++i) r_c[i] *= sigmoid<bf16>(r_c[i]) * r_c[n / 2 + i];
  if (w.kept) write_out<1>(r_c, maps.kept_up, s_out, consumer, m, n0, w);
  write_out<0>(r_c, maps.c, s_out, consumer, m, n0, w);
}

// A warpgroup that multiplies what comes.
template <class P, class C, bool across_a, bool across_b>
__device__ void consume(const Maps& maps, C* g_c, const C* g_added, const Walk& w, uint8_t* s_memory, Barrier* s_come,
                        Barrier* s_free, Barrier* s_added, int rank, int consumer) {
  constexpr bool narrow = !std::is_same_v<C, float>;
  const int thread = int(threadIdx.x) % group;
  uint8_t* s_out = s_memory + P::out + consumer * 2 * panel;
  int added_parity = 0;
  auto release = [&](int slot) {  // in both blocks: each fetches for the other
    if (thread < cluster) barrier_arrive_at(s_free + slot, thread);
  };
  Ring ring;
  for (Work<P> work(w, rank); work.next();) {
    float r_c[P::tile_n / 2];  // 64 x tile_n, among 128 threads
    const int m = work.m0 + consumer * 64;
    int last = 0;
    for (int step = 0; step < work.steps; ++step, ring.next(P::stages)) {
      const uint8_t* s_a = s_memory + ring.slot * P::stage;
      const uint64_t a = operand(s_a + consumer * panel), b = operand(s_a + P::a_bytes, panel);
      barrier_wait(s_come + ring.slot, ring.parity);
      wgmma_fence();
#pragma unroll
      for (int j = 0; j < depth / 16; ++j)
        wgmma<across_a, across_b>(r_c, a + j * operand_step<across_a>(), b + j * operand_step<across_b>(),
                                  step + j > 0);
      wgmma_commit();
      if (narrow && !P::gate && w.added && work.owned && step == 0 && thread == 0)
        begin_added(maps.added, s_out, s_added, m, work.n0);
      wgmma_wait<1>();  // the step before is done, this one goes on
      if (step > 0) release(last);
      last = ring.slot;
    }
    wgmma_wait<0>();
    release(last);
    auto place = [&](int range) { return (range * cluster + rank) * consumers + consumer; };
    if (!work.owned) {
      leave(r_c, w, place(work.range()), consumer);
      continue;
    }
    for (int range = work.first_range; range < work.range(); ++range) collect(r_c, w, place(range), consumer);
    if (!P::gate && w.relu_squared) {
#pragma unroll
      for (float& c : r_c) c = scalar::ReluSquared().value(c);
    }
    if constexpr (!narrow) {
      write_out(r_c, g_c, g_added, m, work.n0, w);
    } else if constexpr (P::gate) {
      write_gate(r_c, maps, s_out, consumer, m, work.n0, w);
    } else {
      if (w.added) add_what_comes(r_c, maps.added, s_out, s_added, added_parity, consumer, m, work.n0);
      write_out<0>(r_c, maps.c, s_out, consumer, m, work.n0, w);
      if constexpr (P::tile_n > 128) write_out<1>(r_c, maps.c, s_out, consumer, m, work.n0 + 128, w);
    }
  }
  if (narrow && thread == 0) store_wait_read<0>();
}

template <class P, class C, bool across_a, bool across_b>
__device__ void wgmma_block(const Maps& maps, C* g_c, const C* g_added, const Walk& w) {
  extern __shared__ uint8_t s_raw[];
  uint8_t* s_memory =
      s_raw + (1024 - shared_address(s_raw) % 1024) % 1024;  // [stages][a, b], [consumers][2 panels], barriers
  Barrier *s_come = reinterpret_cast<Barrier*>(s_memory + P::barriers), *s_free = s_come + P::stages, *s_added = s_free + P::stages;
  const int rank = cluster_rank(), role = int(threadIdx.x) / group;
  if (threadIdx.x == 0) {
    for (int s = 0; s < P::stages; ++s) {
      barrier_init(s_come + s, 1);
      barrier_init(s_free + s, consumers * cluster);
    }
    for (int i = 0; i < consumers; ++i) barrier_init(s_added + i, 1);
    barrier_init_done();
  }
  cluster_sync();
  if (role == 0) {
    registers_give<40>();
    if (threadIdx.x == 0) produce<P, across_a, across_b>(maps, w, s_memory, s_come, s_free, rank);
    __syncwarp();
  } else {
    registers_take<232>();
    consume<P, C, across_a, across_b>(maps, g_c, g_added, w, s_memory, s_come, s_free, s_added + role - 1, rank, role - 1);
  }
  cluster_sync();  // the other block's arrivals and copies come here as long as it works
}

template <class P, class C, bool across_a, bool across_b>
__global__ __launch_bounds__(threads, 1) void wgmma_kernel(const __grid_constant__ Maps maps,
                                                           C* g_c,            // [M,N]
                                                           const C* g_added,  // [M,N], or none
                                                           const __grid_constant__ Walk w) {
  NV_IF_ELSE_TARGET(NV_HAS_FEATURE_SM_90a, (wgmma_block<P, C, across_a, across_b>(maps, g_c, g_added, w);), (__trap();))
}

CUtensorMap matrix_map(const void* g, int64_t inner, int64_t outer, int box_inner, int box_outer) {
  return tensor_map<2>(g, {inner, outer}, {box_inner, box_outer});
}

constexpr int64_t left_bytes = 4096;  // of the workspace, for g_left
static_assert(most_ranges * cluster * consumers * int64_t(sizeof(int)) <= left_bytes);

template <class P, class C, bool across_a, bool across_b>
void launch(const Product& p, Walk w) {
  const auto kernel = wgmma_kernel<P, C, across_a, across_b>;
  cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, P::shared_bytes));
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.blockDim = dim3(threads);
  config.gridDim = dim3(cluster);
  config.dynamicSmemBytes = P::shared_bytes;
  config.stream = p.stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  static const int at_once = [&] {  // clusters; what they make does not depend on it
    int n = 0;
    cuda_check(cudaOccupancyMaxActiveClusters(&n, kernel, &config));
    return n > 0 ? n : 1;
  }();
  config.gridDim = dim3(unsigned((w.ranges ? w.ranges : std::min(at_once, w.rows * w.columns)) * cluster));
  if (w.ranges) {
    w.g_left = static_cast<int*>(p.workspace);
    w.g_parts = reinterpret_cast<float4*>(static_cast<char*>(p.workspace) + left_bytes);
    cuda_check(cudaMemsetAsync(w.g_left, 0, left_bytes, p.stream));
  }
  const auto columns = [&](const void* b) {
    return across_b ? matrix_map(b, p.N, p.K, 64, depth) : matrix_map(b, p.K, p.N, depth, P::tile_n / cluster);
  };
  Maps maps{};
  maps.a = across_a ? matrix_map(p.a, p.M, p.K, 64, depth) : matrix_map(p.a, p.K, p.M, depth, tile_m);
  maps.b = columns(p.b);
  if constexpr (!std::is_same_v<C, float>) {
    const auto panels = [&](const void* c) { return c ? matrix_map(c, p.N, p.M, 64, 64) : CUtensorMap{}; };
    maps.c = panels(p.c);
    maps.added = panels(p.added);
    maps.kept_gate = panels(p.kept_gate);
    maps.kept_up = panels(p.kept_up);
    if (P::gate) maps.up = columns(p.up);
  }
  cuda_check(cudaLaunchKernelEx(&config, kernel, maps, static_cast<C*>(p.c), static_cast<const C*>(p.added), w));
}

using Gate = Plan<256, 4, true>;

// f.operator()<Plan>(): narrow tiles where wide ones would be half empty.
template <class F>
auto with_plan(const Product& p, F&& f) {
  if (p.up) return f.template operator()<Gate>();
  if (over(p.N, 128) % 2 == 1 && p.N <= 384) return f.template operator()<Plan<128, 6>>();
  return f.template operator()<Plan<256, 4>>();
}

constexpr int band = 8;

}  // namespace level_6

using namespace level_6;

bool matmul_wgmma_runs() {
  static const bool runs = runs_here(reinterpret_cast<const void*>(wgmma_kernel<Plan<256, 4>, float, false, false>));
  return runs;
}

bool matmul_wgmma_takes(const Product& p) {
  constexpr int64_t most = INT32_MAX - 512;  // places along a side are ints, up to the end of its last tiles
  const auto whole = [&](const void* c) { return whole_16_bytes(c, p.N); };
  Product other = p;
  other.b = p.up;
  const bool gate = !p.up || (p.result == Dtype::bf16 && !p.transpose_a && whole_b(other) && whole(p.kept_gate) && whole(p.kept_up));
  return p.operands == Dtype::bf16 && p.M <= most && p.N <= most && p.K <= most && whole_a(p) && whole_b(p) && whole(p.c) && whole(p.added) &&
         gate && !(p.transpose_a && p.transpose_b) && matmul_wgmma_runs();
}

int64_t matmul_wgmma_workspace(const Product& p) {
  return with_plan(p, [&]<class P>() -> int64_t {
    const Walk w = walk_of<P>(p, band);
    return w.ranges ? left_bytes + w.ranges * P::part_floats * int64_t(sizeof(float)) : 0;
  });
}

void matmul_wgmma(const Product& p) {
  visit<bf16, float>("matmul", p.result, [&]<class C>() {
    with_plan(p, [&]<class P>() {
      const Walk w = walk_of<P>(p, band);
      if constexpr (P::gate && std::is_same_v<C, float>) raise("matmul: level 6 makes a gate in bf16");
      else if (!p.transpose_a) p.transpose_b ? launch<P, C, false, false>(p, w) : launch<P, C, false, true>(p, w);
      else if constexpr (!P::gate) launch<P, C, true, true>(p, w);
    });
  });
}

}  // namespace taper::cuda
