// The CUDA device: one GPU, one stream, memory from the driver's stream-ordered pool.
//   plan     allocations, fills and copies join the stream; only download and synchronize wait
//   grid     none: this file launches no kernel
//   traffic  a freed block goes back to the pool, not to the driver, so a step's second pass allocates for free
//   limits   uploads go through a ring of pinned memory, so that they join the stream and the host does not wait; those
//            larger than a quarter of it are copied as they are, and wait
//   ceiling  PCIe for upload and download, HBM for copy and fill
#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/blas.h"
#include "cuda/launch.cuh"

namespace taper::cuda {
namespace {

[[noreturn]] void unavailable(const std::string& message, std::source_location at = std::source_location::current()) {
  throw Error(message, at, Exit::unavailable);
}

// Compiled for the architectures of this build: a GPU that cannot run it can run nothing here.
__global__ void probe_kernel() {}

std::string tenths(int tens) { return std::to_string(tens / 10) + "." + std::to_string(tens % 10); }
std::string cuda_version(int v) { return "CUDA " + std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }

struct Machine {
  int gpus = 0;
  std::string driver;  // in words
  std::string fault;   // why no GPU answers, and what to do; empty where one does
};
Machine machine() {
  Machine m;
  int version = 0;
  cudaDriverGetVersion(&version);
  const cudaError_t error = cudaGetDeviceCount(&m.gpus);
  cudaGetLastError();  // both answers are here
  if (error != cudaSuccess) m.gpus = 0;
  m.driver = version == 0 ? "none" : cuda_version(version) + "; this build: " + cuda_version(CUDART_VERSION);
  if (version == 0) m.fault = "no NVIDIA driver is installed; install one";
  else if (error == cudaErrorInsufficientDriver)
    m.fault = "the NVIDIA driver is too old: it speaks " + cuda_version(version) + ", this build needs " +
              cuda_version(CUDART_VERSION) + "; update it";
  else if (error == cudaErrorNoDevice || (error == cudaSuccess && m.gpus == 0))
    m.fault = "the NVIDIA driver finds no GPU; unset CUDA_VISIBLE_DEVICES if that hides it";
  else if (error != cudaSuccess)
    m.fault = std::string("the NVIDIA driver does not start: ") + cudaGetErrorString(error) + "; see what nvidia-smi says";
  return m;
}

// Why this GPU cannot run our kernels; empty: it can.
std::string probe(int index) {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaSetDevice(index);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, probe_kernel);
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index);
  cudaGetLastError();  // the answer is returned, not left behind for the next check
  if (error == cudaSuccess) return "";
  if (error == cudaErrorNoKernelImageForDevice)
    return "it has compute capability " + tenths(major * 10 + minor) + ", for which none was compiled";
  return cudaGetErrorString(error);
}

// Pinned memory for uploads: the next bytes of a ring of four parts. A part is used again once the copies out of it have
// passed in the stream, so the host waits only when it is three parts ahead.
class Staging {
 public:
  static constexpr size_t part = size_t(4) << 20;

