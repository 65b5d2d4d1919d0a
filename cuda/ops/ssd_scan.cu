// ssd_scan on CUDA: plain kernels for any shape.
//   plan     G of each chunk and head; what chunks add; the states passed along; outputs. Backward the same way round
//   grid     a tile of 64 x 64 of each product by 256 threads
//   traffic  plain: each product reads its operands once per tile
//   limits   f32 f64 bf16, any shape and chunk
//   ceiling  plain: f32 arithmetic
#include "cuda/ops/ssd_scan_plain.cuh"

namespace taper::kernels {
namespace {

void forward(const SsdScanForward& a) {
  visit<float, double, bf16>("ssd_scan", a.in.x.dtype(), [&]<class T>() { ssd::plain_forward<T>(a); });
}
void backward(const SsdScanBackward& a) {
  visit<float, double, bf16>("ssd_scan", a.in.x.dtype(), [&]<class T>() { ssd::plain_backward<T>(a); });
}

const Implement f{ssd_scan_forward, DeviceKind::cuda, forward};
const Implement b{ssd_scan_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
