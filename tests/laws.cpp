// taper_laws [ROOM...] [--complete] [--verbose]: holds the ops' cases to the laws; exit 1 if one fails.
// The device is the CPU unless TAPER_TEST_DEVICE names another.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>

#include "tensor/kernel.h"
#include "tests/support/laws.h"

using namespace taper;
using namespace taper::test;

namespace {

// Every op has a case, every case an op; every kernel runs on the CPU.
int completeness() {
  int faults = 0;
  auto fault = [&](const std::string& text) { fmt::print("incomplete: {}\n", text), ++faults; };
  std::set<std::string> covered, registered;
  for (const OpCase& c : all_cases()) {
    for (const std::string& op : c.ops) covered.insert(op);
    if (c.ops.empty() && c.checks.empty()) fault(c.room + " has neither an op nor a check");
    if (!c.ops.empty() && c.examples.empty()) fault(c.room + " has no example");
  }
  for (const Op* op : registered_ops())
    if (std::string_view(op->name) != "leaf") registered.insert(op->name);
  for (const std::string& op : registered)
    if (!covered.contains(op)) fault("op " + op + " has no case");
  for (const std::string& op : covered)
    if (!registered.contains(op)) fault("a case covers " + op + ", which is not an op");
  for (const KernelSlots& k : registered_kernels())
    if (!k.filled[size_t(DeviceKind::cpu)]) fault(std::string("kernel ") + k.name + " has no cpu implementation");
  fmt::print("{} cases, {} ops, {} kernels: {}\n", all_cases().size(), registered.size(), registered_kernels().size(),
             faults ? "incomplete" : "complete");
  return faults;
}

int hold_case(const OpCase& c, Device& device, bool verbose) {
  struct Sum {
    int64_t tries = 0;
    int records = 0, failed = 0;
    double worst = 0;
  };
  std::map<std::string, Sum> laws;
  int faults = 0;
  for (const LawRecord& r : hold(c, device)) {
    Sum& s = laws[r.law];
    s.tries += r.tries;
    ++s.records;
    s.worst = std::isnan(r.value) || std::isnan(s.worst) ? std::nan("") : std::max(s.worst, r.value);
    if (!r.pass) ++s.failed, ++faults;
    if (!r.pass || verbose)
      fmt::print("{} {} {} [{}] {}: {:.3e}, limit {:.1e}{}{}\n", r.pass ? "ok  " : "FAIL", c.room, r.law, r.example, r.subject,
                 r.value, r.limit, r.pass || r.detail.empty() ? "" : "\n     ", r.pass ? "" : r.detail);
  }
  for (const std::string& law : laws_of(c, device))
    if (!laws.contains(law)) fmt::print("FAIL {}: no record of law {}\n", c.room, law), ++faults;
  for (const auto& [law, s] : laws)
    fmt::print("{:<18} {:<11} {:>5} records {:>6} tries, worst {:.2e}{}\n", c.room, law, s.records, s.tries, s.worst,
               s.failed ? fmt::format(", {} FAILED", s.failed) : "");
  return faults;
}

}  // namespace

int main(int argc, char** argv) try {
  bool complete = false, verbose = false;
  std::vector<std::string> rooms;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    if (a == "--complete") complete = true;
    else if (a == "--verbose") verbose = true;
    else rooms.push_back(a);
  }
  const char* name = std::getenv("TAPER_TEST_DEVICE");
  Device& device = open_device(name ? name : "cpu");
  int faults = complete ? completeness() : 0, held = 0;
  for (const OpCase& c : all_cases()) {
    if (complete && rooms.empty()) break;
    if (!rooms.empty() && std::ranges::find(rooms, c.room) == rooms.end()) continue;
    faults += hold_case(c, device, verbose);
    ++held;
  }
  if (!rooms.empty() && held < int(rooms.size())) fmt::print("FAIL: no case for one of the rooms named\n"), ++faults;
  fmt::print("{}\n", faults ? fmt::format("{} faults", faults) : "all laws hold");
  return faults != 0;
} catch (const Error& e) {
  fmt::print(stderr, "taper_laws: {}\n", e.what());
  return int(e.code);
}