  // Copies `bytes` <= part aside; the caller then queues the copy from there in the joined stream.
  void* hold(const void* from, size_t bytes) {
    if (!memory_) {
      cuda_check(cudaMallocHost(&memory_, 4 * part));
      for (cudaEvent_t& e : passed_) cuda_check(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    }
    if (used_ + bytes > part) {
      cuda_check(cudaEventRecord(passed_[at_], stream_));
      at_ = (at_ + 1) % 4;
      used_ = 0;
      cuda_check(cudaEventSynchronize(passed_[at_]));  // at once where it was never recorded
    }
    char* p = static_cast<char*>(memory_) + at_ * part + used_;
    std::memcpy(p, from, bytes);
    used_ += (bytes + 255) / 256 * 256;
    return p;
  }
  void join(cudaStream_t stream) { stream_ = stream; }

 private:
  void* memory_ = nullptr;
  cudaEvent_t passed_[4] = {};
  cudaStream_t stream_ = nullptr;
  size_t at_ = 0, used_ = 0;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int index) : index_(index) {
    cuda_check(cudaSetDevice(index_));
    cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    cuda_check(cudaDeviceGetDefaultMemPool(&pool_, index_));
    uint64_t keep = UINT64_MAX;
    cuda_check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep));
    staging_.join(stream_);
  }

  DeviceKind kind() const override { return DeviceKind::cuda; }
  std::string name() const override { return "cuda:" + std::to_string(index_); }
  std::string product() const override {
    cudaDeviceProp properties;
    cuda_check(cudaGetDeviceProperties(&properties, index_));
    return properties.name;
  }

  size_t bytes_reserved() const override {
    uint64_t bytes = 0;
    cuda_check(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &bytes));
    return size_t(bytes);
  }
  void* stream() const override { return use(); }

  Mark mark() override {
    cudaEvent_t event;
    use();
    cuda_check(cudaEventCreate(&event));
    cuda_check(cudaEventRecord(event, stream_));
    return Mark(event, [](void* e) { cudaEventDestroy(static_cast<cudaEvent_t>(e)); });
  }
  double seconds_between(const Mark& begin, const Mark& end) override {
    float milliseconds = 0;
    const auto from = static_cast<cudaEvent_t>(begin.get()), to = static_cast<cudaEvent_t>(end.get());
    cuda_check(cudaEventSynchronize(to));
    cuda_check(cudaEventElapsedTime(&milliseconds, from, to));
    return double(milliseconds) * 1e-3;
  }

 protected:
  void set(void* p, int byte, size_t bytes) override { cuda_check(cudaMemsetAsync(p, byte, bytes, use())); }
  void send(void* to, const void* from, size_t bytes) override {
    if (bytes == 0) return;
    const cudaStream_t stream = use();
    if (bytes <= Staging::part) from = staging_.hold(from, bytes);
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream));
    if (bytes > Staging::part) cuda_check(cudaStreamSynchronize(stream));
  }
  void receive(void* to, const void* from, size_t bytes) override {
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, use()));
    wait();
  }
  void move(void* to, const void* from, size_t bytes) override {
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, use()));
  }
  void wait() override { cuda_check(cudaStreamSynchronize(use())); }

  // Kernels, fills and copies that join the stream in between become the nodes of a graph, in their order. The pool is not
  // asked meanwhile: a captured allocation would belong to the graph (graph.h gives each tensor its place instead).
  bool captures() const override { return true; }
  void prepare_block() override {  // what the pool kept in pieces would not serve for one large block
    wait();
    cuda_check(cudaMemPoolTrimTo(pool_, 0));
  }
  void begin_capture() override { cuda_check(cudaStreamBeginCapture(use(), cudaStreamCaptureModeThreadLocal)); }
  std::shared_ptr<void> end_capture() override {
    cudaGraph_t graph = nullptr;
    cuda_check(cudaStreamEndCapture(use(), &graph));
    cudaGraphExec_t ready = nullptr;
    const cudaError_t error = cudaGraphInstantiate(&ready, graph, 0);
    cudaGraphDestroy(graph);
    cuda_check(error);
    // Its last launch may still run when it is given up.
    return std::shared_ptr<void>(ready, [this](void* g) {
      cudaStreamSynchronize(stream_);
      cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(g));
    });
  }
  void launch_capture(void* graph) override { cuda_check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), use())); }

  void* take(size_t bytes) override {
    void* p = nullptr;
    cudaError_t error = cudaMallocAsync(&p, bytes, use());
    if (error == cudaErrorMemoryAllocation) {  // the pool may hold enough, in pieces: hand them back and ask again
      cudaGetLastError();
      wait();
      cuda_check(cudaMemPoolTrimTo(pool_, 0));
      error = cudaMallocAsync(&p, bytes, use());
    }
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      size_t free = 0, total = 0;
      cuda_check(cudaMemGetInfo(&free, &total));
      throw OutOfMemory(name() + ": memory is out: " + mebibytes(bytes) + " more are wanted; " + mebibytes(free) +
                            " of " + mebibytes(total) + " are free, " + mebibytes(bytes_live()) +
                            " in use here, the largest tensors " + largest(),
                        bytes_live() + free, std::source_location::current());
    }
    cuda_check(error);
    sizes_[p] = bytes;
    return p;
  }
  // Runs in destructors: an error here was caused earlier, and the next launch or wait reports it.
  void give(void* p, size_t) override {
    sizes_.erase(p);
    if (cudaSetDevice(index_) == cudaSuccess) cudaFreeAsync(p, stream_);
  }

 private:
  static std::string mebibytes(size_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }
  std::string largest() {  // of the tensors alive, in words
    std::vector<size_t> sizes;
    for (const auto& [p, bytes] : sizes_) sizes.push_back(bytes);
    std::sort(sizes.begin(), sizes.end(), std::greater<>());
    std::string text;
    for (size_t i = 0; i < std::min<size_t>(3, sizes.size()); ++i) text += (i ? ", " : "") + mebibytes(sizes[i]);
    return text.empty() ? "none" : text;
  }
  cudaStream_t use() const {
    cuda_check(cudaSetDevice(index_));  // another device of the process may have been current
    return stream_;
  }
  const int index_;
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  Staging staging_;
  std::map<void*, size_t> sizes_;  // of what is allocated: for the message when memory is out
};

Device& open(int index) {
  const Machine m = machine();
  if (m.gpus == 0) unavailable("cuda: " + m.fault + ", or use device cpu");
  if (index >= m.gpus)
    unavailable("cuda: no such GPU: this machine has cuda:0 to cuda:" + std::to_string(m.gpus - 1) + "; got cuda:" +
                std::to_string(index));
  if (const std::string fault = probe(index); !fault.empty())
    unavailable("cuda:" + std::to_string(index) + ": this build's kernels do not run there: " + fault +
                "; build for it with CMAKE_CUDA_ARCHITECTURES, or use device cpu");
  // Never destroyed: the driver may be gone before static storage is.
  static std::mutex mutex;
  static auto& devices = *new std::vector<std::unique_ptr<CudaDevice>>;
  const std::lock_guard lock(mutex);
  if (devices.size() < size_t(m.gpus)) devices.resize(size_t(m.gpus));
  if (!devices[size_t(index)]) devices[size_t(index)] = std::make_unique<CudaDevice>(index);
  return *devices[size_t(index)];
}

bool available() { return machine().gpus > 0 && probe(0).empty(); }

BackendFacts facts() {
  const Machine m = machine();
  BackendFacts all{.driver = m.fault.empty() ? m.driver : m.fault, .cublaslt = blas_version(), .devices = {}};
  for (int i = 0; i < m.gpus; ++i) {
    DeviceFacts d;
    d.name = "cuda:" + std::to_string(i);
    d.fault = probe(i);
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) == cudaSuccess) {
      d.product = properties.name;
      d.capability = tenths(properties.major * 10 + properties.minor);
      d.memory = properties.totalGlobalMem;
    }
    cudaFuncAttributes attributes;
    if (d.fault.empty() && cudaFuncGetAttributes(&attributes, probe_kernel) == cudaSuccess)
      d.kernels = tenths(attributes.ptxVersion);
    cudaGetLastError();
    all.devices.push_back(d);
  }
  return all;
}

const DeviceOpener opener{"cuda", open, available, facts};

}  // namespace
}  // namespace taper::cuda
