// Kernel: one named slot per device, filled by the files that implement it. No stubs, no #ifdef.
//
//   inline constinit Kernel<XForward> x_forward{"x.forward"};       in tensor/ops/x.h
//   const Implement f{x_forward, DeviceKind::cpu, forward};         in tensor/ops/x.cpp
//   x_forward({.x = x, .y = y});                                    anywhere
//
// Args is a struct of named arguments with a `Device& device() const`. Every field has a default.
#pragma once
#include <string>
#include <vector>

#include "tensor/profile.h"
#include "tensor/tensor.h"

namespace taper {

struct KernelSlots {  // what the registry shows of a kernel
  const char* name;
  bool filled[device_kinds_with_kernels];
};

template <class Args>
struct Kernel {
  const char* name;
  void (*impl[device_kinds_with_kernels])(const Args&) = {};

  void operator()(const Args& a) const {
    const DeviceKind kind = a.device().kind();
    if (kind == DeviceKind::plan) return;
    auto f = impl[size_t(kind)];
    if (!f)
      raise(std::string(name) + ": no " + taper::name(kind) + " implementation in this build");
    if (a.device().defers()) return a.device().defer([f, a] { f(a); });
    {
      const ProfileRange range(name, a.device());
      f(a);
    }
    if (sync_every_op) wait_for(name, a.device());
  }
};

// The kernels that at least one file implements. For tests and `taper info`.
std::vector<KernelSlots> registered_kernels();
void register_kernel(const char* name, DeviceKind kind);

template <class Args>
struct Implement {
  Implement(Kernel<Args>& k, DeviceKind d, void (*f)(const Args&)) {
    k.impl[size_t(d)] = f;
    register_kernel(k.name, d);
  }
};

}  // namespace taper
