// ssd_scan on CUDA: bf16 chunks of 64 with tensor cores, the walks on Hopper with kernels of their own (ssd_scan_hopper.cuh);
// plain kernels for everything else.
//   plan     forward walks the chunks, the state in registers; backward walks back for d of each state, then takes all
//            chunks at once, a block going through a group's heads in their order; plain: passes as on the CPU
//   grid     walks B*H*P/128 blocks of 256; all at once B*chunks*G blocks of 512 or more; N > 128 a block of 256 a head
//   traffic  forward x b c in, y, states out; walk back dy c in, d states out; then x dy b c and both in, d_x d_b d_c out
//   limits   tensor cores: bf16, chunk 64, P and N multiples of 8, N <= 256; plain: f32 f64 bf16, any shape and chunk
//   ceiling  HBM: B=8 T=2048 H=24 P=64 N=128 moves 210 MB forward and 500 MB backward, 70 and 167 us at 3 TB/s
#include "cuda/ops/ssd_scan_backward.cuh"

namespace taper::kernels {
namespace {

template <class F>
void with_rows(int64_t N, F f) {  // f with N rounded up to what is compiled
  if (N <= 64) f.template operator()<64>();
  else if (N <= 128) f.template operator()<128>();
  else f.template operator()<256>();
}

// The tensor-core kernels move 16 bytes at a time and hold at most 256 rows of a state. The states they leave for the
// backward are theirs, [P,N] each: both passes must decide alike, by the inputs and the device alone.
bool fits_tensor_cores(const SsdScanInputs& in, int64_t chunk) {
  if (in.x.dtype() != Dtype::bf16 || chunk != ssd::rows || in.x.numel() == 0) return false;
  const int64_t P = in.x.size(3), N = in.b.size(3);
  bool fits = P % 8 == 0 && N % 8 == 0 && N >= 8 && N <= 256;
  for (const Tensor& t : {in.x, in.b, in.c}) fits = fits && reinterpret_cast<uintptr_t>(t.data<void>()) % 16 == 0;
  if (fits) with_rows(N, [&]<int rows>() { fits = ssd::shared_bytes<rows>() <= cuda::most_shared_memory(); });
  return fits;
}

void forward(const SsdScanForward& a) {
  if (fits_tensor_cores(a.in, a.chunk))
    return with_rows(a.in.b.size(3), [&]<int N>() {
      ssd::on_hopper::here() ? ssd::on_hopper::launch_forward<N>(a) : ssd::launch_forward<N>(a);
    });
  visit<float, double, bf16>("ssd_scan", a.in.x.dtype(), [&]<class T>() { ssd::plain_forward<T>(a); });
}
void backward(const SsdScanBackward& a) {
  if (fits_tensor_cores(a.in, a.chunk)) return with_rows(a.in.b.size(3), [&]<int N>() { ssd::launch_backward<N>(a); });
  visit<float, double, bf16>("ssd_scan", a.in.x.dtype(), [&]<class T>() { ssd::plain_backward<T>(a); });
}

const Implement f{ssd_scan_forward, DeviceKind::cuda, forward};
const Implement b{ssd_scan_backward, DeviceKind::cuda, backward};

}  // namespace
}  // namespace taper::kernels
