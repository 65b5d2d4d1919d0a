// Profile: where the time of a step goes, by kernel and in matrix products. Off unless asked for.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace taper {

class Device;

struct ProfileEntry {
  std::string name;
  int64_t calls = 0;
  double seconds = 0;  // wall time of the kernel call
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

void profile_kernel(const char* name, double seconds);
void profile_gemm(double seconds, double flops);  // thread safe

class ProfileRange {  // times one kernel call
 public:
  ProfileRange(const char* name, Device& device) : name_(name), device_(device) {
    if (profiling) begin_ = std::chrono::steady_clock::now();
  }
  ~ProfileRange() {
    if (profiling) end();
  }

 private:
  void end();
  const char* name_;
  Device& device_;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace taper
