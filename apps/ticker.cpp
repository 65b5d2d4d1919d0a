// Ticker: "piqa: 320 of 3676, eta 45s".
#include "apps/ticker.h"

#include "apps/progress.h"
#include "tensor/error.h"

namespace taper {

Ticker::~Ticker() {
  if (drawn_) fmt::print(stderr, "\r\033[K");
}

void Ticker::operator()(int64_t done, int64_t all) {
  const bool terminal = terminal_stderr();
  const auto now = Clock::now();
  if (std::chrono::duration<double>(now - last_).count() < (terminal ? 0.1 : 10)) return;
  last_ = now;
  const double seconds = std::chrono::duration<double>(now - begin_).count();
  const std::string line = fmt::format("{}: {} of {}, eta {}", what_, done, all, duration_text(seconds / double(done) * double(all - done)));
  if (terminal) fmt::print(stderr, "\r\033[K{}", line), drawn_ = true;
  else fmt::print(stderr, "{}\n", line);
  std::fflush(stderr);
}

}  // namespace taper
