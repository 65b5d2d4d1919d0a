// matmul on CUDA: chooses who multiplies, and adds up what was cut along K.
//   plan     cuBLASLt where it is installed, else a kernel of our own: the levels of cuda/levels that its README names
//            as shipped. For levels 3 to 5 a product of few tiles and a long K (a weight's gradient) is cut in pieces
//            along K, whose results a second kernel adds in their order
//   grid     of the level; the addition numel/1024 blocks of 256
//   epilogue what is added: inside every kernel. The square and the gate: inside level 6, which then comes before
//            cuBLASLt; after the others by a pass of relu_squared, and by a second product and a pass of swiglu
//   traffic  of the level; each piece writes and reads c once more, mostly in L2
//   limits   f32 f64 bf16, a bf16 product with a bf16 or f32 result; any shape, any transposes. The choice and the number
//            of pieces depend on dtype, shape and alignment, so that a run can be repeated on the same kind of device
//   ceiling  tensor cores in bf16, multiply-add issue in f32 and f64
#include <algorithm>

#include "cuda/blas.h"
#include "cuda/launch.cuh"
#include "cuda/levels/matmul.h"
#include "cuda/vector.cuh"
#include "tensor/ops/binary.h"
#include "tensor/ops/matmul.h"
#include "tensor/ops/unary.h"

