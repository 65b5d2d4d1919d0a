// What the emulator must compute of Hopper's kernels, and the mistakes in them that it must find.
#include <nv/target>

#include <cmath>
#include <cstdlib>

#include "cuda/hopper.cuh"
#include "cuda/launch.cuh"
#include "cuda/tensor_map.h"
#include "tensor/dtype.h"
#include "tests/emulator/selftest.h"

namespace selftest {
namespace {

using namespace cuda::hopper;

template <class F>
bool raised_once(const std::string& text, F&& f) {  // in some order
  bool found = false;
  for (int order = 0; order < 3; ++order) try {
      f();
    } catch (const Error& e) {
      found = found || std::string(e.what()).find(text) != std::string::npos;
    }
  return found;
}

std::vector<bf16> counted(size_t n, int modulus) {  // whole numbers that bf16 holds
  std::vector<bf16> v(n);
  for (size_t i = 0; i < n; ++i) v[i] = bf16(float(int(i * 37 % size_t(modulus)) - modulus / 2));
  return v;
}
std::vector<int> bits_of(const std::vector<bf16>& v) {
  std::vector<int> bits;
  for (bf16 x : v) bits.push_back(x.bits);
  return bits;
}

// ---- Barriers. ----

// Thread 64 makes what the others take, through two slots.
__global__ void ring_kernel(int* g_out) {
  __shared__ Barrier s_full[2], s_free[2];
  __shared__ int s_x[2];
  const int t = int(threadIdx.x);
  if (t < 2) barrier_init(&s_full[t], 1), barrier_init(&s_free[t], 64);
  barrier_init_done();
  __syncthreads();
  for (int i = 0; i < 5; ++i) {
    const int slot = i % 2, parity = i / 2 % 2;
    if (t == 64) {
      barrier_wait(&s_free[slot], parity ^ 1);  // the first time at once
      s_x[slot] = 100 + i;
      barrier_arrive(&s_full[slot]);
    } else {
      barrier_wait(&s_full[slot], parity);
      g_out[i * 64 + t] = s_x[slot];
      barrier_arrive(&s_free[slot]);
    }
  }
}
__global__ void lone_kernel(int mistake, const __grid_constant__ CUtensorMap map) {
  extern __shared__ alignas(1024) unsigned char s_raw[];
  Barrier* b = reinterpret_cast<Barrier*>(s_raw + 1024);
  if (mistake != 0) barrier_init(b, mistake == 1 ? 2 : 1);
  if (mistake <= 1) barrier_arrive(b);
  if (mistake == 1) barrier_wait(b, 0);
  if (mistake == 2) barrier_arrive_expecting(b, 128), barrier_arrive(b);
  if (mistake == 3) barrier_arrive_expecting(b, 128), copy_box(s_raw, map, 0, 0, b), barrier_wait(b, 0);
  if (mistake == 4) barrier_arrive_expecting(b, 1024), copy_box(s_raw, map, 0, 0, b);
  if (mistake == 5) copy_box(s_raw + 64, map, 0, 0, b);
  if (mistake == 6) copy_box(s_raw, map, 0, 0, 0, 0, b);
  if (mistake == 7) copy_box(s_raw, CUtensorMap{}, 0, 0, b);
  if (mistake == 8) store_box(map, 0, 0, s_raw), store_commit();
}

void barriers() {
  std::vector<int> right;
  for (int i = 0; i < 5 * 64; ++i) right.push_back(100 + i / 64);
  const Array<bf16> x(8 * 64);
  const CUtensorMap map = tensor_map<2>(x.data(), {64, 8}, {64, 8});
  for (int order = 0; order < 3; ++order) {
    const Array<int> out(5 * 64);
    ring_kernel<<<1, 65>>>(out.data());
    expect(out.values() == right, "barriers of two slots, by parity");
  }
  const auto alone = [&](int mistake) { return [&map, mistake] { lone_kernel<<<1, 1, 2048>>>(mistake, map); }; };
  expect_raised("a barrier that nobody made", "not a barrier", alone(0));
  expect_raised("an arrival that is missing", "(1 of 2 arrivals and 0 bytes are missing)", alone(1));
  expect_raised("an arrival too many", "more arrivals than", alone(2));
  expect_raised("bytes that were not announced", "more bytes came", alone(3));
  expect(raised_once("nobody waits for it", alone(4)), "a box that nobody waits for");
  expect_raised("an address of a box", "not 128-byte aligned", alone(5));
  expect_raised("coordinates of another map", "4 coordinates for a tensor map of 2", alone(6));
  expect_raised("a map that nobody made", "not a tensor map", alone(7));
  expect_raised("a store that nobody waits for", "store_wait_read<0>() comes first", alone(8));
}

// ---- Boxes. ----

constexpr int box_rows = 16;

template <bool wait, bool wait_read>
__global__ void box_kernel(const __grid_constant__ CUtensorMap in, const __grid_constant__ CUtensorMap out, int offset,
                           bf16* g_raw) {  // [16,64] as they lie
  extern __shared__ alignas(1024) unsigned char s_raw[];
  bf16* s_box = reinterpret_cast<bf16*>(s_raw + offset);
  __shared__ Barrier s_come;
  if (threadIdx.x == 0) {
    barrier_init(&s_come, 1);
    barrier_arrive_expecting(&s_come, box_rows * 128);
    copy_box(s_box, in, 32, 1, -3, 1, &s_come);
    if (!wait) barrier_wait(&s_come, 0);  // and nobody else
  }
  __syncwarp();
  if (wait) barrier_wait(&s_come, 0);
  for (int i = int(threadIdx.x); i < box_rows * 64; i += 32) g_raw[i] = s_box[i];
  __syncwarp();
  if (threadIdx.x == 0) {
    store_box(out, -8, 2, 5, 0, s_box);
    store_commit();
    if (wait_read) store_wait_read<0>();
    for (int i = 0; i < box_rows * 64; ++i) s_box[i] = bf16(1);
    if (!wait_read) store_wait_read<0>();
  }
}

constexpr int width = 72, heads = 3, steps = 15, batch = 2;  // of both tensors, [batch, steps, heads, width]
CUtensorMap map_of(const Array<bf16>& x) {
  return tensor_map<4>(x.data(), {width, heads, steps, batch}, {64, 1, box_rows, 1});
}
size_t at(int b, int t, int h, int w) { return size_t(((b * steps + t) * heads + h) * width + w); }

void boxes() {
  constexpr size_t all = size_t(width) * heads * steps * batch;
  const auto x = counted(all, 251), before = counted(all, 7);
  const Array<bf16> g_x(x);
  const auto go = [&](auto kernel, int offset) {
    const Array<bf16> raw(box_rows * 64), out(before);
    kernel<<<1, 32, 4096>>>(map_of(g_x), map_of(out), offset, raw.data());
    return std::pair{bits_of(raw.values()), bits_of(out.values())};
  };
  std::vector<int> box(box_rows * 64), right_out = bits_of(before);
  for (int r = 0; r < box_rows; ++r)
    for (int c = 0; c < 64; ++c) {
      const int t = r - 3, w = c + 32;
      box[size_t(r * 64 + c)] = t >= 0 && t < steps && w < width ? x[at(1, t, 1, w)].bits : 0;
      if (r + 5 < steps && c >= 8) right_out[at(0, r + 5, 2, c - 8)] = box[size_t(r * 64 + c)];
    }
  for (int offset : {0, 384})
    for (int order = 0; order < 3; ++order) {
      const auto [raw, out] = go(box_kernel<true, true>, offset);
      for (int r = 0; r < box_rows; ++r)
        for (int c = 0; c < 64; ++c)
          expect(raw[size_t(r * 64 + (c / 8 ^ (r + offset / 128) % 8) * 8 + c % 8)] == box[size_t(r * 64 + c)],
                 "a box in shared memory, row " + std::to_string(r) + ", column " + std::to_string(c));
      expect(out == right_out, "a box stored, parts of it outside");
    }
  // Lanes 1 to 31 pass the barrier of the warp before the copy engine is asked, or after it.
  expect(depends_on_order([&] { return go(box_kernel<true, false>, 0).second; }), "shared memory written before it was stored");

  const auto refused = [](const std::string& text, const bf16* g, std::array<int64_t, 2> sizes, std::array<int, 2> sides) {
    expect_raised("a tensor map", text, [&] { tensor_map<2>(g, sizes, sides); });
  };
  refused("the address", g_x.data() + 1, {64, 8}, {64, 8});
  refused("sizes are", g_x.data(), {64, 0}, {64, 8});
  refused("strides are", g_x.data(), {60, 8}, {64, 8});
  refused("a side of a box", g_x.data(), {64, 8}, {64, 257});
  refused("rows of 64", g_x.data(), {64, 8}, {32, 8});
  refused("not memory", g_x.data(), {64, 1 << 20}, {64, 8});
}

__global__ void unwaited_kernel(const __grid_constant__ CUtensorMap map, float* g_out, bool wait) {
  extern __shared__ alignas(1024) bf16 s_x[];
  __shared__ Barrier s_come;
  if (threadIdx.x == 0) {
    barrier_init(&s_come, 1);
    barrier_arrive_expecting(&s_come, 1024);
    copy_box(s_x, map, 0, 0, &s_come);
  }
  __syncthreads();
  if (wait) barrier_wait(&s_come, 0);
  g_out[threadIdx.x] = float(s_x[threadIdx.x]);
  barrier_wait(&s_come, 0);
}

void unwaited() {
  const auto x = counted(8 * 64, 251);
  const Array<bf16> g_x(x);
  const CUtensorMap map = tensor_map<2>(g_x.data(), {64, 8}, {64, 8});
  int nans[2] = {};
  for (int wait = 0; wait < 2; ++wait)
    for (int order = 0; order < 3; ++order) {
      const Array<float> out(64);
      unwaited_kernel<<<1, 64, 1024>>>(map, out.data(), wait == 1);
      for (size_t i = 0; i < 64; ++i) {
        nans[wait] += std::isnan(out.values()[i]);
        if (wait == 1) expect(out.values()[i] == float(x[i]), "a box that was waited for");
      }
    }
  expect(nans[0] > 0 && nans[1] == 0, "a box that was not waited for is NaN");
}

// ---- Products of a warpgroup: [64,64] by [64, 2 n]. ----

enum Mistake { none, no_wait, no_fence, no_second_fence, early_write, other_product, no_end, written };

template <int n, bool in_registers, bool a_across, bool b_across, int mistake = none>
__global__ void product_kernel(const __grid_constant__ CUtensorMap a_map, const __grid_constant__ CUtensorMap b_map,
                               const bf16* g_a,  // [64,64], for registers
                               float* g_d) {     // [64, 2 n]
  extern __shared__ alignas(1024) unsigned char s_raw[];
  unsigned char* s_b = s_raw + 8192;  // rows of 128 bytes: [2 n] along k, or n / 32 panels of [64]
  __shared__ Barrier s_come;
  const int t = int(threadIdx.x), g = t / 32 * 16 + t % 32 / 4, q = t % 4;
  if (t == 0) {
    barrier_init(&s_come, 1);
    barrier_arrive_expecting(&s_come, 8192 + 256 * n);
    copy_box(s_raw, a_map, 0, 0, &s_come);
    if (b_across)
      for (int x = 0; x < 2 * n; x += 64) copy_box(s_b + x * 128, b_map, x, 0, &s_come);
    else copy_box(s_b, b_map, 0, 0, &s_come);
  }
  __syncthreads();
  barrier_wait(&s_come, 0);
  float d[n];
  for (float& x : d) x = 1e30f;
  uint32_t fragment[4][4];
  for (int step = 0; step < 4; ++step)
    for (int i = 0; i < 4; ++i)
      fragment[step][i] = *reinterpret_cast<const uint32_t*>(g_a + (g + i % 2 * 8) * 64 + step * 16 + i / 2 * 8 + 2 * q);
  const uint64_t a = operand(s_raw), b = operand(s_b, 8192);
  if (mistake != no_fence) wgmma_fence();
  for (int step = 0; step < 4; ++step) {
    if (in_registers && step == 2 && mistake != no_second_fence) wgmma_fence();  // a group more
    const uint64_t b_step = b + uint64_t(step) * operand_step<b_across>();
    if constexpr (in_registers) wgmma<b_across>(d, fragment[step], b_step, step > 0);
    else wgmma<a_across, b_across>(d, a + uint64_t(step) * operand_step<a_across>(), b_step, mistake == other_product ? t < 5 : step > 0);
    if (step % 2 == 1) wgmma_commit();
  }
  if (mistake == written) d[3] = 1;
  if (mistake == early_write) s_raw[t] = 0;
  if (mistake == early_write) __syncthreads();
  if (mistake == no_end) return;
  wgmma_wait<1>();
  if (mistake != no_wait) wgmma_wait<0>();
  wgmma_done(d);
  for (int i = 0; i < n; ++i) g_d[(g + i / 2 % 2 * 8) * 2 * n + i / 4 * 8 + 2 * q + i % 2] = d[i];
  wgmma_wait<0>();
}

template <int n, bool in_registers, bool a_across, bool b_across, int mistake = none>
std::vector<float> product(bool judge) {
  constexpr int columns = 2 * n, k = 64;
  const auto a = counted(64 * k, 17), b = counted(k * columns, 23);  // [i][k], [k][j]
  std::vector<bf16> at(64 * k), bt(k * columns);
  for (size_t i = 0; i < 64 * k; ++i) at[i % k * 64 + i / k] = a[i];
  for (size_t i = 0; i < size_t(k * columns); ++i) bt[i % columns * k + i / columns] = b[i];
  const Array<bf16> g_a(a), g_at(at), g_b(b), g_bt(bt);
  const Array<float> g_d(64 * columns);
  const CUtensorMap a_map = tensor_map<2>((a_across ? g_at : g_a).data(), {64, 64}, {64, 64});
  const CUtensorMap b_map = b_across ? tensor_map<2>(g_b.data(), {columns, k}, {64, 64}) : tensor_map<2>(g_bt.data(), {k, columns}, {64, columns});
  const auto kernel = product_kernel<n, in_registers, a_across, b_across, mistake>;
  product_kernel<n, in_registers, a_across, b_across, mistake><<<1, 128, 8192 + 256 * n>>>(a_map, b_map, g_a.data(), g_d.data());
  const auto d = g_d.values();
  for (size_t i = 0; judge && i < d.size(); ++i) {
    float sum = 0;
    for (size_t j = 0; j < k; ++j) sum += float(a[i / columns * k + j]) * float(b[j * columns + i % columns]);
    if (d[i] != sum) {
      expect(false, "product of " + std::to_string(columns) + " columns, " + (in_registers ? "A in registers" : a_across ? "A across" : "A along") +
                        (b_across ? ", B across" : ", B along") + ", element " + std::to_string(i));
      return d;
    }
  }
  return d;
}

void products() {
  for (int order = 0; order < 3; ++order) {
    product<32, false, false, false>(true), product<32, false, false, true>(true), product<32, false, true, false>(true);
    product<32, false, true, true>(true), product<32, true, false, false>(true), product<32, true, false, true>(true);
    product<64, false, false, false>(true), product<64, false, true, true>(true), product<64, true, false, true>(true);
    product<64, true, false, false>(true);
  }
  for (float x : product<32, false, false, false, no_wait>(false)) expect(std::isnan(x), "sums before their wait are NaN");
  expect(depends_on_order([] { return product<32, false, false, false, early_write>(false); }), "an operand overwritten early");
  const auto mistaken = []<int mistake>() { return [] { product<32, false, false, false, mistake>(false); }; };
  expect_raised("no fence", "wgmma_fence comes first", mistaken.operator()<no_fence>());
  expect_raised("one fence", "wgmma_fence comes first", [] { product<32, true, false, false, no_second_fence>(false); });
  expect_raised("two products", "different products", mistaken.operator()<other_product>());
  expect_raised("no wait", "wgmma_wait<0>() comes first", mistaken.operator()<no_end>());
  expect_raised("sums written", "sums were written", mistaken.operator()<written>());
}

// ---- Matrices to shared memory, the card. ----

__global__ void matrices_kernel(uint32_t* g_out) {  // [2][32][4]
  __shared__ alignas(16) bf16 s_m[32 * 8];
  const int lane = int(threadIdx.x);
  const auto pair = [&](int i) { return uint32_t(lane * 8 + i * 2) | uint32_t(lane * 8 + i * 2 + 1) << 16; };
  uint32_t r[4];
  stmatrix_x4(s_m + 8 * lane, pair(0), pair(1), pair(2), pair(3));
  __syncwarp();
  cuda::ldmatrix_x4(r, s_m + 8 * lane);
  for (int i = 0; i < 4; ++i) g_out[lane * 4 + i] = r[i] == pair(i) ? 1 : 0;
  __syncwarp();
  stmatrix_x4_trans(s_m + 8 * lane, pair(0), pair(1), pair(2), pair(3));
  __syncwarp();
  cuda::ldmatrix_x4_trans(r, s_m + 8 * lane);
  for (int i = 0; i < 4; ++i) g_out[128 + lane * 4 + i] = r[i] == pair(i) ? 1 : 0;
}
__global__ void card_kernel(int* g_out) {
  NV_IF_ELSE_TARGET(NV_HAS_FEATURE_SM_90a, (g_out[0] = 90;), (g_out[0] = 80;))
  NV_IF_TARGET(NV_HAS_FEATURE_SM_90a, (g_out[1] = 1;))
}

}  // namespace

void hopper() {
  const Array<uint32_t> matrices(2 * 32 * 4);
  matrices_kernel<<<1, 32>>>(matrices.data());
  expect(matrices.values() == std::vector<uint32_t>(2 * 32 * 4, 1), "stmatrix is ldmatrix the other way");

  const char* wanted = std::getenv("TAPER_EMULATOR_CAPABILITY");
  const bool runs = !wanted || std::string(wanted) != "80";
  const Array<int> card(2);
  card_kernel<<<1, 1>>>(card.data());
  int major = 0;
  cuda::cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  expect(card.values() == std::vector<int>{runs ? 90 : 80, runs} && major == (runs ? 9 : 8), "the card's capability");
  expect(runs_here(reinterpret_cast<const void*>(card_kernel)) == runs, "runs_here");
  if (!runs) {
    const Array<bf16> x(8 * 64);
    expect_raised("a box", "copy_box on a card of capability 8.0", [&] { lone_kernel<<<1, 1, 2048>>>(4, tensor_map<2>(x.data(), {64, 8}, {64, 8})); });
    return;
  }
  barriers();
  boxes();
  unwaited();
  products();
}

}  // namespace selftest
