// Stand-ins for what the emulator does not run: cuBLASLt and the matmul of Hopper, whose blocks work in
// clusters. They take no product.
#include <cstdint>

#include "tensor/raise.h"

namespace taper {
class Device;
}

namespace taper::cuda {

struct Product;

bool blas_takes(Device&, const Product&) { return false; }
void blas_matmul(Device&, const Product&) { raise("emulator: no cuBLASLt"); }
std::string blas_version() { return ""; }

bool matmul_wgmma_runs() { return false; }
bool matmul_wgmma_takes(const Product&) { return false; }
int64_t matmul_wgmma_workspace(const Product&) { return 0; }
void matmul_wgmma(const Product&) { raise("emulator: no clusters of blocks"); }

}  // namespace taper::cuda
