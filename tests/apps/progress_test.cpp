// The progress line: its text, its estimate, and when colour is allowed.
#include "apps/progress.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <thread>

using namespace taper;

TEST_CASE("progress: durations are short") {
  CHECK(duration_text(0) == "0s");
  CHECK(duration_text(45.2) == "45s");
  CHECK(duration_text(200) == "3m20s");
  CHECK(duration_text(5 * 3600 + 125) == "5h02m");
  CHECK(duration_text(2 * 86400 + 3 * 3600) == "2d03h");
}

TEST_CASE("progress: the line, and a rate that leaves out the first step and what lies between steps") {
  Progress p(10, 400, 1000, false, false);
  const auto sleep = [](int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); };
  p.stepping();
  sleep(300);  // the first step warms up
  p.stepped(11);
  CHECK(p.tokens_per_second() == 0);
  p.logged({.step = 11, .loss = 2.34567, .norm = 0.5, .lr = 1.2e-3});
  CHECK(p.line() == "step  11/400 | loss 2.3457 | norm 0.500 | lr 1.20e-03");
  sleep(300);  // an evaluation
  p.stepping();
  sleep(20);
  p.stepped(12);
  CHECK(p.tokens_per_second() < 1000 / 0.020);
  CHECK(p.tokens_per_second() > 1000 / 0.250);
  CHECK(p.seconds() >= 0.320);
  CHECK(p.line().starts_with("step  12/400 | loss 2.3457 | norm 0.500 | lr 1.20e-03 | "));
  CHECK(p.line().find(" tok/s | eta ") != std::string::npos);
}

TEST_CASE("progress: color marks the loss and nothing else") {
  Progress p(0, 4, 10, false, true);
  CHECK(p.line() == "step 0/4 | loss \x1b[1m0.0000\x1b[0m | norm 0.000 | lr 0.00e+00");
}

TEST_CASE("progress: NO_COLOR beats FORCE_COLOR beats the terminal") {
  for (const char* name : {"NO_COLOR", "CLICOLOR_FORCE", "FORCE_COLOR"}) unsetenv(name);
  setenv("TERM", "dumb", 1);
  CHECK(!terminal_stderr());
  CHECK(!color_stderr());
  setenv("FORCE_COLOR", "1", 1);
  CHECK(color_stderr());
  setenv("NO_COLOR", "1", 1);
  CHECK(!color_stderr());
  setenv("NO_COLOR", "", 1);  // empty: not set
  CHECK(color_stderr());
  for (const char* name : {"NO_COLOR", "FORCE_COLOR", "TERM"}) unsetenv(name);
}
