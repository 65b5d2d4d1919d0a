// matmul, level 6: Hopper. One thread feeds shared memory through the copy engine; two warpgroups only multiply.
//   plan     a block owns 128 x 256 of c (or 128 x 128): two warpgroups of 64 rows each, sums in registers, wgmma with
//   both
//            operands from shared memory as they came, k along or across rows; a third warpgroup's one thread keeps
//            four steps of 64 along K under way, with a barrier for "has come" and one for "is free" each. Two blocks
//            of a cluster share a column of tiles: each fetches half of b's step and delivers it to both
//   grid     as many clusters of two as run at once, each walking tiles in bands; while the copy engine writes a tile
//   of c
//            out of shared memory, the next is multiplied
//   traffic  each operand is read, from L2, once for every 256 rows or columns of c (a: 256; b: 2 x 128)
//   limits   bf16, sums f32; addresses and rows of whole 16 bytes; not both transposed; adds to f32 only
//   ceiling  tensor cores: 16384 x 3352 x 768 takes 0.107 ms at 790 TFLOP/s
#include <cuda.h>

#include <nv/target>

#include "cuda/hopper.cuh"
#include "cuda/launch.cuh"
#include "cuda/levels/matmul.h"
#include "cuda/levels/tile_order.cuh"
#include "cuda/vector.cuh"

