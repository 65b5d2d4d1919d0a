// matmul, level 6: Hopper. One thread feeds shared memory through the copy engine; two warpgroups only multiply.
//   plan     a block owns 128 x 256 of c (or 128 x 128): two warpgroups of 64 rows each, sums in registers, wgmma with
//            both operands from shared memory as they came, k along or across rows; a third warpgroup's one thread keeps
//            four steps of 64 along K under way, with a barrier for "has come" and one for "is free" each. Two blocks of
//            a cluster share a column of tiles: each fetches half of b's step and delivers it to both
//   grid     as many clusters of two as run at once. Each takes whole tiles in turn, in bands; where those would not
//            keep all busy (a weight's gradient), each takes an equal range of the steps of all tiles. Who has a tile's
//            last step adds, in the order of k, what others summed of it and left in global memory
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
#include "cuda/vector.cuh"
#include "tensor/ops/scalar_math.h"

namespace taper::cuda {
namespace level_6 {  // named: where there is no Hopper most of it is unused, which is no fault

using namespace hopper;

struct Ring {  // the stage at hand, and the parity of its barriers' phase
  int slot = 0, parity = 0;
  __device__ void next(int stages) {
    if (++slot == stages) slot = 0, parity ^= 1;
  }
};

// The thread that keeps the stages full.
template <class P, bool across_a, bool across_b>
__device__ void produce(const CUtensorMap& map_a, const CUtensorMap& map_b, const Walk& w, uint8_t* s_memory,
                        Barrier* s_come, Barrier* s_free, int rank) {
  constexpr int part = P::tile_n / cluster;  // of b's step, fetched here
  constexpr uint16_t everyone = (1 << cluster) - 1;
  Ring ring;
  for (Work<P> work(w, rank); work.next();) {
    for (int step = 0; step < work.steps; ++step, ring.next(P::stages)) {
      uint8_t *s_a = s_memory + ring.slot * P::stage, *s_b = s_a + P::a_bytes + rank * part * 128;
      Barrier* come = s_come + ring.slot;
      const int k = (work.begin + step) * depth, n = work.n0 + rank * part;
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
__device__ void write_out(const float (&r_c)[n], float* g_c, int m, int n0, const Walk& w) {
  constexpr int batch = 16;  // reads under way at once when adding
  const int lane = int(threadIdx.x) % 32, row = m + int(threadIdx.x) % group / 32 * 16 + lane / 4,
            column = n0 + lane % 4 * 2;
  using Pair = Vector<float, 2>;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (row + half * 8 >= w.M) continue;
    Pair* g_row = reinterpret_cast<Pair*>(g_c + int64_t(row + half * 8) * w.N + column);
#pragma unroll
    for (int j0 = 0; j0 < n / 4; j0 += batch) {
      Pair r_old[batch] = {};
      if (w.accumulate)
#pragma unroll
        for (int j = 0; j < batch; ++j)
          if (column + (j0 + j) * 8 < w.N) r_old[j] = g_row[(j0 + j) * 4];
#pragma unroll
      for (int j = 0; j < batch; ++j)
        if (column + (j0 + j) * 8 < w.N)
          g_row[(j0 + j) * 4] = {r_old[j].at[0] + r_c[(j0 + j) * 4 + half * 2],
                                 r_old[j].at[1] + r_c[(j0 + j) * 4 + half * 2 + 1]};
    }
  }
}

// bf16 that is added to: c joins the sums before they are rounded.
template <int n>
__device__ void add_old(float (&r_c)[n], const bf16* g_c, int m, int n0, const Walk& w) {
  constexpr int batch = 16;  // reads under way at once
  const int lane = int(threadIdx.x) % 32, row = m + int(threadIdx.x) % group / 32 * 16 + lane / 4;
  const int column = n0 + lane % 4 * 2;
  using Pair = Vector<bf16, 2>;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (row + half * 8 >= w.M) continue;
    const Pair* g_row = reinterpret_cast<const Pair*>(g_c + int64_t(row + half * 8) * w.N + column);
#pragma unroll
    for (int j0 = 0; j0 < n / 4; j0 += batch) {
      Pair r_old[batch] = {};
#pragma unroll
      for (int j = 0; j < batch; ++j)
        if (column + (j0 + j) * 8 < w.N) r_old[j] = g_row[(j0 + j) * 4];
#pragma unroll
      for (int j = 0; j < batch; ++j) {
        r_c[(j0 + j) * 4 + half * 2] += float(r_old[j].at[0]);
        r_c[(j0 + j) * 4 + half * 2 + 1] += float(r_old[j].at[1]);
      }
    }
  }
}

// bf16: through shared memory, two panels of 64 columns at a time, from where the copy engine takes them.
template <int n>
__device__ void write_out(const float (&r_c)[n], const CUtensorMap& map_c, uint8_t* s_out, int consumer, int m, int n0,
                          const Walk& w) {
  const int thread = int(threadIdx.x) % group, lane = thread % 32, row = thread / 32 * 16 + lane % 16;
#pragma unroll
  for (int p = 0; p < n / 64; ++p) {
    if (thread == 0) store_wait_read<0>();  // what was stored from here has been read
    named_barrier(1 + consumer, group);
#pragma unroll
    for (int j = 0; j < 16; j += 2) {  // columns 8 j to 8 j + 15 of the two panels
      const int chunk = j % 8 + lane / 16, r = (p * 16 + j) * 4;
      stmatrix_x4(s_out + j / 8 * panel + row * 128 + ((chunk ^ (row & 7)) * 16), pack_bf16(r_c[r], r_c[r + 1]),
                  pack_bf16(r_c[r + 2], r_c[r + 3]), pack_bf16(r_c[r + 4], r_c[r + 5]),
                  pack_bf16(r_c[r + 6], r_c[r + 7]));
    }
    fence_async();
    named_barrier(1 + consumer, group);
    if (thread == 0) {
      for (int q = 0; q < 2; ++q)
        if (n0 + p * 128 + q * 64 < w.N && m < w.M) store_box(map_c, n0 + p * 128 + q * 64, m, s_out + q * panel);
      store_commit();
    }
  }
}

// A warpgroup that multiplies what comes.
template <class P, class C, bool across_a, bool across_b>
__device__ void consume(const CUtensorMap& map_c, C* g_c, const Walk& w, uint8_t* s_memory, Barrier* s_come,
                        Barrier* s_free, int rank, int consumer) {
  const int thread = int(threadIdx.x) % group;
  auto release = [&](int slot) {  // in both blocks: each fetches for the other
    if (thread < cluster) barrier_arrive_at(s_free + slot, thread);
  };
  Ring ring;
  for (Work<P> work(w, rank); work.next();) {
    float r_c[P::tile_n / 2];  // 64 x tile_n, among 128 threads
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
    if (w.relu_squared) {
#pragma unroll
      for (float& c : r_c) c = scalar::ReluSquared().value(c);
    }
    const int m = work.m0 + consumer * 64;
    if constexpr (std::is_same_v<C, float>) {
      write_out(r_c, g_c, m, work.n0, w);
    } else {
      if (w.accumulate) add_old(r_c, g_c, m, work.n0, w);
      write_out(r_c, map_c, s_memory + P::out + consumer * 2 * panel, consumer, m, work.n0, w);
    }
  }
  if (!std::is_same_v<C, float> && thread == 0) store_wait_read<0>();
}

template <class P, class C, bool across_a, bool across_b>
__device__ void wgmma_block(const CUtensorMap& map_a, const CUtensorMap& map_b, const CUtensorMap& map_c, C* g_c,
                            const Walk& w) {
  extern __shared__ uint8_t s_raw[];
  uint8_t* s_memory =
      s_raw + (1024 - shared_address(s_raw) % 1024) % 1024;  // [stages][a, b], [consumers][2 panels], barriers
  Barrier *s_come = reinterpret_cast<Barrier*>(s_memory + P::barriers), *s_free = s_come + P::stages;
  const int rank = cluster_rank(), role = int(threadIdx.x) / group;
  if (threadIdx.x == 0) {
    for (int s = 0; s < P::stages; ++s) {
      barrier_init(s_come + s, 1);
      barrier_init(s_free + s, consumers * cluster);
    }
    barrier_init_done();
  }
  cluster_sync();
  if (role == 0) {
    registers_give<40>();
    if (threadIdx.x == 0) produce<P, across_a, across_b>(map_a, map_b, w, s_memory, s_come, s_free, rank);
    __syncwarp();
  } else {
    registers_take<232>();
    consume<P, C, across_a, across_b>(map_c, g_c, w, s_memory, s_come, s_free, rank, role - 1);
  }
  cluster_sync();  // the other block's arrivals and copies come here as long as it works
}

template <class P, class C, bool across_a, bool across_b>
__global__ __launch_bounds__(threads,
                             1) void wgmma_kernel(const __grid_constant__ CUtensorMap map_a,  // of [M,K] or [K,M]
                                                  const __grid_constant__ CUtensorMap map_b,  // of [K,N] or [N,K]
                                                  const __grid_constant__ CUtensorMap map_c,  // of [M,N], where bf16
                                                  C* g_c,                                     // [M,N]
                                                  const __grid_constant__ Walk w) {
  NV_IF_ELSE_TARGET(NV_HAS_FEATURE_SM_90a, (wgmma_block<P, C, across_a, across_b>(map_a, map_b, map_c, g_c, w);),
                    (__trap();))
}

// A matrix of rows of `inner` bf16, fetched in boxes with each row's 16-byte pieces xored with the row.
CUtensorMap tensor_map(const void* g, int64_t inner, int64_t outer, int box_inner, int box_outer) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {  // by name, so that the program starts where no driver is
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found;
    cuda_check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess) raise("cuda: the driver has no tensor maps");
    return reinterpret_cast<Encode>(f);
  }();
  CUtensorMap map;
  const cuuint64_t sizes[] = {cuuint64_t(inner), cuuint64_t(outer)}, row_bytes[] = {cuuint64_t(inner) * 2};
  const cuuint32_t box[] = {cuuint32_t(box_inner), cuuint32_t(box_outer)}, every[] = {1, 1};
  const CUresult result = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(g), sizes, row_bytes, box,
                                 every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    raise("cuda: no tensor map of [" + std::to_string(outer) + "," + std::to_string(inner) + "] bf16: error " +
          std::to_string(result));
  return map;
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
  const CUtensorMap a = across_a ? tensor_map(p.a, p.M, p.K, 64, depth) : tensor_map(p.a, p.K, p.M, depth, tile_m),
                    b = across_b ? tensor_map(p.b, p.N, p.K, 64, depth)
                                 : tensor_map(p.b, p.K, p.N, depth, P::tile_n / cluster);
  CUtensorMap c{};
  if constexpr (!std::is_same_v<C, float>) c = tensor_map(p.c, p.N, p.M, 64, 64);
  cuda_check(cudaLaunchKernelEx(&config, kernel, a, b, c, static_cast<C*>(p.c), w));
}

// f.operator()<Plan>(): narrow tiles where wide ones would be half empty.
template <class F>
auto with_plan(const Product& p, F&& f) {
  if (over(p.N, 128) % 2 == 1 && p.N <= 384) return f.template operator()<Plan<128, 6>>();
  return f.template operator()<Plan<256, 4>>();
}

constexpr int band = 8;

}  // namespace level_6

using namespace level_6;

bool matmul_wgmma_runs() {
  static const bool runs = [] {
    int device = 0, major = 0, minor = 0;
    cudaFuncAttributes attributes;
    cuda_check(cudaGetDevice(&device));
    cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    cuda_check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    cuda_check(cudaFuncGetAttributes(&attributes, wgmma_kernel<Plan<256, 4>, float, false, false>));
    return major == 9 && minor == 0 && attributes.numRegs > 100;  // fewer: this build has only the empty body
  }();
  return runs;
}

bool matmul_wgmma_takes(const Product& p) {
  constexpr int64_t most = INT32_MAX - 512;  // places along a side are ints, up to the end of its last tiles
  return p.operands == Dtype::bf16 && p.M <= most && p.N <= most && p.K <= most && whole_a(p) && whole_b(p) && whole_16_bytes(p.c, p.N) &&
         !(p.transpose_a && p.transpose_b) && matmul_wgmma_runs();
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
      if (p.transpose_a) launch<P, C, true, true>(p, w);
      else p.transpose_b ? launch<P, C, false, false>(p, w) : launch<P, C, false, true>(p, w);
    });
  });
}

}  // namespace taper::cuda
