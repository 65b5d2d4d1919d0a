// Signals: one flag, set by the first signal; the second leaves without a word.
#include "apps/signals.h"

#include <unistd.h>

#include <csignal>

#include "tensor/error.h"

namespace taper {
namespace {

volatile std::sig_atomic_t first = 0;
constexpr int caught[] = {SIGINT, SIGTERM, SIGUSR1};
struct sigaction before[std::size(caught)];

void on_signal(int number) {
  if (first) _exit(128 + number);
  first = number;
}

}  // namespace

StopSignal::StopSignal() {
  first = 0;
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (size_t i = 0; i < std::size(caught); ++i)
    check(sigaction(caught[i], &action, &before[i]) == 0, "signals: cannot catch signal {}", caught[i]);
}

StopSignal::~StopSignal() {
  for (size_t i = 0; i < std::size(caught); ++i) sigaction(caught[i], &before[i], nullptr);
}

int StopSignal::received() const { return first; }

}  // namespace taper
