// Profile: gathers kernel times on the calling thread and product times from every thread.
#include "tensor/profile.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "tensor/parallel.h"
#include "tensor/raise.h"

namespace taper {
namespace {

std::mutex mutex;
struct Call {  // its marks are read at the end, so that timing does not make the device wait
  const char* name;
  Device* device;
  Device::Mark begin, end;
};
std::vector<Call> calls;
double gemm_seconds, gemm_flops;

}  // namespace

void profile_start() {
  calls.clear();
  gemm_seconds = gemm_flops = 0;
  profiling = true;
}

Profile profile_stop() {
  profiling = false;
  Profile p;
  std::map<std::string, ProfileEntry> kernels;
  for (const Call& c : calls) {
    ProfileEntry& entry = kernels[c.name];
    entry.name = c.name;
    ++entry.calls;
    entry.seconds += c.device->seconds_between(c.begin, c.end);
  }
  calls.clear();
  for (auto& [name, entry] : kernels) p.kernels.push_back(entry), p.busy_seconds += entry.seconds;
  p.busy_seconds *= thread_count();
  std::ranges::stable_sort(p.kernels, std::greater{}, &ProfileEntry::seconds);
  p.gemm_seconds = gemm_seconds;
  p.gemm_flops = gemm_flops;
  return p;
}

void profile_gemm(double seconds, double flops) {
  const std::lock_guard lock(mutex);
  gemm_seconds += seconds;
  gemm_flops += flops;
}

void ProfileRange::end() { calls.push_back({name_, &device_, begin_, device_.mark()}); }

void wait_for(const char* name, Device& device) {
  try {
    device.synchronize();
  } catch (const Error& e) {
    throw Error(std::string(name) + ": " + e.what(), e.at, e.code);
  }
}

}  // namespace taper