namespace taper::cuda {
namespace {

using namespace hopper;

constexpr int tile_m = 128, depth = 64, group = 128, consumers = 2, threads = group * (consumers + 1);
constexpr int panel = 64 * 128;  // bytes: 64 rows of 64 numbers, the unit of what lies swizzled in shared memory

// How the two multiplying warpgroups share the work: halves of one tile, 64 rows each, or whole tiles in turns, so that
// one stores its tile while the other multiplies.
enum class Share { rows, turns };

template <Share share_, int tile_n_, int stages_, int buffers_, int cluster_>
struct Plan {
  static constexpr Share share = share_;
  static constexpr int tile_n = tile_n_, stages = stages_, cluster = cluster_;
  static constexpr int buffers = buffers_;  // of two panels of c on their way out, for each warpgroup
  static constexpr int halves = share == Share::rows ? 1 : 2;  // of 64 rows, that a warpgroup multiplies
  static constexpr int readers =
      consumers / halves * cluster;  // warpgroups that read a stage, here or in the other block
  static constexpr int a_bytes = tile_m * depth * 2, b_bytes = tile_n * depth * 2, stage = a_bytes + b_bytes;
  static constexpr int out = stages * stage,
                       barriers = out + consumers * buffers * 2 * panel;                    // offsets in shared memory
  static constexpr int shared_bytes = barriers + 2 * stages * int(sizeof(Barrier)) + 1024;  // 1024: to align it
};

struct Walk {  // over the tiles of all pieces
  int M, N, K, piece;
  int rows, columns, pieces, band;  // rows of clusters, columns of tiles
  bool accumulate;
};

template <class P>
struct Place {  // the part of c that a block makes in its turn, and the part of K that goes into it
  int m0, n0, begin, steps, piece;
  __device__ Place(int i, const Walk& w, int rank) {
    const int tiles = w.rows * w.columns;
    piece = i / tiles;
    const TilePlace at = tile_place(i % tiles, w.rows, w.columns, w.band);
    m0 = (at.row * P::cluster + rank) * tile_m;
    n0 = at.column * P::tile_n;
    begin = piece * w.piece;
    steps = (min(w.piece, w.K - begin) + depth - 1) / depth;
  }
};

struct Ring {  // the stage at hand, and the parity of its barriers' phase
  int slot = 0, parity = 0;
  __device__ void next(int stages) {
    if (++slot == stages) slot = 0, parity ^= 1;
  }
  __device__ void skip(int n, int stages) {
    slot += n;
    parity ^= slot / stages & 1;
    slot %= stages;
  }
};

// The thread that keeps the stages full.
template <class P, bool across_a, bool across_b>
__device__ void produce(const CUtensorMap& map_a, const CUtensorMap& map_b, const Walk& w, uint8_t* s_memory,
                        Barrier* s_come, Barrier* s_free, int rank) {
  constexpr int part = P::tile_n / P::cluster;  // of b's step, fetched here
  constexpr uint16_t everyone = (1 << P::cluster) - 1;
  Ring ring;
  for (int i = int(blockIdx.x) / P::cluster; i < w.rows * w.columns * w.pieces; i += int(gridDim.x) / P::cluster) {
    const Place<P> at(i, w, rank);
    for (int step = 0; step < at.steps; ++step, ring.next(P::stages)) {
      uint8_t *s_a = s_memory + ring.slot * P::stage, *s_b = s_a + P::a_bytes + rank * part * 128;
      Barrier* come = s_come + ring.slot;
      const int k = at.begin + step * depth, n = at.n0 + rank * part;
      barrier_wait(s_free + ring.slot, ring.parity ^ 1);
      barrier_arrive_expecting(come, P::stage);
      if constexpr (across_a) {
        for (int x = 0; x < tile_m; x += 64) copy_box(s_a + x * 128, map_a, at.m0 + x, k, come);
      } else {
        copy_box(s_a, map_a, k, at.m0, come);
      }
      for (int x = 0; x < part; x += across_b ? 64 : part) {
        const int to_x = across_b ? n + x : k, to_y = across_b ? k : n;
        if constexpr (P::cluster == 1) copy_box(s_b + x * 128, map_b, to_x, to_y, come);
        else copy_box(s_b + x * 128, map_b, to_x, to_y, come, everyone);
      }
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

// bf16: through shared memory, from where the copy engine takes it; two panels of 64 columns at a time, into the
// buffers in turn.
template <int buffers, int n>
__device__ void write_out(const float (&r_c)[n], const CUtensorMap& map_c, uint8_t* s_out, int first, int consumer,
                          int m, int n0, const Walk& w) {
  const int thread = int(threadIdx.x) % group, lane = thread % 32, row = thread / 32 * 16 + lane % 16;
#pragma unroll
  for (int p = 0; p < n / 64; ++p) {
    uint8_t* s_two = s_out + (first + p) % buffers * 2 * panel;
    if (thread == 0) store_wait_read<buffers - 1>();  // what was stored from this buffer has been read
    named_barrier(1 + consumer, group);
#pragma unroll
    for (int j = 0; j < 16; j += 2) {  // columns 8 j to 8 j + 15 of the two panels
      const int chunk = j % 8 + lane / 16, r = (p * 16 + j) * 4;
      stmatrix_x4(s_two + j / 8 * panel + row * 128 + ((chunk ^ (row & 7)) * 16), pack_bf16(r_c[r], r_c[r + 1]),
                  pack_bf16(r_c[r + 2], r_c[r + 3]), pack_bf16(r_c[r + 4], r_c[r + 5]),
                  pack_bf16(r_c[r + 6], r_c[r + 7]));
    }
    fence_async();
    named_barrier(1 + consumer, group);
    if (thread == 0) {
      for (int q = 0; q < 2; ++q)
        if (n0 + p * 128 + q * 64 < w.N && m < w.M) store_box(map_c, n0 + p * 128 + q * 64, m, s_two + q * panel);
      store_commit();
    }
  }
}

// A warpgroup that multiplies what comes.
template <class P, class C, bool across_a, bool across_b>
__device__ void consume(const CUtensorMap& map_c, C* g_c, const Walk& w, uint8_t* s_memory, Barrier* s_come,
                        Barrier* s_free, int rank, int consumer) {
  constexpr bool turns = P::share == Share::turns;
  constexpr int my_turn = 3;  // and 4, of the other warpgroup: named barriers of both
  const int thread = int(threadIdx.x) % group, first_half = turns ? 0 : consumer;
  auto release = [&](int slot) {  // in both blocks: each fetches for the other
    if (thread < P::cluster) barrier_arrive_at(s_free + slot, thread);
  };
  if (turns && consumer == 1) named_barrier_arrive(my_turn, consumers * group);
  Ring ring;
  int turn = 0;
  for (int i = int(blockIdx.x) / P::cluster; i < w.rows * w.columns * w.pieces;
       i += int(gridDim.x) / P::cluster, ++turn) {
    const Place<P> at(i, w, rank);
    if (turns && turn % consumers != consumer) {
      ring.skip(at.steps, P::stages);
      continue;
    }
    if (turns) named_barrier(my_turn + consumer, consumers * group);
    float r_c[P::halves][P::tile_n / 2];  // 64 x tile_n each, among 128 threads
    int last = 0;
    for (int step = 0; step < at.steps; ++step, ring.next(P::stages)) {
      const uint8_t* s_a = s_memory + ring.slot * P::stage;
      const uint64_t a = operand(s_a + first_half * panel), b = operand(s_a + P::a_bytes, panel);
      barrier_wait(s_come + ring.slot, ring.parity);
      wgmma_fence();
#pragma unroll
      for (int j = 0; j < depth / 16; ++j)
#pragma unroll
        for (int half = 0; half < P::halves; ++half)
          wgmma<across_a, across_b>(r_c[half], a + half * (panel >> 4) + j * operand_step<across_a>(),
                                    b + j * operand_step<across_b>(), step + j > 0);
      wgmma_commit();
      wgmma_wait<1>();  // the step before is done, this one goes on
      if (step > 0) release(last);
      last = ring.slot;
    }
    if (turns) named_barrier_arrive(my_turn + 1 - consumer, consumers * group);
    wgmma_wait<0>();
    release(last);
#pragma unroll
    for (int half = 0; half < P::halves; ++half) {
      const int m = at.m0 + (first_half + half) * 64;
      if constexpr (std::is_same_v<C, float>) write_out(r_c[half], g_c + int64_t(at.piece) * w.M * w.N, m, at.n0, w);
      else
        write_out<P::buffers>(r_c[half], map_c, s_memory + P::out + consumer * P::buffers * 2 * panel, half, consumer,
                              m, at.n0, w);
    }
  }
  if (!std::is_same_v<C, float> && thread == 0) store_wait_read<0>();
}

template <class P, class C, bool across_a, bool across_b>
__device__ void wgmma_block(const CUtensorMap& map_a, const CUtensorMap& map_b, const CUtensorMap& map_c, C* g_c,
                            const Walk& w) {
  extern __shared__ uint8_t s_raw[];
  uint8_t* s_memory =
      s_raw + (1024 - shared_address(s_raw) % 1024) % 1024;  // [stages][a, b], [consumers][buffers], barriers
  Barrier *s_come = reinterpret_cast<Barrier*>(s_memory + P::barriers), *s_free = s_come + P::stages;
  const int rank = P::cluster == 1 ? 0 : cluster_rank(), role = int(threadIdx.x) / group;
  if (threadIdx.x == 0) {
    for (int s = 0; s < P::stages; ++s) {
      barrier_init(s_come + s, 1);
      barrier_init(s_free + s, P::readers);
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
                                                  C* g_c,                                     // [pieces][M,N]
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

template <class P, class C, bool across_a, bool across_b>
void launch(const Product& p, int band) {
  const auto kernel = wgmma_kernel<P, C, across_a, across_b>;
  cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, P::shared_bytes));
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {P::cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.blockDim = dim3(threads);
  config.gridDim = dim3(P::cluster);
  config.dynamicSmemBytes = P::shared_bytes;
  config.stream = p.stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  static const int clusters = [&] {  // that run at once; what they make does not depend on it
    int n = 0;
    cuda_check(cudaOccupancyMaxActiveClusters(&n, kernel, &config));
    return n > 0 ? n : 1;
  }();
  auto over = [](int64_t n, int64_t by) { return int((n + by - 1) / by); };
  const Walk w{.M = int(p.M),
               .N = int(p.N),
               .K = int(p.K),
               .piece = int(p.piece()),
               .rows = over(p.M, tile_m * P::cluster),
               .columns = over(p.N, P::tile_n),
               .pieces = p.pieces,
               .band = band,
               .accumulate = p.accumulate};
  config.gridDim = dim3(unsigned(std::min(clusters, w.rows * w.columns * w.pieces) * P::cluster));
  const CUtensorMap a = across_a ? tensor_map(p.a, p.M, p.K, 64, depth) : tensor_map(p.a, p.K, p.M, depth, tile_m),
                    b = across_b ? tensor_map(p.b, p.N, p.K, 64, depth)
                                 : tensor_map(p.b, p.K, p.N, depth, P::tile_n / P::cluster);
  CUtensorMap c{};
  if constexpr (!std::is_same_v<C, float>) c = tensor_map(p.c, p.N, p.M, 64, 64);
  cuda_check(cudaLaunchKernelEx(&config, kernel, a, b, c, static_cast<C*>(p.c), w));
}

}  // namespace

bool matmul_wgmma_runs() {
  static const bool runs = [] {
    int device = 0, major = 0, minor = 0;
    cudaFuncAttributes attributes;
    cuda_check(cudaGetDevice(&device));
    cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    cuda_check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    cuda_check(cudaFuncGetAttributes(&attributes, wgmma_kernel<Plan<Share::rows, 256, 4, 1, 2>, float, false, false>));
    return major == 9 && minor == 0 && attributes.numRegs > 100;  // fewer: this build has only the empty body
  }();
  return runs;
}

bool matmul_wgmma_takes(const Product& p) {
  return p.operands == Dtype::bf16 && rows_of_16_bytes(p) && !(p.transpose_a && p.transpose_b) &&
         (p.result == Dtype::f32 || !p.accumulate) && matmul_wgmma_runs();
}

void matmul_wgmma(const Product& p) {
  constexpr int band = 8;  // rows of clusters
  visit<bf16, float>("matmul", p.result, [&]<class C>() {
    auto by_layout = [&]<class P>() {
      if (p.transpose_a) launch<P, C, true, true>(p, band);
      else p.transpose_b ? launch<P, C, false, false>(p, band) : launch<P, C, false, true>(p, band);
    };
    // Narrow tiles where wide ones would be half empty.
    if ((p.N + 127) / 128 % 2 == 1 && p.N <= 384) by_layout.template operator()<Plan<Share::turns, 128, 5, 2, 2>>();
    else by_layout.template operator()<Plan<Share::rows, 256, 4, 1, 2>>();
  });
}

}  // namespace taper::cuda
