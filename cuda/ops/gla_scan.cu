// gla_scan on CUDA: which form runs. In bf16, with chunks of 64, on tensor cores: the states walk the chunks
// (gla_scan_states.cuh), then all chunks at once (gla_scan_outputs.cuh, gla_scan_gradients.cuh, gla_scan_chunk.cuh). Every
// other dtype and shape: gla_scan_plain.cuh.
//   grid     states: heads, times K/64 and V/64; outputs and gradients: chunks and heads
//   traffic  forward 101 + 139 MB at (B,T,H,K,V) = (8,2048,4,96,192), backward 101 + 251: each input twice, states once
//   limits   tensor cores: K and V multiples of 16, K to 256, H K below 2^25; plain: f32 f64 bf16, any B T H K V and chunk
//   ceiling  HBM bandwidth: 80 us forward, 117 us backward at 3 TB/s
#include <algorithm>

#include "cuda/ops/gla_scan_gradients.cuh"
#include "cuda/ops/gla_scan_outputs.cuh"
#include "cuda/ops/gla_scan_plain.cuh"
#include "cuda/ops/gla_scan_states.cuh"

namespace taper::kernels {
namespace {

constexpr int64_t few_tokens = 8;  // up to here the recurrence is the faster form

void clear(const Tensor& t, cudaStream_t stream) {
  if (t && t.bytes()) cuda::cuda_check(cudaMemsetAsync(t.data<void>(), 0, t.bytes(), stream));
}

bool empty(const GlaScanInputs& in) { return in.v.size(0) * in.v.size(2) * in.v.size(3) * in.k.size(3) == 0; }

// Calls f with the number of channels that shared memory is laid out for.
template <class F>
void with_keys(int64_t K, F f) {
  if (K <= 32) f.template operator()<32>();
  else if (K <= 64) f.template operator()<64>();
  else if (K <= 96) f.template operator()<96>();
  else if (K <= 128) f.template operator()<128>();
  else if (K <= 192) f.template operator()<192>();
  else f.template operator()<256>();
}

bool on_tensor_cores(const GlaScanInputs& in, int64_t chunk, std::initializer_list<Tensor> others) {
  const int64_t K = in.k.size(3), V = in.v.size(3);
  if (in.v.dtype() != Dtype::bf16 || chunk != gla_bf16::tokens || K % 16 || V % 16 || K > 256) return false;
  if (in.v.size(2) * K > INT32_MAX / gla_bf16::tokens) return false;  // places inside a chunk are ints there
  const auto aligned = [](const Tensor& t) { return !t || reinterpret_cast<uintptr_t>(t.data<void>()) % 16 == 0; };
  bool fits = aligned(in.q) && aligned(in.k) && aligned(in.v) && aligned(in.log_a) && aligned(in.initial) &&
              std::ranges::all_of(others, aligned);
  if (fits)
    with_keys(K, [&]<int keys>() {
      using namespace gla_bf16;
      fits = int64_t(std::max({sizeof(StatesShared<2>), sizeof(OutputShared<keys>), sizeof(GradientShared<keys>)})) <=
             cuda::most_shared_memory();
    });
  return fits;
}

void forward(const GlaScanForward& a) {
  visit<float, double, bf16>("gla_scan", a.in.v.dtype(), [&]<class T>() {
    const cudaStream_t stream = cuda::stream_of(a.device());
    if (empty(a.in)) return clear(a.y, stream);
    if (a.in.v.size(1) <= few_tokens) return gla::forward_steps<T>(a, stream);
    if (!on_tensor_cores(a.in, a.chunk, {a.states, a.y, a.final})) return gla::forward_plain<T>(a, stream);
    const gla_bf16::Window z(a.in);
    gla_bf16::launch_states<false>(z, a.in.k, a.in.log_a, a.in.v, a.in.initial, a.states, a.final, stream);
    with_keys(z.K, [&]<int keys>() { gla_bf16::launch_outputs_of<keys>(z, a, stream); });
  });
}

void backward(const GlaScanBackward& a) {
  visit<float, double, bf16>("gla_scan", a.in.v.dtype(), [&]<class T>() {
    const cudaStream_t stream = cuda::stream_of(a.device());
    if (empty(a.in)) {
      for (const Tensor& t : {a.d_q, a.d_k, a.d_v, a.d_log_a}) clear(t, stream);
      return;
    }
    if (!on_tensor_cores(a.in, a.chunk, {a.states, a.d_y, a.d_final, a.d_q, a.d_k, a.d_v, a.d_log_a, a.d_initial}))
      return gla::backward_plain<T>(a, stream);
    const gla_bf16::Window z(a.in);
    const Tensor d_states = empty_like(a.states);  // after each chunk
    gla_bf16::launch_states<true>(z, a.in.q, a.in.log_a, a.d_y, a.d_final, d_states, a.d_initial, stream);
    with_keys(z.K, [&]<int keys>() { gla_bf16::launch_gradients_of<keys>(z, a, d_states, stream); });
  });
}

const Implement f{gla_scan_forward, DeviceKind::cuda, forward};
const Implement b{gla_scan_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