namespace taper::kernels {
namespace {

using cuda::Product;

// ---- the choice ----

bool takes(Device& device, const Product& p, MatmulBy by) {
  if (p.up && by != MatmulBy::wgmma) {  // by two products
    Product gate = p, up = p;
    gate.up = up.up = nullptr;
    up.b = p.up;
    return takes(device, gate, by) && takes(device, up, by);
  }
  switch (by) {
    case MatmulBy::rule: return true;
    case MatmulBy::naive:
    case MatmulBy::shared_tiles:
    case MatmulBy::register_tiles: return true;
    case MatmulBy::tensor_cores: return p.operands == Dtype::bf16;
    case MatmulBy::pipelined: return cuda::matmul_pipelined_takes(p);
    case MatmulBy::wgmma: return cuda::matmul_wgmma_takes(p);
    case MatmulBy::cublaslt: return cuda::blas_takes(device, p);
  }
  return false;
}

// In order of speed: the first that takes the product.
constexpr MatmulBy of_bf16[] = {MatmulBy::cublaslt, MatmulBy::wgmma, MatmulBy::pipelined, MatmulBy::tensor_cores};
constexpr int64_t wgmma_rows = 128;  // wgmma makes 256 at a time: with these or fewer, half of them or more were empty
constexpr MatmulBy of_others[] = {MatmulBy::cublaslt, MatmulBy::register_tiles};

MatmulBy choice(Device& device, const Product& p) {
  auto suits = [&](MatmulBy by) { return takes(device, p, by) && !(by == MatmulBy::wgmma && p.M <= wgmma_rows); };
  if ((p.relu_squared || p.up) && suits(MatmulBy::wgmma)) return MatmulBy::wgmma;  // it saves the pass after the product
  if (p.operands == Dtype::bf16) return *std::find_if(of_bf16, of_bf16 + 3, suits);
  return *std::find_if(of_others, of_others + 1, suits);
}

// ---- pieces along K ----

// How many: the number whose estimated time is least. Time is counted in steps of 64 along K of one tile, measured.
int pieces(const Product& p, MatmulBy by) {
  struct Kernel {
    int64_t m, n, added;  // its tile; elements of c that are written, read and added while it makes a step
  };
  const Kernel k = by != MatmulBy::register_tiles ? Kernel{128, 128, 600'000}
                   : p.operands == Dtype::f64     ? Kernel{64, 64, 1'500'000}
                                                  : Kernel{128, 128, 5'000'000};
  constexpr int64_t at_once = 264;                        // tiles, on an H100
  constexpr int64_t shortest = 8, around = 4, most = 16;  // steps of a piece, and what it costs beside them; pieces
  const int64_t tiles = (p.M + k.m - 1) / k.m * ((p.N + k.n - 1) / k.n), steps = (p.K + 63) / 64;
  auto cost = [&](int64_t n) {
    const int64_t rounds = (tiles * n + at_once - 1) / at_once;
    return rounds * ((steps + n - 1) / n + around) + (n > 1 ? n * p.M * p.N / k.added + around : 0);
  };
  int64_t best = 1;
  for (int64_t n = 2; n <= std::min(most, steps / shortest); ++n)
    if (cost(n) < cost(best)) best = n;
  Product cut = p;
  cut.pieces = int(best);
  return int((p.K + cut.piece() - 1) / cut.piece());  // none of them empty
}

constexpr int threads = 256;

// c [numel] = the sum of its pieces, first to last; or what is added + that.
template <class A, class C, int n>
__global__ void add_pieces_kernel(const A* g_pieces,  // [pieces][numel]
                                  C* g_c,             // [numel]
                                  const C* g_added,   // [numel], or none
                                  int64_t numel, int pieces) {
  const int64_t i = cuda::thread_index() * n;
  if (i >= numel) return;
  cuda::Vector<A, n> r_sum{};
  for (int piece = 0; piece < pieces; ++piece) {
    const auto r = *reinterpret_cast<const cuda::Vector<A, n>*>(g_pieces + piece * numel + i);
#pragma unroll
    for (int j = 0; j < n; ++j) r_sum.at[j] += r.at[j];
  }
  const cuda::Vector<C, n> old = g_added ? *reinterpret_cast<const cuda::Vector<C, n>*>(g_added + i) : cuda::Vector<C, n>{};
  cuda::Vector<C, n> out;
#pragma unroll
  for (int j = 0; j < n; ++j) out.at[j] = C(g_added ? A(old.at[j]) + r_sum.at[j] : r_sum.at[j]);
  *reinterpret_cast<cuda::Vector<C, n>*>(g_c + i) = out;
}

void run_level(const Product& p, MatmulBy by) {
  if (by == MatmulBy::register_tiles) cuda::matmul_register_tiles(p);
  else if (by == MatmulBy::tensor_cores) cuda::matmul_tensor_cores(p);
  else cuda::matmul_pipelined(p);
}

void run_wgmma(Device& device, Product p) {
  const int64_t bytes = cuda::matmul_wgmma_workspace(p);
  const Tensor workspace = bytes ? Tensor(device, {bytes / 4}, Dtype::f32) : Tensor{};
  p.workspace = workspace ? workspace.data<void>() : nullptr;
  cuda::matmul_wgmma(p);
}

void run_in_pieces(Device& device, const Product& p, MatmulBy by, int pieces) {
  const int64_t numel = p.M * p.N;
  const Tensor parts(device, {pieces, numel}, wide(p.operands));
  Product cut = p;
  cut.c = parts.data<void>();
  cut.result = parts.dtype();
  cut.added = nullptr;
  cut.pieces = pieces;
  run_level(cut, by);
  visit<float, double, bf16>("matmul", p.result, [&]<class C>() {
    using A = Acc<C>;
    C* c = static_cast<C*>(p.c);
    const C* added = static_cast<const C*>(p.added);
    const bool fours = cuda::vector_fits<C>(4, numel, {c, added});
    const auto kernel = fours ? add_pieces_kernel<A, C, 4> : add_pieces_kernel<A, C, 1>;
    kernel<<<cuda::blocks_for(fours ? numel / 4 : numel, threads), threads, 0, p.stream>>>(parts.data<A>(), c, added,
                                                                                           numel, pieces);
    cuda::cuda_check(cudaGetLastError());
  });
}

// ---- the op ----

Product product_of(const Matmul& m) {
  const int64_t N = m.c.size(-1), length = std::max<int64_t>(1, N);
  return {.a = m.a.data<void>(),
          .b = m.b.data<void>(),
          .c = m.c.data<void>(),
          .M = m.c.numel() / length,
          .N = N,
          .K = m.transpose_b ? m.b.size(-1) : m.b.numel() / length,
          .transpose_a = m.transpose_a,
          .transpose_b = m.transpose_b,
          .added = m.then.kind == Epilogue::add ? m.then.with.data<void>() : nullptr,
          .relu_squared = m.then.kind == Epilogue::relu_squared,
          .up = m.then.kind == Epilogue::silu_gate ? m.then.with.data<void>() : nullptr,
          .kept_gate = m.then.gate ? m.then.gate.data<void>() : nullptr,
          .kept_up = m.then.up ? m.then.up.data<void>() : nullptr,
          .operands = m.a.dtype(),
          .result = m.c.dtype(),
          .stream = cuda::stream_of(m.device())};
}

void multiply(Device& device, const Product& p, MatmulBy by) {
  switch (by) {
    case MatmulBy::cublaslt: return cuda::blas_matmul(device, p);
    case MatmulBy::wgmma: return run_wgmma(device, p);
    case MatmulBy::naive: return cuda::matmul_naive(p);
    case MatmulBy::shared_tiles: return cuda::matmul_shared_tiles(p);
    default: break;
  }
  if (const int n = pieces(p, by); n > 1) run_in_pieces(device, p, by, n);
  else run_level(p, by);
}

void forward(const Matmul& m) {
  check_matmul(m);
  const Product p = product_of(m);
  visit<float, double, bf16>("matmul", p.operands, [&]<class T>() {
    if (p.result != dtype_of<T>() && p.result != dtype_of<Acc<T>>())
      raise(std::string("matmul: c of ") + name(p.operands) + " operands cannot be " + name(p.result));
  });
  if (p.M * p.N == 0) return;
  if (p.K == 0 && !p.up) {
    if (!p.added) m.device().fill(p.c, 0, m.c.bytes());
    else if (p.added != p.c) copy_into(m.c, m.then.with);
    return;
  }
  if (!takes(m.device(), p, m.by)) raise(std::string("matmul: ") + name(m.by) + " does not take this product");
  const MatmulBy by = m.by == MatmulBy::rule ? choice(m.device(), p) : m.by;
  if (p.up && (by != MatmulBy::wgmma || p.K == 0)) return silu_gate_apart(m);
  multiply(m.device(), p, by);
  if (p.relu_squared && by != MatmulBy::wgmma) unary_forward<scalar::ReluSquared>({.x = m.c, .y = m.c});
}

void query(const MatmulQuery& q) { *q.takes = takes(q.product->device(), product_of(*q.product), q.product->by); }

void backends(const MatmulBackends& b) {
  cuda::stream_of(*b.on);  // makes it current
  const std::string blas = cuda::blas_version();
  auto line = [&](const char* dtypes, const auto& order) {
    std::string text = std::string("matmul ") + dtypes + ": the first that takes the product of";
    const char* separator = " ";
    for (MatmulBy by : order) {
      const bool missing =
          (by == MatmulBy::cublaslt && blas.empty()) || (by == MatmulBy::wgmma && !cuda::matmul_wgmma_runs());
      text += separator + std::string(name(by)) +
              (missing                    ? " (not here)"
               : by == MatmulBy::cublaslt ? " (" + blas + ")"
               : by == MatmulBy::wgmma    ? " (more than " + std::to_string(wgmma_rows) + " rows)"
                                          : "");
      separator = ", ";
    }
    return text + "\n";
  };
  *b.text = line("bf16", of_bf16) + line("f32 f64", of_others) +
            (cuda::matmul_wgmma_runs() ? "matmul bf16 then relu^2 or a silu gate: wgmma first, which makes them inside\n" : "");
}

const Implement f{matmul, DeviceKind::cuda, forward};
const Implement q{matmul_query, DeviceKind::cuda, query};
const Implement n{matmul_backends, DeviceKind::cuda, backends};

}  // namespace
}  // namespace taper::kernels
