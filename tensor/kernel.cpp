// Kernels: the list of filled slots.
#include "tensor/kernel.h"

#include <algorithm>
#include <string_view>

namespace taper {

static std::vector<KernelSlots>& table() {
  static std::vector<KernelSlots> kernels;
  return kernels;
}

void register_kernel(const char* name, DeviceKind kind) {
  auto& kernels = table();
  auto it = std::ranges::find_if(kernels, [&](const KernelSlots& k) { return std::string_view(k.name) == name; });
  if (it == kernels.end()) it = kernels.insert(kernels.end(), KernelSlots{name, {}});
  it->filled[size_t(kind)] = true;
}

std::vector<KernelSlots> registered_kernels() {
  std::vector<KernelSlots> kernels = table();
  std::ranges::sort(kernels, {}, [](const KernelSlots& k) { return std::string_view(k.name); });
  return kernels;
}

}  // namespace taper
