// The CUDA device: one GPU, one stream, memory from the driver's stream-ordered pool.
//   plan     allocations, fills and copies join the stream; only download and synchronize wait
//   grid     none: this file launches no kernel
//   traffic  a freed block goes back to the pool, not to the driver, so a step's second pass allocates for free
//   limits   memory from pageable host pointers is staged by the driver before upload returns
//   ceiling  PCIe for upload and download, HBM for copy and fill
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/launch.cuh"

namespace taper::cuda {
namespace {

[[noreturn]] void unavailable(const std::string& message, std::source_location at = std::source_location::current()) {
  throw Error(message, at, Exit::unavailable);
}

// Compiled for the architectures of this build: a GPU that cannot run it can run nothing here.
__global__ void probe_kernel() {}

std::string probe(int index) {  // why this GPU cannot run our kernels; empty: it can
  cudaFuncAttributes attributes;
  cudaError_t error = cudaSetDevice(index);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, probe_kernel);
  cudaGetLastError();  // the answer is returned, not left behind for the next check
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

int device_count() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();
  return error == cudaSuccess ? count : 0;
}

std::string driver() {  // in words
  int version = 0;
  cudaDriverGetVersion(&version);
  cudaGetLastError();
  if (version == 0) return "no NVIDIA driver is installed";
  return "the driver speaks CUDA " + std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10) +
         ", this build " + std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
}

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int index) : index_(index) {
    cuda_check(cudaSetDevice(index_));
    cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    cuda_check(cudaDeviceGetDefaultMemPool(&pool_, index_));
    uint64_t keep = UINT64_MAX;
    cuda_check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep));
  }

  DeviceKind kind() const override { return DeviceKind::cuda; }
  std::string name() const override { return "cuda:" + std::to_string(index_); }

  void fill(void* p, int byte, size_t bytes) override { cuda_check(cudaMemsetAsync(p, byte, bytes, use())); }
  void upload(void* to, const void* from, size_t bytes) override {
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, use()));
  }
  void download(void* to, const void* from, size_t bytes) override {
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, use()));
    synchronize();
  }
  void copy(void* to, const void* from, size_t bytes) override {
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, use()));
  }
  void synchronize() override { cuda_check(cudaStreamSynchronize(use())); }
  void* stream() const override { return use(); }

 protected:
  void* take(size_t bytes) override {
    void* p = nullptr;
    cudaError_t error = cudaMallocAsync(&p, bytes, use());
    if (error == cudaErrorMemoryAllocation) {  // the pool may hold enough, in pieces: hand them back and ask again
      cudaGetLastError();
      synchronize();
      cuda_check(cudaMemPoolTrimTo(pool_, 0));
      error = cudaMallocAsync(&p, bytes, use());
    }
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      size_t free = 0, total = 0;
      cuda_check(cudaMemGetInfo(&free, &total));
      unavailable(name() + ": " + std::to_string(bytes) + " bytes wanted beside " + std::to_string(bytes_live()) +
                  " in use; " + std::to_string(free) + " of " + std::to_string(total) +
                  " are free; use a smaller batch");
    }
    cuda_check(error);
    return p;
  }
  // Runs in destructors: an error here was caused earlier, and the next launch or wait reports it.
  void give(void* p, size_t) override { cudaFreeAsync(p, use()); }

 private:
  cudaStream_t use() const {
    cuda_check(cudaSetDevice(index_));  // current is per thread, and the loader has its own
    return stream_;
  }
  const int index_;
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
};

Device& open(int index) {
  const int count = device_count();
  if (count == 0) unavailable("cuda: no GPU answers; " + driver() + "; use device cpu");
  if (index >= count)
    unavailable("cuda: this machine has GPU 0 to " + std::to_string(count - 1) + "; got cuda:" + std::to_string(index));
  if (const std::string fault = probe(index); !fault.empty())
    unavailable("cuda:" + std::to_string(index) + ": the GPU does not run this build's kernels (" + fault +
                "); build with its CMAKE_CUDA_ARCHITECTURES or use device cpu");
  // Never destroyed: the driver may be gone before static storage is.
  static std::mutex mutex;
  static auto& devices = *new std::vector<std::unique_ptr<CudaDevice>>;
  const std::lock_guard lock(mutex);
  if (devices.size() < size_t(count)) devices.resize(size_t(count));
  if (!devices[size_t(index)]) devices[size_t(index)] = std::make_unique<CudaDevice>(index);
  return *devices[size_t(index)];
}

bool available() { return device_count() > 0 && probe(0).empty(); }

const DeviceOpener opener{"cuda", open, available};

}  // namespace
}  // namespace taper::cuda
