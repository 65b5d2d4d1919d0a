// last_position on the CPU.
#include "tensor/ops/last_position.h"

namespace taper::kernels {
namespace {

void forward(const LastPosition& a) {
  const PackingView packing(a.packing, a.T);
  int64_t* y = a.y.data<int64_t>();
  for (int64_t b = 0; b < a.y.numel(); ++b) y[b] = packing.position(b, a.T - 1);
}

const Implement f{last_position, DeviceKind::cpu, forward};

}  // namespace
}  // namespace taper::kernels
