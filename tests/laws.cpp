// taper_laws [ROOM...] [--complete] [--verbose] [--law NAME]... [--examples N] [--records FILE --commit HASH]: holds the
// ops' cases to the laws; exit 1 if one fails. --records appends one JSON line a room and law. Law huge only when named.
// The device is the CPU unless TAPER_TEST_DEVICE names another.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "tensor/error.h"
#include "tensor/file.h"
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

struct Options {
  bool complete = false, verbose = false;
  HoldOptions hold;
  std::string records, commit;
};

int hold_case(const OpCase& c, Device& device, const Options& o) {
  struct Sum {
    int64_t tries = 0;
    int records = 0, failed = 0;
    double worst = 0;
  };
  std::map<std::string, Sum> laws;
  int faults = 0;
  for (const LawRecord& r : hold(c, device, o.hold)) {
    Sum& s = laws[r.law];
    s.tries += r.tries;
    ++s.records;
    s.worst = std::isnan(r.value) || std::isnan(s.worst) ? std::nan("") : std::max(s.worst, r.value);
    if (!r.pass) ++s.failed, ++faults;
    if (!r.pass || o.verbose)
      fmt::print("{} {} {} [{}] {}: {:.3e}, limit {:.1e}{}{}\n", r.pass ? "ok  " : "FAIL", c.room, r.law, r.example, r.subject,
                 r.value, r.limit, r.pass || r.detail.empty() ? "" : "\n     ", r.pass ? "" : r.detail);
  }
  for (const std::string& law : laws_of(c, device))
    if (o.hold.laws.empty() && !laws.contains(law)) fmt::print("FAIL {}: no record of law {}\n", c.room, law), ++faults;
  for (const auto& [law, s] : laws) {
    if (!o.records.empty())
      append_line(o.records, fmt::format(R"({{"commit":"{}","device":"{}","room":"{}","law":"{}","records":{},"tries":{},"worst":{},"failed":{}}})", o.commit,
                                         device.product(), c.room, law, s.records, s.tries,
                                         std::isfinite(s.worst) ? fmt::format("{:.3e}", s.worst) : "null", s.failed));
    fmt::print("{:<18} {:<11} {:>5} records {:>6} tries, worst {:.2e}{}\n", c.room, law, s.records, s.tries, s.worst,
               s.failed ? fmt::format(", {} FAILED", s.failed) : "");
  }
  return faults;
}

}  // namespace

int main(int argc, char** argv) try {
  Options o;
  std::vector<std::string> rooms;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    const auto value = [&] {
      check(i + 1 < argc, Exit::usage, "{} wants a value", a);
      return std::string(argv[++i]);
    };
    if (a == "--complete") o.complete = true;
    else if (a == "--verbose") o.verbose = true;
    else if (a == "--law") o.hold.laws.push_back(value());
    else if (a == "--examples") o.hold.examples = std::stoul(value());
    else if (a == "--records") o.records = value();
    else if (a == "--commit") o.commit = value();
    else rooms.push_back(a);
  }
  Device& device = tested_device();
  int faults = o.complete ? completeness() : 0, held = 0;
  for (const OpCase& c : all_cases()) {
    if (o.complete && rooms.empty()) break;
    if (!rooms.empty() && std::ranges::find(rooms, c.room) == rooms.end()) continue;
    faults += hold_case(c, device, o);
    ++held;
  }
  if (!rooms.empty() && held < int(rooms.size())) fmt::print("FAIL: no case for one of the rooms named\n"), ++faults;
  fmt::print("{}\n", faults ? fmt::format("{} faults", faults) : "all laws hold");
  return faults != 0;
} catch (const Error& e) {
  fmt::print(stderr, "taper_laws: {}\n", e.what());
  return int(e.code);
}
