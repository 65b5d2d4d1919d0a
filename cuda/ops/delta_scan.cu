// delta_scan on CUDA: tensor cores in bf16, plain kernels for the rest; each pass has its file.
//   plan     bf16: prepare (pairs, inverse) -> walk (state, errors, outputs); backward: prepare -> walk back ->
//   gradients grid     prepare and gradients: a block per chunk and head; walks: per head and 128 columns of V, 16 to a
//   warp traffic  8 x 2048 tokens, 6 heads of 128 x 256: forward 0.38 GB, of it 0.1 the saved states; backward 0.77 GB
//   limits   bf16: chunk 64, K a multiple of 16 up to 128, V of 16; else f32 f64 bf16 of any shape and chunk, plainly
//   ceiling  HBM: 0.13 and 0.26 ms at 3 TB/s; the walks' tensor work is 0.07 ms each beside that
#include "cuda/ops/delta_scan_backward.cuh"
#include "cuda/ops/delta_scan_plain.cuh"
#include "tensor/ops/delta_scan.h"

namespace taper::kernels {
namespace {

// Runs f with the number of keys that a tile has room for: few sizes, so that few kernels are compiled.
template <class F>
void with_keys(int64_t K, F&& f) {
  if (K <= 32) f.template operator()<32>();
  else if (K <= 64) f.template operator()<64>();
  else if (K <= 96) f.template operator()<96>();
  else f.template operator()<128>();
}

// By what forward and backward both see: they must agree on how states are kept.
bool fits_tensor_cores(const DeltaScanInputs& in, int64_t chunk) {
  const int64_t K = in.q.size(3), V = in.v.size(3);
  bool fits = in.q.dtype() == Dtype::bf16 && chunk == delta_bf16::rows && K % 16 == 0 && K <= 128 && V % 16 == 0 &&
              in.q.numel() > 0 && V > 0 &&
              cuda::vector_fits<bf16>(8, K, {in.q.data<bf16>(), in.k.data<bf16>(), in.v.data<bf16>()});
  if (fits) with_keys(K, [&]<int keys>() { fits = delta_bf16::shared_bytes<keys>() <= cuda::most_shared_memory(); });
  return fits;
}

void forward(const DeltaScanForward& a) {
  if (fits_tensor_cores(a.in, a.chunk)) {
    const delta_bf16::View v(a.in, a.chunk);
    with_keys(v.K, [&]<int keys>() { delta_bf16::forward<keys>(a, v); });
    return;
  }
  visit<float, double, bf16>("delta_scan", a.in.q.dtype(), [&]<class T>() { delta_plain::forward<T>(a); });
}

void backward(const DeltaScanBackward& a) {
  if (fits_tensor_cores(a.in, a.chunk)) {
    const delta_bf16::View v(a.in, a.chunk);
    with_keys(v.K, [&]<int keys>() { delta_bf16::backward<keys>(a, v); });
    return;
  }
  visit<float, double, bf16>("delta_scan", a.in.q.dtype(), [&]<class T>() { delta_plain::backward<T>(a); });
}

const Implement f{delta_scan_forward, DeviceKind::cuda, forward};
const Implement b{delta_scan_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
