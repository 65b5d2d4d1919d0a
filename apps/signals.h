// Signals: the first Ctrl-C, SIGTERM or SIGUSR1 asks the run to save and stop; a second ends it at once.
#pragma once

namespace taper {

// While it lives, the three signals are caught. One at a time.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  // The signal that came, or 0. A second signal ends the process with 128 + its number (130, 143).
  int received() const;
};

}  // namespace taper
