// The registry of cases, sorted by room, and the devices that checks run on.
#include "tests/support/op_case.h"

#include <algorithm>
#include <cstdlib>

namespace taper::test {

static std::vector<OpCase>& table() {
  static std::vector<OpCase> cases;
  return cases;
}

RegisterCase::RegisterCase(OpCase c) { table().push_back(std::move(c)); }

Device& tested_device() {
  const char* name = std::getenv("TAPER_TEST_DEVICE");
  return open_device(name ? name : "cpu");
}
std::vector<Device*> cpu_and_tested_device() {
  Device &cpu = open_device("cpu"), &tested = tested_device();
  return &tested == &cpu ? std::vector{&cpu} : std::vector{&cpu, &tested};
}

const std::vector<OpCase>& all_cases() {
  std::ranges::sort(table(), {}, &OpCase::room);
  return table();
}

}  // namespace taper::test
