// Tensor maps for the copy engine, encoded by the driver; whether it, this build and the GPU have Hopper kernels.
#include "cuda/tensor_map.h"

#include <string>

#include "cuda/launch.cuh"

namespace taper::cuda::hopper {

template <size_t dimensions>
CUtensorMap tensor_map(const void* g, const std::array<int64_t, dimensions>& sizes, const std::array<int, dimensions>& box) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {  // by name, so that the program starts where no driver is
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found;
    cuda_check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess) raise("cuda: the driver has no tensor maps");
    return reinterpret_cast<Encode>(f);
  }();
  CUtensorMap map;
  cuuint64_t all[dimensions], row_bytes[dimensions], bytes = 2;
  cuuint32_t part[dimensions], every[dimensions];
  std::string shape;
  for (size_t i = 0; i < dimensions; ++i) {
    all[i] = cuuint64_t(sizes[i]), part[i] = cuuint32_t(box[i]), every[i] = 1;
    bytes *= all[i];
    row_bytes[i] = bytes;  // of the dimension after this one
    shape = std::to_string(sizes[i]) + (i ? "," : "") + shape;
  }
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, dimensions, const_cast<void*>(g), all, row_bytes, part, every,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    raise("cuda: no tensor map of [" + shape + "] bf16: error " + std::to_string(result));
  return map;
}
template CUtensorMap tensor_map<2>(const void*, const std::array<int64_t, 2>&, const std::array<int, 2>&);
template CUtensorMap tensor_map<4>(const void*, const std::array<int64_t, 4>&, const std::array<int, 4>&);

bool runs_here(const void* kernel) {
  int device = 0, major = 0, minor = 0;
  cudaFuncAttributes attributes;
  cuda_check(cudaGetDevice(&device));
  cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  cuda_check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  cuda_check(cudaFuncGetAttributes(&attributes, kernel));
  return major == 9 && minor == 0 && attributes.numRegs > 100;  // fewer: this build has only the empty body
}

}  // namespace taper::cuda::hopper
