// Profile: where the time of a step goes, by kernel and in matrix products. Off unless asked for. And the switch
// that makes every kernel wait, so that a fault inside one is found at its name.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "tensor/device.h"

namespace taper {

struct ProfileEntry {
  std::string name;
  int64_t calls = 0;
  double seconds = 0;  // the device's time between the call's begin and end; a kernel that calls others includes them
};

struct Profile {
  std::vector<ProfileEntry> kernels;  // by falling time
  double gemm_seconds = 0;            // summed over the threads that ran the products
  double gemm_flops = 0;
  double busy_seconds = 0;            // summed over threads: time inside kernels
};

inline bool profiling = false;         // the one switch; set before the work, not during it
void profile_start();                  // clears and turns on
Profile profile_stop();                // turns off and returns what was gathered

void profile_gemm(double seconds, double flops);  // thread safe

inline bool sync_every_op = false;     // --sync-every-op
void wait_for(const char* name, Device& device);  // an error of the device is raised with the kernel's name in front

class ProfileRange {  // times one kernel call
 public:
  ProfileRange(const char* name, Device& device) : name_(name), device_(device) {
    if (profiling) begin_ = device.mark();
  }
  ~ProfileRange() {
    if (profiling) end();
  }

 private:
  void end();
  const char* name_;
  Device& device_;
  Device::Mark begin_;
};

}  // namespace taper
