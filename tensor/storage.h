// Storage: owns one allocation of a device and returns it. Shared by tensors, copied never.
#pragma once
#include "tensor/device.h"

namespace taper {

class Storage {
 public:
  Storage(Device& device, size_t bytes)
      : device(device), bytes(bytes), data(device.allocate(bytes)) {}
  ~Storage() { device.free(data, bytes); }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  Device& device;
  const size_t bytes;
  void* const data;
};

}  // namespace taper
