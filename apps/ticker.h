// Ticker: how far a countable job is, on stderr: in place on a terminal, elsewhere a line every ten seconds.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace taper {

class Ticker {
 public:
  explicit Ticker(std::string what) : what_(std::move(what)) {}
  ~Ticker();  // takes the line on the terminal away
  void operator()(int64_t done, int64_t all);

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  Clock::time_point begin_ = Clock::now(), last_ = begin_;
  bool drawn_ = false;
};

}  // namespace taper
