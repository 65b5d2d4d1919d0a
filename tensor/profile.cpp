// Profile: gathers kernel times on the calling thread and product times from every thread.
#include "tensor/profile.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "tensor/device.h"
#include "tensor/parallel.h"

namespace taper {
namespace {

std::mutex mutex;
std::map<std::string, ProfileEntry> kernels;
double gemm_seconds, gemm_flops;

}  // namespace

void profile_start() {
  kernels.clear();
  gemm_seconds = gemm_flops = 0;
  profiling = true;
}

Profile profile_stop() {
  profiling = false;
  Profile p;
  for (auto& [name, entry] : kernels) p.kernels.push_back(entry), p.busy_seconds += entry.seconds;
  p.busy_seconds *= thread_count();
  std::ranges::stable_sort(p.kernels, std::greater{}, &ProfileEntry::seconds);
  p.gemm_seconds = gemm_seconds;
  p.gemm_flops = gemm_flops;
  return p;
}

void profile_kernel(const char* name, double seconds) {
  const std::lock_guard lock(mutex);
  ProfileEntry& entry = kernels[name];
  entry.name = name;
  ++entry.calls;
  entry.seconds += seconds;
}

void profile_gemm(double seconds, double flops) {
  const std::lock_guard lock(mutex);
  gemm_seconds += seconds;
  gemm_flops += flops;
}

void ProfileRange::end() {
  device_.synchronize();
  profile_kernel(name_, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count());
}

}  // namespace taper
