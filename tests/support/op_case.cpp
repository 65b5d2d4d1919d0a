// The registry of cases, sorted by room.
#include "tests/support/op_case.h"

#include <algorithm>

namespace taper::test {

static std::vector<OpCase>& table() {
  static std::vector<OpCase> cases;
  return cases;
}

RegisterCase::RegisterCase(OpCase c) { table().push_back(std::move(c)); }

const std::vector<OpCase>& all_cases() {
  std::ranges::sort(table(), {}, &OpCase::room);
  return table();
}

}  // namespace taper::test
