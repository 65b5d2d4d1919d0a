// What every CUDA file needs to launch: error checks that know their place, streams, grids.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <source_location>
#include <string>

#include "tensor/device.h"
#include "tensor/profile.h"
#include "tensor/raise.h"
#include "tensor/tensor.h"

namespace taper::cuda {

// Raises the CUDA error, named, with the line that asked. After a launch: cuda_check(cudaGetLastError()). Where kernels run
// while the host goes on, that line says little of who failed.
inline void cuda_check(cudaError_t error, std::source_location at = std::source_location::current()) {
  if (error == cudaSuccess) return;
  raise(std::string("cuda: ") + cudaGetErrorName(error) + ": " + cudaGetErrorString(error) +
            (sync_every_op ? "" : "; --sync-every-op names the kernel that failed"),
        at);
}

// The device's stream. Asking for it also makes the device current for the calling thread.
inline cudaStream_t stream_of(Device& device) { return static_cast<cudaStream_t>(device.stream()); }

// Blocks of `threads` that cover n elements, one each.
inline unsigned blocks_for(int64_t n, int threads, std::source_location at = std::source_location::current()) {
  const int64_t blocks = (n + threads - 1) / threads;
  if (blocks > INT32_MAX) raise("cuda: a grid holds at most 2^31-1 blocks; got " + std::to_string(blocks), at);
  return unsigned(blocks);
}

// The shared memory that a block may have on the current device, in bytes: 227 KiB on an H100, 163 on an A100, 99 on cards of
// capability 8.6 and 8.9. What needs more takes another kernel there.
inline int64_t most_shared_memory() {
  int device = 0, bytes = 0;
  cuda_check(cudaGetDevice(&device));
  cuda_check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}
// How many blocks of a kernel that fills a multiprocessor are at work at once on the current device. No result may follow from it.
inline int64_t multiprocessors() {
  int device = 0, count = 0;
  cuda_check(cudaGetDevice(&device));
  cuda_check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}
// Before a launch with more dynamic shared memory than a kernel has unasked (48 KiB).
template <class Kernel>
void allow_shared(Kernel kernel, int64_t bytes) {
  cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
}

// Launches a kernel that may begin while the one before it on the stream still works, once that one lets it
// (hopper::let_next_begin). It must itself wait for what it reads of that one, and for its end before it ends. Where the card or
// the build has no such launches it begins after the other's end.
template <class... K, class... P>
void launch_early(void (*kernel)(K...), unsigned grid, int threads, int64_t bytes, cudaStream_t stream, const P&... p) {
  static const bool early = [&] {  // what one kernel of a build is compiled for, all are
    int device = 0, major = 0;
    cudaFuncAttributes attributes;
    cuda_check(cudaGetDevice(&device));
    cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    cuda_check(cudaFuncGetAttributes(&attributes, kernel));
    return major >= 9 && attributes.ptxVersion >= 90;
  }();
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = size_t(bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early;
  allow_shared(kernel, bytes);
  cuda_check(cudaLaunchKernelEx(&config, kernel, p...));
}

// The data of a tensor that may be absent.
template <class T>
T* data_or_null(const Tensor& t) {
  return t ? t.data<T>() : nullptr;
}

// The element of this thread in such a grid.
__device__ inline int64_t thread_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

}  // namespace taper::cuda
