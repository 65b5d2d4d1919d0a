// A CUDA runtime without a GPU, linked in place of the real one: memory is the host's, kernels do nothing. It answers as
// the environment says, so that what a program does about a GPU's faults can be tested anywhere.
//
//   FAKE_GPUS=N          how many there are (default 1)
//   FAKE_NO_IMAGE=1      none of them can run the kernels of this build
//   FAKE_MIB=N           memory of each (default 1024)
//   FAKE_WAITS=FILE      at its end the program writes how often it waited for the GPU
//   FAKE_FAULT=NAME:N    the Nth launch of a kernel whose name contains NAME fails while it runs: the next call that
//                        waits, and every call after it, returns the error
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>

namespace {

int number(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text ? std::atoi(text) : otherwise;
}

std::map<const void*, std::string>& kernels() {  // by the address that names them on the host
  static auto& kernels = *new std::map<const void*, std::string>;
  return kernels;
}
std::map<void*, size_t>& blocks() {
  static auto& blocks = *new std::map<void*, size_t>;
  return blocks;
}
size_t memory() { return size_t(number("FAKE_MIB", 1024)) << 20; }
size_t used = 0;
bool faulted = false;
cudaError_t last = cudaSuccess;

cudaError_t done(cudaError_t error = cudaSuccess) {
  if (error != cudaSuccess) last = error;
  return error;
}

// Calls that wait: for the stream, for an event, for a copy to memory that is not pinned.
struct Waits {
  int64_t n = 0;
  ~Waits() {
    if (const char* file = std::getenv("FAKE_WAITS")) std::ofstream(file) << n;
  }
} waits;

cudaError_t waited() { return done(faulted ? cudaErrorIllegalAddress : cudaSuccess); }

cudaError_t launch(const void* kernel) {
  if (faulted) return waited();
  static const std::string fault = std::getenv("FAKE_FAULT") ? std::getenv("FAKE_FAULT") : "";
  static int left = 0;
  const size_t colon = fault.find(':');
  if (colon != fault.npos && kernels()[kernel].find(fault.substr(0, colon)) != std::string::npos &&
      ++left == std::atoi(fault.c_str() + colon + 1))
    faulted = true;
  return done();
}

dim3 grid, block;
size_t shared;
cudaStream_t stream;

}  // namespace

extern "C" {

// What nvcc's host code calls.
void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  kernels()[host] = name;
}
unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t s, cudaStream_t in) {
  grid = g, block = b, shared = s, stream = in;
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* g, dim3* b, size_t* s, void* in) {
  *g = grid, *b = block, *s = shared, *static_cast<cudaStream_t*>(in) = stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(host));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3, dim3, void**, size_t, cudaStream_t) {
  return launch(reinterpret_cast<const void*>(kernel));
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void* kernel, void**) { return launch(kernel); }

const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorNoKernelImageForDevice: return "cudaErrorNoKernelImageForDevice";
    default: return "cudaErrorOfTheFake";
  }
}
const char* cudaGetErrorString(cudaError_t e) {
  return e == cudaErrorIllegalAddress ? "an illegal memory access was encountered" : "as the fake was told";
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = last;
  last = faulted ? cudaErrorIllegalAddress : cudaSuccess;
  return error;
}

cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = number("FAKE_GPUS", 1), waited(); }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return waited(); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = cudaDeviceProp{};
  std::strcpy(p->name, "Fake GPU");
  p->major = 7, p->minor = 5;
  p->totalGlobalMem = memory();
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor                ? 7
           : attribute == cudaDevAttrComputeCapabilityMinor              ? 5
           : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin        ? 99 << 10
           : attribute == cudaDevAttrMaxSharedMemoryPerMultiprocessor    ? 100 << 10
                                                                         : 64;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void*) {
  *a = cudaFuncAttributes{};
  a->ptxVersion = 75;
  return done(number("FAKE_NO_IMAGE", 0) ? cudaErrorNoKernelImageForDevice : cudaSuccess);
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void*, const cudaLaunchConfig_t*) {
  return *clusters = 1, cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char*, void**, unsigned, unsigned long long, cudaDriverEntryPointQueryResult*) {
  return done(cudaErrorNotSupported);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) { return *s = nullptr, cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return ++waits.n, waited(); }
cudaError_t cudaEventCreate(cudaEvent_t* e) { return *e = nullptr, cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { return *e = nullptr, cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return ++waits.n, waited(); }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) { return *ms = 1, waited(); }

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) { return waited(); }
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) { return *graph = nullptr, waited(); }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t, unsigned long long) { return *ready = nullptr, waited(); }
cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return waited(); }

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) { return *pool = nullptr, cudaSuccess; }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* bytes) { return *static_cast<uint64_t*>(bytes) = used, cudaSuccess; }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = memory(), *free = *total - used;
  return waited();
}
cudaError_t cudaMallocHost(void** p, size_t bytes) { return *p = std::calloc(1, bytes), cudaSuccess; }
cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t) {
  if (faulted) return waited();
  if (used + bytes > memory()) return done(cudaErrorMemoryAllocation);
  used += bytes;
  *p = std::calloc(1, bytes);
  blocks()[*p] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t) {
  if (faulted) return waited();
  used -= blocks()[p];
  blocks().erase(p);
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int byte, size_t bytes, cudaStream_t) {
  if (!faulted) std::memset(p, byte, bytes);
  return waited();
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  if (kind == cudaMemcpyDeviceToHost) ++waits.n;
  if (!faulted && bytes > 0) std::memcpy(to, from, bytes);
  return waited();
}

// cuBLASLt has a runtime of its own and would look for a GPU: it is not here.
void* dlopen(const char* file, int flags) noexcept {
  if (file && std::strstr(file, "cublas")) return nullptr;
  static const auto real = reinterpret_cast<void* (*)(const char*, int)>(dlsym(RTLD_NEXT, "dlopen"));
  return real(file, flags);
}

}  // extern "C"
