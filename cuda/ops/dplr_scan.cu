// dplr_scan on CUDA.
//   plan     one block per head walks pieces of 16 tokens with the state in shared memory
//   grid     B*H blocks of 256
//   traffic  every input and output once
//   limits   f32 f64 bf16; any shape and decay; where a head's matrices do not fit into shared memory they lie in HBM
//   ceiling  latency: about 5 thousand cycles for a piece forward, 15 thousand backward
#include "tensor/ops/dplr_scan.h"

#include "cuda/launch.cuh"
#include "cuda/ops/dplr_scan_plain.cuh"
#include "cuda/ops/dplr_scan_plain_backward.cuh"

namespace taper::kernels {
namespace {

constexpr int64_t most_shared = 227 << 10;  // bytes a block may have

// Launches a plain kernel with a Piece in shared memory, or in a tensor where that is too small.
template <class T, class Kernel, class Launch>
void with_memory(const DplrScanInputs& in, bool backward, Kernel kernel, Launch launch) {
  using A = Acc<T>;
  const int K = int(in.r.size(3)), V = int(in.v.size(3));
  const int64_t heads = in.r.size(0) * in.r.size(2), size = dplr_plain::Piece<A>::lay(K, V, backward, nullptr, nullptr);
  const int64_t bytes = size * int64_t(sizeof(A));
  Tensor memory;
  if (bytes > most_shared) memory = Tensor(in.r.device(), {heads, size}, dtype_of<A>());
  const int shared = memory ? 0 : int(bytes);
  cuda::cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  launch(cuda::blocks_for(heads, 1), shared, memory ? memory.template data<A>() : nullptr);
  cuda::cuda_check(cudaGetLastError());
}

template <class T>
void plain_forward(const DplrScanForward& f, const int* left_out) {
  const auto kernel = dplr_plain::dplr_scan_plain_forward_kernel<T>;
  with_memory<T>(f.in, false, kernel, [&](unsigned heads, int shared, Acc<T>* memory) {
    kernel<<<heads, dplr_plain::threads, shared, cuda::stream_of(f.device())>>>(
        dplr_plain::View<T>(f.in), f.y.data<T>(), f.final.data<Acc<T>>(), f.states ? f.states.data<T>() : nullptr,
        f.m ? f.m.data<T>() : nullptr, left_out, memory, f.chunk ? f.chunk : f.in.r.size(1));
  });
}

template <class T>
void plain_backward(const DplrScanBackward& g, const int* left_out) {
  using A = Acc<T>;
  const int64_t B = g.in.r.size(0), H = g.in.r.size(2), K = g.in.r.size(3), V = g.in.v.size(3);
  const int64_t chunk = g.chunk ? g.chunk : g.in.r.size(1), pieces = (chunk + dplr_plain::piece - 1) / dplr_plain::piece;
  Tensor between;
  if (pieces > 1) between = Tensor(g.device(), {B, H, pieces, K, V}, dtype_of<A>());
  const auto kernel = dplr_plain::dplr_scan_plain_backward_kernel<T>;
  with_memory<T>(g.in, true, kernel, [&](unsigned heads, int shared, A* memory) {
    kernel<<<heads, dplr_plain::threads, shared, cuda::stream_of(g.device())>>>(
        dplr_plain::View<T>(g.in), dplr_plain::Gradients<T>(g), g.states ? g.states.data<T>() : nullptr,
        g.m ? g.m.data<T>() : nullptr, left_out, memory, between ? between.data<A>() : nullptr, chunk);
  });
}

bool empty(const DplrScanInputs& in) { return in.r.size(0) * in.r.size(2) == 0; }

void forward(const DplrScanForward& f) {
  if (empty(f.in)) return;
  visit<float, double, bf16>("dplr_scan", f.in.r.dtype(), [&]<class T>() { plain_forward<T>(f, nullptr); });
}

void backward(const DplrScanBackward& g) {
  if (empty(g.in)) return;
  visit<float, double, bf16>("dplr_scan", g.in.r.dtype(), [&]<class T>() { plain_backward<T>(g, nullptr); });
}

const Implement f{dplr_scan_forward, DeviceKind::cuda, forward};
const Implement b{dplr_scan_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
