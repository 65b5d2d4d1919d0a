// gla_scan on CUDA: which form runs. The kernels are in gla_scan_plain.cuh.
//   grid     plain: blocks of 16 tokens and heads, times tiles of K or V; steps: heads, times V/32
//   traffic  plain: a state of K V for every 16 tokens, written and read twice forward, six times backward
//   limits   f32 f64 bf16; any B T H K V and chunk
//   ceiling  plain: HBM bandwidth for the states; steps: the state, read and written once
#include "cuda/ops/gla_scan_plain.cuh"

namespace taper::kernels {
namespace {

constexpr int64_t few_tokens = 8;  // up to here the recurrence is the faster form

void clear(const Tensor& t, cudaStream_t stream) {
  if (t && t.bytes()) cuda::cuda_check(cudaMemsetAsync(t.data<void>(), 0, t.bytes(), stream));
}

bool empty(const GlaScanInputs& in) { return in.v.size(0) * in.v.size(2) * in.v.size(3) * in.k.size(3) == 0; }

void forward(const GlaScanForward& a) {
  visit<float, double, bf16>("gla_scan", a.in.v.dtype(), [&]<class T>() {
    const cudaStream_t stream = cuda::stream_of(a.device());
    if (empty(a.in)) return clear(a.y, stream);
    a.in.v.size(1) <= few_tokens ? gla::forward_steps<T>(a, stream) : gla::forward_plain<T>(a, stream);
  });
}

void backward(const GlaScanBackward& a) {
  visit<float, double, bf16>("gla_scan", a.in.v.dtype(), [&]<class T>() {
    const cudaStream_t stream = cuda::stream_of(a.device());
    if (!empty(a.in)) return gla::backward_plain<T>(a, stream);
    for (const Tensor& t : {a.d_q, a.d_k, a.d_v, a.d_log_a}) clear(t, stream);
  });
}

const Implement f{gla_scan_forward, DeviceKind::cuda, forward};
const Implement b{gla_scan_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
