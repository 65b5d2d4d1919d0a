// A driver that is too old, or finds no GPU, or does not start: libcuda.so.1 as far as the runtime asks before it gives up.
//   FAKE_DRIVER_VERSION=12020   the CUDA that it speaks (default: 13.0's)
//   FAKE_DRIVER_INIT=100        what cuInit answers (default: no device; 999: unknown error)
#include <dlfcn.h>

#include <cstdlib>

namespace {
int number(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text ? std::atoi(text) : otherwise;
}
int not_there() { return 801; }  // CUDA_ERROR_NOT_SUPPORTED
}  // namespace

extern "C" {
int cuInit(unsigned) { return number("FAKE_DRIVER_INIT", 100); }
int cuDriverGetVersion(int* version) {
  *version = number("FAKE_DRIVER_VERSION", 13000);
  return 0;
}
int cuGetExportTable(const void** table, const void*) {
  *table = nullptr;
  return 1;  // CUDA_ERROR_INVALID_VALUE: there is none
}
int cuGetProcAddress_v2(const char* symbol, void** f, int, unsigned long long, int* found) {
  void* self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  *f = self ? dlsym(self, symbol) : nullptr;
  if (!*f) *f = reinterpret_cast<void*>(not_there);
  if (found) *found = 0;
  return 0;
}
int cuGetProcAddress(const char* symbol, void** f, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(symbol, f, version, flags, nullptr);
}
}
