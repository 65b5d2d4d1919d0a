// Tiny: a run that takes a second, for tests of everything around the numbers.
#pragma once
#include "tests/apps/program.h"

namespace taper::test {

// A corpus, its shards and a configuration in a scratch directory.
struct Tiny : Scratch {
  Tiny() {
    write_corpus(*this / "text");
    const Ended e = run(*this, {"prepare", (*this / "text").string(), "--out", data(), "--validation", "0.2"});
    REQUIRE_MESSAGE(e.code == 0, e.err);
    write_file(*this / "tiny.toml", config_text());
  }
  std::string data() const { return (*this / "data").string(); }
  std::string config() const { return (*this / "tiny.toml").string(); }
  std::string dir(const std::string& name) const { return (*this / name).string(); }
  std::string config_text() const {
    return "[run]\ndevice = \"cpu\"\n[model]\npost = true\nd_model = 16\nlayers = 2\nheads = 4\nhead_dim = 8\nd_state = 8\n"
           "[data]\ntrain = \"" + data() + "\"\nsequence = 32\n[train]\nsteps = 40\nbatch = 2\naccumulate = 2\n"
           "[optimizer]\nlr = 1e-2\n[eval]\nevery = 15\ntokens = 500\n[checkpoint]\nevery = 5\n[log]\nevery = 3\n";
  }
  std::vector<std::string> train(const std::string& run, std::vector<std::string> more = {}) const {
    std::vector<std::string> a{"train", config(), "--set", "run.dir=" + dir(run)};
    a.insert(a.end(), more.begin(), more.end());
    return a;
  }
};

}  // namespace taper::test
