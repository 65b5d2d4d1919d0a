// cuBLASLt, where it is installed: loaded when first asked for, so that the program starts without it.
#pragma once
#include <string>

#include "cuda/levels/matmul.h"
#include "tensor/device.h"

namespace taper::cuda {

// Products of blas are repeatable: one algorithm per shape, chosen once, never one that adds with atomics. f32 is f32,
// not tf32. Asking and multiplying allocate 32 MiB of the device the first time: not to be inside a graph's capture.
bool blas_takes(Device& device, const Product& p);   // false: no library, or no such algorithm for this product
void blas_matmul(Device& device, const Product& p);  // one that blas takes; p.pieces must be 1

std::string blas_version();  // "cuBLASLt 13.0.2", or "" where it is not installed

}  // namespace taper::cuda
